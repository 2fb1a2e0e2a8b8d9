"""Laws on trainers: when the optimizer steps, and what becomes of a last window that is short."""

from __future__ import annotations

from dataclasses import replace

from ..recipe import Recipe
from ..trainer import TrainerTrial
from ..trainer_arguments import PARTS, WINDOW
from ..trial import Observation, Trial
from ..verdict import Verdict
from .base import NOT_MEANT, PASS, Judgement, failing, law, not_answered
from .numbers import judge_gradient, judge_value, ordinary


def needs_trainer(trial: Trial) -> str | None:
    return None if isinstance(trial, TrainerTrial) else "it is no trainer"


def needs_window(trial: Trial) -> str | None:
    told = None if trial.binding.takes(WINDOW) else f"it does not ask for {WINDOW}: all it is given is one window"
    return needs_trainer(trial) or told


def stepped(trial: TrainerTrial, recipe: Recipe, short: bool) -> Observation | Judgement:
    """What the trainer did in a window that is full, or ``short`` of one to four micro-batches."""
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_MEANT
    observation = trial.in_window(case, PARTS + 1 + recipe.seed % PARTS if short else PARTS)
    return not_answered(observation) if observation.problem is not None else observation


@law(
    "STEP-1",
    "the optimizer steps once, after the last micro-batch, also where the window is short",
    source="a loop that steps at every G-th micro-batch alone never learns from the last ones",
    budget=40,
    excuse=needs_trainer,
)
def steps_once(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, TrainerTrial)
    short = trial.binding.takes(WINDOW) and recipe.seed % 2 == 1
    looked = stepped(trial, recipe, short)
    if isinstance(looked, Judgement):
        return looked
    window = "a short window" if short else "a full window"
    if looked.steps > 1:
        return failing(f"the optimizer stepped {looked.steps} times in {window}; once is right", "several")
    if trial.steps and not looked.steps:
        return failing(f"the optimizer did not step in {window}, whose micro-batches train nothing", "none")
    return PASS


@law(
    "TAIL-1",
    "a last window that is short of micro-batches is divided by what came, not by what was configured",
    source="LLaMA-Factory#10705",
    budget=60,
    narrow=ordinary,
    presumes=("CONTRACT-1", "STEP-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1"),
    excuse=needs_window,
    suggests=("tail-accumulation",),
)
def short_window(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, TrainerTrial)
    looked = stepped(trial, recipe, short=True)
    if isinstance(looked, Judgement):
        return looked
    judgement = judge_gradient(trial, looked) if trial.candidate.gradient else PASS
    if judgement.verdict is not Verdict.FAIL and not trial.silent:
        by_value = judge_value(trial, looked)
        judgement = judgement if by_value.verdict is Verdict.PASS else by_value
    if judgement.verdict is Verdict.FAIL:
        return replace(judgement, message=f"in a short window: {judgement.message}")
    return judgement
