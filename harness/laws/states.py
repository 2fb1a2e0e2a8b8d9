"""Laws on the state in which a loss is called: between other calls, frozen, under autocast, compiled, in train mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import Compute

from ..bounds.derive import Bounds, derive_bounds
from ..candidates.loss import Observation, Trial
from ..candidates.model import ModelTrial, Route
from ..candidates.variant import Manner, Variant
from ..cases.build import Case
from ..results import Verdict
from ..worker.exchange import OTHER_AFTER, OTHER_AFTER_LAST_BACKWARD, OTHER_BEFORE
from .base import Judgement, lacking, law, needs_gradient, on, vacuous
from .models import judge_slopes
from .numerics import judge_shown, judge_value, ordinary

_AUTOCAST = torch.bfloat16


_ORDERS = {
    OTHER_AFTER: "another loss of the same shape computed before the backward",
    OTHER_AFTER_LAST_BACKWARD: "another loss of the same shape computed, and going backward, before the backward",
    OTHER_BEFORE: "another loss of the same shape computed before, and not yet gone backward",
}


def _beside_another(order: str) -> Variant:
    return Variant(
        f"another loss {order}",
        manner=lambda case: Manner(order=order),
        words=lambda case: f"with {_ORDERS[order]}",
    )


@law(
    "STATE-1",
    "another loss computed before the backward leaves value and gradient as they were",
    mode="two losses at once",
    source="K codebooks: K losses are computed, then added; a buffer per shape is overwritten by the next call",
    budget=8,
    restrict=ordinary,
    skip_reason=lambda trial: needs_gradient(trial) or lacking(trial, "backward"),
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1", "GRAD-1", "PURE-3", "PURE-4"),
    points_to=("shared-workspace",),
)
@on(*map(_beside_another, _ORDERS))
def beside_another(trial: Trial, observed: Observation) -> Judgement:
    return judge_shown(trial, observed)


@law(
    "STATE-2",
    "the value is right where gradients are recorded but the logits need none",
    mode="frozen logits",
    source="a frozen model, or a teacher's logits; losses that branch on requires_grad",
    budget=12,
    restrict=ordinary,
    skip_reason=lambda trial: needs_gradient(trial) or lacking(trial, "no_grad"),
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1", "MODE-1"),
    points_to=("no-grad-path",),
)
@on(
    Variant(
        "frozen",
        manner=lambda case: Manner(leaves=()),
        words=lambda case: "with grad mode on and no argument that needs a gradient",
    )
)
def frozen(trial: Trial, observed: Observation) -> Judgement:
    return judge_value(trial, observed)


def _exact_in_autocast(case: Case) -> Batch:
    """The batch with logits that bf16 holds, so that a cast to it loses nothing."""
    rounded: dict[str, Any] = {}
    for name in case.spec.logits:
        logits = case.batch.tensor(name)
        rounded[name] = logits.to(_AUTOCAST).to(logits.dtype)
    return replace(case.batch, **rounded)


def _bounds_in_autocast(trial: Trial, observed: Observation) -> Bounds:
    """The bounds of arithmetic in bf16, added to the candidate's own: the gradient is rounded to the logits' dtype."""
    case, batch = observed.case, observed.case.batch
    cast: dict[str, Any] = {name: batch.tensor(name).to(_AUTOCAST) for name in case.spec.logits}
    bounds, own = (
        derive_bounds(replace(case, batch=replace(batch, **cast)), Compute.NATIVE, _AUTOCAST),
        trial.bounds(observed),
    )
    return replace(
        bounds,
        value=bounds.value + own.value,
        per_token=bounds.per_token + own.per_token,
        gradients={name: bound + own.gradients[name] for name, bound in bounds.gradients.items()},
    )


@law(
    "STATE-3",
    "under torch.autocast to bfloat16 the loss is right to bfloat16's precision or is refused, never wrong",
    mode="autocast",
    source="torch.autocast: trainers call model and loss under it",
    budget=12,
    restrict=ordinary,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    skip_reason=lambda trial: (
        "torch.autocast does not cast float64"
        if "float64" in trial.dtypes
        else "its gradient is not read at its logits, and to bfloat16's precision the value alone proves little"
        if trial.makes_logits and trial.skip_reason("GRAD-1") is not None
        else lacking(trial, "autocast")
    ),
)
@on(
    Variant(
        "autocast",
        change=_exact_in_autocast,
        manner=lambda case: Manner(autocast="bfloat16"),
        refusable=True,  # an operation of a model's layers may not take mixed dtypes, which says nothing of its loss
        words=lambda case: "under torch.autocast(dtype=torch.bfloat16)",
    )
)
def under_autocast(trial: Trial, observed: Observation) -> Judgement:
    return judge_shown(trial, observed, _bounds_in_autocast(trial, observed))


def _compiled_by(backend: str) -> Variant:
    return Variant(
        f"compiled by {backend}",
        manner=lambda case: Manner(backend=backend),
        wanted=lambda trial: trial.compiles(backend),
        refusable=True,
        words=lambda case: f'under torch.compile(backend="{backend}")',
    )


@law(
    "STATE-4",
    "under torch.compile the loss gives the right answer or is refused, never a wrong answer",
    mode="torch.compile",
    source="losses that ask torch.compiler.is_compiling()",
    budget=8,
    restrict=ordinary,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    skip_reason=lambda trial: (
        "its gradient is read by watching its layers, which torch.compile does not let anybody do"
        if isinstance(trial, ModelTrial) and trial.route in (Route.COPIED, Route.HEAD)
        else lacking(trial, "compile")
        if trial.compiles("eager")
        else "it costs seconds: asked by --profile ci and deep, and if the candidate's own code asks about compiling"
    ),
)
@on(_compiled_by("eager"), _compiled_by("inductor"))
def compiled(trial: Trial, observed: Observation) -> Judgement:
    return judge_shown(trial, observed)


def _in_mode(name: str, train_mode: bool) -> Variant:
    return Variant(
        f"{name} mode", manner=lambda case: Manner(train_mode=train_mode), words=lambda case: f"in {name} mode"
    )


@law(
    "STATE-5",
    "in train mode and in eval mode, value and gradient are right",
    mode="train and eval",
    source="models are built in eval mode for tests and run in train mode",
    budget=10,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    skip_reason=lambda trial: None if trial.binding.is_module else "it is no torch.nn.Module",
)
@on(_in_mode("train", train_mode=True), _in_mode("eval", train_mode=False))
def in_train_mode(trial: Trial, observed: Observation) -> Judgement:
    if not (isinstance(trial, ModelTrial) and trial.shows_loss_alone):
        return judge_shown(trial, observed)
    # In train mode it shows no gradient at its logits. The one along its parameters must be right too.
    by_value = judge_value(trial, observed)
    if by_value.verdict is not Verdict.PASS:
        return by_value
    slopes = judge_slopes(trial.nudge(observed.case, Manner(train_mode=True)))
    return vacuous("any gradient, which could not be read") if slopes.verdict is Verdict.SKIP else slopes
