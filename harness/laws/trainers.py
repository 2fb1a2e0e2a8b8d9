"""Laws on trainers: when the optimizer steps, which gradient it gets, how the model changes, and short windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch

from ..candidates.loss import Observation, Trial
from ..candidates.trainer import TrainerTrial, TwoWindows, steps_of
from ..candidates.trainer_arguments import PARTS, WINDOW
from ..cases.build import Case
from ..cases.recipe import Recipe, Regime
from ..results import Verdict
from .base import NOT_APPLICABLE, PASS, Judgement, failing, law, needs_gradient, not_answered, trains
from .numerics import judge_gradient, judge_value, ordinary

_SIZES = (1, 2, 4, 5, 8)
"""The numbers of micro-batches in the windows of STEP-3: one, and fewer and more than usual."""

_NORMS = (0.01, 0.05, 0.1, 0.2, 0.25, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Common clipping norms."""

_OFF = "switch off clipping before you check the trainer"


def needs_trainer(trial: Trial) -> str | None:
    return None if isinstance(trial, TrainerTrial) else "it is not a trainer"


def needs_steps(trial: Trial) -> str | None:
    return needs_trainer(trial) or needs_gradient(trial)


def needs_window(trial: Trial) -> str | None:
    reason = None if trial.binding.takes(WINDOW) else f"it does not take {WINDOW}, so it gets only one window"
    return needs_trainer(trial) or reason


def stepped(trial: TrainerTrial, recipe: Recipe, short: bool) -> Observation | Judgement:
    """Return what the trainer did in a full window, or in a ``short`` one of one to four micro-batches."""
    case = trial.case(recipe)
    if not trains(case):
        return NOT_APPLICABLE
    observation = trial.in_window(case, PARTS + 1 + recipe.seed % PARTS if short else PARTS)
    return not_answered(observation) if observation.problem is not None else observation


def in_two_windows(trial: Trial, recipe: Recipe) -> TwoWindows | Judgement:
    """Return what the trainer did in two windows that both have something to train on."""
    assert isinstance(trial, TrainerTrial)
    case = trial.case_of_two(recipe)
    if {pair.logit[0] < PARTS for pair in case.pairing.pairs} != {True, False}:
        return NOT_APPLICABLE
    found = trial.in_two_windows(case)
    return not_answered(found) if isinstance(found, Observation) else found


def judge_steps(observed: Observation, where: str) -> Judgement:
    """Judge that a trainer stepped once in a window, after its last backward pass."""
    taken = observed.window
    assert taken is not None
    steps = steps_of(taken)
    if steps > 1:
        return failing(f"the optimizer stepped {steps} times in {where}; expected one step", "several")
    if steps and taken.steps and taken.late:
        reason = f"{taken.late} of {taken.n_backward} backward passes came after the step"
        return failing(f"the optimizer stepped too early in {where}: {reason}; step after the last one", "early")
    if steps and taken.gradient is None:
        reason = "the gradient was cleared first" if taken.n_backward else "no backward ran"
        return failing(f"the optimizer stepped without a gradient in {where}: {reason}", "no gradient")
    if steps:
        return PASS
    if taken.others:
        reason = (
            "the optimizer that stepped holds other parameters; create it from model.parameters() for each new model"
        )
    else:
        reason = "its micro-batches train nothing; call step() on an optimizer that holds model.parameters()"
    return failing(f"the optimizer did not step in {where} and the model did not change: {reason}", "none")


@law(
    "STEP-1",
    "the optimizer steps once, after the last micro-batch, also where the window is short",
    source="a loop that steps only at every G-th micro-batch never learns from the last ones",
    budget=40,
    calls_again=True,
    skip_reason=needs_trainer,
)
def steps_once(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, TrainerTrial)
    short = trial.binding.takes(WINDOW) and recipe.seed % 2 == 1
    observed = stepped(trial, recipe, short)
    return (
        observed
        if isinstance(observed, Judgement)
        else judge_steps(observed, "a short window" if short else "a window")
    )


@law(
    "STEP-2",
    "over two windows the model moves, and against the gradient that the step was given",
    source="any trainer: a learning rate of 0, an optimizer of other parameters, a wrong sign",
    budget=24,
    calls_again=True,
    restrict=lambda space: {**space, "regime": (Regime.NORMAL, Regime.CALM)},
    skip_reason=needs_trainer,
    depends_on=("CONTRACT-1", "STEP-1"),
)
def moves(trial: Trial, recipe: Recipe) -> Judgement:
    two = in_two_windows(trial, recipe)
    if isinstance(two, Judgement):
        return two
    moved = False
    for name, observed in (("first", two.first), ("second", two.second)):
        taken = observed.window
        assert taken is not None
        if not steps_of(taken):
            return NOT_APPLICABLE  # STEP-1 judges this
        if torch.equal(taken.before, taken.after):
            continue  # a warm-up may begin at 0
        moved = True
        if taken.gradient is not None and not _goes_down(taken.before, taken.after, taken.gradient):
            reason = (
                "the model does not move against its gradient; a step must subtract the gradient from the parameters"
            )
            return failing(f"in the {name} window {reason}", "sign")
    if moved:
        return PASS
    reason = "use a learning rate above 0; a warm-up that begins at 0 must end by the second window"
    return failing(f"the optimizer stepped in two windows, but the model did not change: {reason}", "still")


def _goes_down(before: Tensor, after: Tensor, gradient: Tensor) -> bool:
    """Return whether a step goes against the gradient, without the part of the step that weight decay explains."""
    step, slope, decay = ((after - before).double(), gradient.double(), before.double())
    size = float(decay.square().sum())
    if size:
        step, slope = (each - decay * (float((each * decay).sum()) / size) for each in (step, slope))
    scale = float(step.norm() * slope.norm())
    return not math.isfinite(scale) or not float(gradient.abs().sum()) or -float((step * slope).sum()) > 0.01 * scale


@law(
    "STEP-3",
    "every micro-batch counts, in windows of one, two, four, five and eight",
    source="any trainer: windows of a size that it was not written for; the short last window of an epoch",
    budget=12,
    calls_again=True,
    restrict=ordinary,
    skip_reason=needs_trainer,
    depends_on=("CONTRACT-1", "STEP-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1"),
)
def every_micro_batch(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, TrainerTrial)
    judgements = []
    for parts in _SIZES:
        case = trial.case_of(recipe, parts)
        if not trains(case):
            continue
        where = f"a window of {parts} micro-batch{'es' if parts > 1 else ''}"
        observed = trial.in_window(case, parts, parts)
        if observed.problem is not None:
            return not_answered(observed)
        for judgement in _in_window(trial, observed, parts, where):
            if judgement.verdict is Verdict.FAIL:
                return judgement
            judgements.append(judgement)
    return next(
        (judgement for judgement in judgements if judgement.verdict is Verdict.PASS), (*judgements, NOT_APPLICABLE)[0]
    )


def _in_window(trial: TrainerTrial, observed: Observation, parts: int, where: str) -> Iterator[Judgement]:
    steps = judge_steps(observed, where)
    if steps.verdict is Verdict.FAIL:
        yield steps
    if trial.candidate.gradient:
        if observed.gradients is not None and (unseen := _unseen(observed, parts)):
            yield failing(f"in {where}, no gradient reaches {' and '.join(map(str, unseen))}", "unseen")
        yield _within(judge_gradient(trial, observed), where)
    if not trial.silent:
        yield _within(judge_value(trial, observed), where)


def _unseen(observed: Observation, parts: int) -> list[str]:
    """The micro-batches that have labels that count but get no gradient."""
    assert observed.gradients is not None
    found = observed.gradients["logits"].chunk(parts)
    right = observed.case.oracle.gradients["logits"].chunk(parts)
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
    calls_again=True,
    restrict=ordinary,
    skip_reason=needs_steps,
    depends_on=("CONTRACT-1", "STEP-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "GRAD-1"),
)
def nothing_left(trial: Trial, recipe: Recipe) -> Judgement:
    two = in_two_windows(trial, recipe)
    if isinstance(two, Judgement):
        return two
    for name, observed in (("first", two.first), ("second", two.second)):
        where = f"the {name} of two windows"
        steps = judge_steps(observed, where)
        if steps.verdict is Verdict.FAIL:
            return steps
        if name == "second" and two.left is not None and bool(two.left.any()):
            reason = (
                "the gradient of the first window is still in the step of the second; call zero_grad() after each step"
            )
            return failing(reason, "left")
        judgement = _within(judge_gradient(trial, observed), where)
        if judgement.verdict is Verdict.FAIL:
            return judgement
    return judgement


@law(
    "STEP-5",
    "the gradient that the optimizer steps with is neither scaled nor clipped",
    source="any trainer: torch.amp.GradScaler without unscale_(); transformers' Trainer clips to norm 1 by default",
    budget=24,
    calls_again=True,
    restrict=ordinary,
    skip_reason=needs_steps,
    depends_on=("CONTRACT-1", "STEP-1", "ALIGN-1", "SELECT-1"),
)
def as_it_came(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, TrainerTrial)
    case = trial.case(recipe)
    if recipe.seed % 2:
        case = trial.variation(case, lambda batch: _loud(case, batch))
    if not trains(case):
        return NOT_APPLICABLE
    observed = trial.in_window(case, PARTS)
    if observed.problem is not None:
        return not_answered(observed)
    if observed.gradients is None:
        return NOT_APPLICABLE  # CONTRACT-2 judges this
    found, right = observed.gradients["logits"], case.oracle.gradients["logits"]
    bound = trial.bounds(observed).gradients["logits"]
    if bool(((found - right).abs() <= bound).all()) or not bool(found.isfinite().all()):
        return PASS
    reason = _scaled(found, right, bound) or _clipped(found, right, bound)
    if (
        reason
        and "clipp" not in reason
        and float(found.norm()) < float(right.norm())
        and _same_norm(trial, recipe, found)
    ):
        reason = f"{reason}, and its norm is the same in another window, so it is clipped; {_OFF}"
    return failing(reason, "scaled") if reason else NOT_APPLICABLE  # the laws on the loss judge any other difference


def _same_norm(trial: TrainerTrial, recipe: Recipe, found: Tensor) -> bool:
    """Return whether the gradient of another window has the same norm. Only clipped gradients do."""
    case = trial.case(replace(recipe, seed=recipe.seed + 2))
    other = trial.in_window(trial.variation(case, lambda batch: _loud(case, batch)), PARTS)
    if other.gradients is None:
        return False
    return math.isclose(float(other.gradients["logits"].norm()), float(found.norm()), rel_tol=1e-4)


def _loud(case: Case, batch: Batch) -> Batch:
    """Return a batch with one label that counts, on a row that is sure of another class.

    The norm of its gradient is above 1, the most common clipping norm.
    """
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
    """Describe the factor on the whole gradient, and its likely cause if known; or return ""."""
    size = float(right.square().sum())
    factor = float((found * right).sum()) / size if size else 0.0
    if not factor or bool(((found - factor * right).abs() > 2 * max(abs(factor), 1.0) * bound).any()):
        return ""
    reason = f"every element of the gradient is {factor:.6g} times the right one"
    norm = float(found.norm())
    clipped = next((limit for limit in _NORMS if 0 < factor < 1 and abs(norm / limit - 1) < 1e-4), None)
    if clipped is not None:
        return f"{reason}, and its norm is {clipped:g}, so it is clipped; {_OFF}"
    if factor >= 2 and abs(math.log2(factor) - round(math.log2(factor))) < 1e-4:
        return f"{reason}; unscale a scaled loss before the step, and average a summed one"
    return reason


def _clipped(found: Tensor, right: Tensor, bound: Tensor) -> str:
    limit = float(found.abs().amax())
    if limit and not bool(((found - right.clamp(-limit, limit)).abs() > 2 * bound).any()):
        return f"no element of the gradient is beyond ±{limit:.6g}, so it is clipped by value; {_OFF}"
    return ""


@law(
    "TAIL-1",
    "a last window that is short of micro-batches is divided by what came, not by what was configured",
    source="LLaMA-Factory#10705",
    budget=60,
    calls_again=True,
    restrict=ordinary,
    depends_on=("CONTRACT-1", "STEP-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1"),
    skip_reason=needs_window,
    points_to=("tail-accumulation",),
)
def short_window(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, TrainerTrial)
    observed = stepped(trial, recipe, short=True)
    if isinstance(observed, Judgement):
        return observed
    judgement = judge_gradient(trial, observed) if trial.candidate.gradient else PASS
    if judgement.verdict is not Verdict.FAIL and not trial.silent:
        by_value = judge_value(trial, observed)
        judgement = judgement if by_value.verdict is Verdict.PASS else by_value
    return _within(judgement, "a short window")


def _within(judgement: Judgement, where: str) -> Judgement:
    """Return a judgement whose message names the window."""
    if judgement.verdict is not Verdict.FAIL:
        return judgement
    return replace(judgement, message=f"in {where}: {judgement.message}")
