"""Laws on trainers: when the optimizer steps and with what, and what becomes of the model and of a short window."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch

from ..cases import Case
from ..recipe import Recipe, Regime
from ..trainer import TrainerTrial, TwoWindows, steps_of
from ..trainer_arguments import PARTS, WINDOW
from ..trial import Observation, Trial
from ..verdict import Verdict
from .base import NOT_MEANT, PASS, Judgement, failing, law, needs_gradient, not_answered
from .numbers import judge_gradient, judge_value, ordinary

_SIZES = (1, 2, 4, 5, 8)
"""How many micro-batches the windows of STEP-3 have: one, and fewer and more than are usual."""

_NORMS = (0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
"""What people clip to."""

_OFF = "switch clipping off to be judged"


def needs_trainer(trial: Trial) -> str | None:
    return None if isinstance(trial, TrainerTrial) else "it is no trainer"


def needs_steps(trial: Trial) -> str | None:
    return needs_trainer(trial) or needs_gradient(trial)


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


def in_two_windows(trial: Trial, recipe: Recipe) -> TwoWindows | Judgement:
    """What the trainer did in two windows, in both of which there is something to train on."""
    assert isinstance(trial, TrainerTrial)
    case = trial.case_of_two(recipe)
    if {pair.logit[0] < PARTS for pair in case.pairing.pairs} != {True, False}:
        return NOT_MEANT
    found = trial.in_two_windows(case)
    return not_answered(found) if isinstance(found, Observation) else found


def judge_steps(seen: Observation, where: str) -> Judgement:
    """That a trainer stepped once in a window, and after its last backward."""
    taken = seen.window
    assert taken is not None
    steps = steps_of(taken)
    if steps > 1:
        return failing(f"the optimizer stepped {steps} times in {where}; once is right", "several")
    if steps and taken.steps and taken.late:
        told = f"{taken.late} of {taken.backwards} backward passes came after it"
        return failing(f"the optimizer stepped too early in {where}: {told}; step after the last one", "early")
    if steps and taken.gradient is None:
        told = "it was cleared first" if taken.backwards else "no backward ran"
        return failing(f"the optimizer stepped without a gradient in {where}: {told}", "no gradient")
    if steps:
        return PASS
    if taken.others:
        told = "the one that stepped holds other parameters; make it of model.parameters(), for each model anew"
    else:
        told = "its micro-batches train nothing; call the step() of an optimizer that has model.parameters()"
    return failing(f"the optimizer did not step in {where}, the model is as it was: {told}", "none")


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
    return looked if isinstance(looked, Judgement) else judge_steps(looked, "a short window" if short else "a window")


@law(
    "STEP-2",
    "over two windows the model moves, and against the gradient that the step was given",
    source="any trainer: a learning rate of 0, an optimizer of other parameters, a sign",
    budget=24,
    narrow=lambda space: {**space, "regime": (Regime.NORMAL, Regime.CALM)},
    excuse=needs_trainer,
    presumes=("CONTRACT-1", "STEP-1"),
)
def moves(trial: Trial, recipe: Recipe) -> Judgement:
    two = in_two_windows(trial, recipe)
    if isinstance(two, Judgement):
        return two
    moved = False
    for name, seen in (("first", two.first), ("second", two.second)):
        taken = seen.window
        assert taken is not None
        if not steps_of(taken):
            return NOT_MEANT  # which is for STEP-1
        if torch.equal(taken.before, taken.after):
            continue  # a warm-up may begin at 0
        moved = True
        if taken.gradient is not None and not _goes_down(taken.before, taken.after, taken.gradient):
            told = (
                "the model moves, and not against its gradient; a step takes from the parameters what the gradient says"
            )
            return failing(f"in the {name} window {told}", "sign")
    if moved:
        return PASS
    told = "make the learning rate more than 0, and end a warm-up that begins at 0 by the second window"
    return failing(f"the optimizer stepped in two windows, and the model is as it was: {told}", "still")


def _goes_down(before: Tensor, after: Tensor, gradient: Tensor) -> bool:
    """Whether a step goes against the gradient in that part of it which a decay of the parameters does not explain."""
    step, slope, decay = ((after - before).double(), gradient.double(), before.double())
    size = float(decay.square().sum())
    if size:
        step, slope = (each - decay * (float((each * decay).sum()) / size) for each in (step, slope))
    scale = float(step.norm() * slope.norm())
    return not math.isfinite(scale) or not float(gradient.abs().sum()) or -float((step * slope).sum()) > 0.01 * scale


@law(
    "STEP-3",
    "every micro-batch counts, in windows of one, two, four, five and eight",
    source="any trainer: windows of another size than it was written for; the last and short one of an epoch",
    budget=12,
    narrow=ordinary,
    excuse=needs_trainer,
    presumes=("CONTRACT-1", "STEP-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1"),
)
def every_micro_batch(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, TrainerTrial)
    judgements = []
    for parts in _SIZES:
        case = trial.case_of(recipe, parts)
        if not case.pairing.pairs:
            continue
        where = f"a window of {parts} micro-batch{'es' if parts > 1 else ''}"
        seen = trial.in_window(case, parts, parts)
        if seen.problem is not None:
            return not_answered(seen)
        for judgement in _in_window(trial, seen, parts, where):
            if judgement.verdict is Verdict.FAIL:
                return judgement
            judgements.append(judgement)
    return next(
        (judgement for judgement in judgements if judgement.verdict is Verdict.PASS), (*judgements, NOT_MEANT)[0]
    )


def _in_window(trial: TrainerTrial, seen: Observation, parts: int, where: str) -> Iterator[Judgement]:
    steps = judge_steps(seen, where)
    if steps.verdict is Verdict.FAIL:
        yield steps
    if trial.candidate.gradient:
        if seen.gradients is not None and (unseen := _unseen(seen, parts)):
            yield failing(f"in {where}, {' and '.join(map(str, unseen))} of them train nothing", "unseen")
        yield _within(judge_gradient(trial, seen), where)
    if not trial.silent:
        yield _within(judge_value(trial, seen), where)


def _unseen(seen: Observation, parts: int) -> list[str]:
    """The micro-batches with labels that count, and no gradient."""
    assert seen.gradients is not None
    found = seen.gradients["logits"].chunk(parts)
    right = seen.case.oracle.gradients["logits"].chunk(parts)
    ordinals = (f"number {number}" for number in range(1, parts + 1))
    return [
        ordinal
        for ordinal, own, expected in zip(ordinals, found, right, strict=True)
        if not bool(own.any()) and bool(expected.any())
    ]


@law(
    "STEP-4",
    "no gradient of one window is left in the next one's step",
    source="any trainer: zero_grad() forgotten, or called on another optimizer",
    budget=24,
    narrow=ordinary,
    excuse=needs_steps,
    presumes=("CONTRACT-1", "STEP-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "GRAD-1"),
)
def nothing_left(trial: Trial, recipe: Recipe) -> Judgement:
    two = in_two_windows(trial, recipe)
    if isinstance(two, Judgement):
        return two
    for name, seen in (("first", two.first), ("second", two.second)):
        where = f"the {name} of two windows"
        steps = judge_steps(seen, where)
        if steps.verdict is Verdict.FAIL:
            return steps
        if name == "second" and two.left is not None and bool(two.left.any()):
            told = (
                "the gradient of the first window is still in the second one's step; call zero_grad() after each step"
            )
            return failing(told, "left")
        judgement = _within(judge_gradient(trial, seen), where)
        if judgement.verdict is Verdict.FAIL:
            return judgement
    return judgement


@law(
    "STEP-5",
    "the gradient that the optimizer steps with is neither scaled nor clipped",
    source="any trainer: torch.amp.GradScaler without unscale_(); transformers' Trainer clips to norm 1 by default",
    budget=24,
    narrow=ordinary,
    excuse=needs_steps,
    presumes=("CONTRACT-1", "STEP-1", "ALIGN-1", "SELECT-1"),
)
def as_it_came(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, TrainerTrial)
    case = trial.case(recipe)
    if recipe.seed % 2:
        case = trial.variation(case, lambda batch: _loud(case, batch))
    if not case.pairing.pairs:
        return NOT_MEANT
    seen = trial.in_window(case, PARTS)
    if seen.problem is not None:
        return not_answered(seen)
    if seen.gradients is None:
        return NOT_MEANT  # which is for CONTRACT-2
    found, right = seen.gradients["logits"], case.oracle.gradients["logits"]
    bound = trial.bounds(seen).gradients["logits"]
    if bool(((found - right).abs() <= bound).all()) or not bool(found.isfinite().all()):
        return PASS
    told = _scaled(found, right, bound) or _clipped(found, right, bound)
    if told and "clipp" not in told and float(found.norm()) < float(right.norm()) and _same_norm(trial, recipe, found):
        told = f"{told}, and its norm is the same in another window: it is clipped; {_OFF}"
    return failing(told, "scaled") if told else NOT_MEANT  # of any other difference speak the laws on the loss


def _same_norm(trial: TrainerTrial, recipe: Recipe, found: Tensor) -> bool:
    """Whether the gradient of another window is as long as this one: no two are, but for those that are clipped."""
    case = trial.case(replace(recipe, seed=recipe.seed + 2))
    other = trial.in_window(trial.variation(case, lambda batch: _loud(case, batch)), PARTS)
    if other.gradients is None:
        return False
    return math.isclose(float(other.gradients["logits"].norm()), float(found.norm()), rel_tol=1e-4)


def _loud(case: Case, batch: Batch) -> Batch:
    """A batch with one label that counts, on a row that is sure of another class: its gradient has a norm above 1, to
    which most clip."""
    if not case.pairing.pairs:
        return batch
    pair = case.pairing.pairs[0]
    labels, logits = batch.tensor("labels"), batch.tensor("logits").clone()
    alone = torch.zeros_like(labels, dtype=torch.bool)
    alone[pair.label[0], pair.label[1]] = True
    term = case.spec.terms[0]
    assert term.ignore_index is not None
    logits[pair.logit] = 0.0
    logits[pair.logit][(pair.target + 1) % logits.shape[-1]] = 9.0
    return replace(batch, logits=logits, labels=torch.where(alone, labels, term.ignore_index))


def _scaled(found: Tensor, right: Tensor, bound: Tensor) -> str:
    """In words, by what all of the gradient is multiplied, and why, where that can be told; or ""."""
    size = float(right.square().sum())
    factor = float((found * right).sum()) / size if size else 0.0
    if not factor or bool(((found - factor * right).abs() > 2 * max(abs(factor), 1.0) * bound).any()):
        return ""
    told = f"every element of the gradient is {factor:.6g} times the right one"
    norm = float(found.norm())
    clipped = next((limit for limit in _NORMS if 0 < factor < 1 and abs(norm / limit - 1) < 1e-4), None)
    if clipped is not None:
        return f"{told}, and its norm is {clipped:g}: it is clipped; {_OFF}"
    if factor >= 2 and abs(math.log2(factor) - round(math.log2(factor))) < 1e-4:
        return f"{told}: unscale a loss that is scaled before the step, and average one that is summed"
    return told


def _clipped(found: Tensor, right: Tensor, bound: Tensor) -> str:
    limit = float(found.abs().amax())
    if limit and not bool(((found - right.clamp(-limit, limit)).abs() > 2 * bound).any()):
        return f"no element of the gradient is beyond ±{limit:.6g}: it is clipped by value; {_OFF}"
    return ""


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
    return _within(judgement, "a short window")


def _within(judgement: Judgement, where: str) -> Judgement:
    """A judgement that says in which window it fails."""
    if judgement.verdict is not Verdict.FAIL:
        return judgement
    return replace(judgement, message=f"in {where}: {judgement.message}")
