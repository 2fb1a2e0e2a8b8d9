"""Laws on models: what can affect the logits of a row, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..bounds.compare import compare_tensors
from ..candidates.head import head_gradients
from ..candidates.loss import Observation, Trial
from ..candidates.model import ModelTrial, Route, Slopes, moved_rows
from ..cases.build import Case
from ..cases.linear import HIDDEN, WEIGHT
from ..cases.recipe import Count, Mask, Recipe, ShiftLabels
from ..cases.space import Space
from ..results import Level
from .base import NOT_APPLICABLE, PASS, Judgement, failing, law, needs_gradient, not_answered, trained, vacuous
from .numerics import UPSTREAM, judge_both, ordinary

_SEVERAL = 3


def needs_model(trial: Trial) -> str | None:
    return None if trial.makes_logits else "it takes logits as input"


def unmasked(recipe: Recipe) -> Recipe:
    """Return a recipe of at least two rows of some length, with every label kept."""
    return replace(
        recipe, rows=max(recipe.rows, 2), length=max(recipe.length, _SEVERAL), masks=(Mask.NONE,), count=Count.ABSENT
    )


def changed(trial: Trial, case: Case, of: str, where: Tensor) -> Observation | Judgement:
    """Return what a model does with other tokens in ``of`` (input_ids, labels, or both) at ``where``, bool [B, S]."""
    batch = case.batch
    names = ("input_ids", "labels") if of == "both" else (of,)
    other: dict[str, Any] = {}
    for name in names:
        tokens = batch.tensor(name)
        other[name] = torch.where(where & (tokens >= 0), (tokens + 1) % case.recipe.classes, tokens)
    observation = trial.observe(replace(case, batch=replace(batch, **other)))
    return observation if observation.problem is None else not_answered(observation)


def compare(
    trial: Trial, recipe: Recipe, of: str, where: Callable[[Tensor], Tensor], still: Callable[[Tensor], Tensor]
) -> Judgement | Tensor:
    """Return the rows of the labels' logits [B, S] that moved although they should have been ``still``.

    The tokens are changed ``where``. Both functions get the positions [B, S].
    """
    before = trained(trial, recipe)
    if isinstance(before, Judgement):
        return before
    labels = before.case.batch.tensor("labels")
    places = torch.arange(labels.shape[1]).expand_as(labels)
    after = changed(trial, before.case, of, where(places))
    if isinstance(after, Judgement):
        return after
    extra = before.case.batch.tensor("logits").shape[1] - labels.shape[1]
    rows = moved_rows(before, after)
    return rows[:, extra:] & still(places)


@law(
    "MODEL-1",
    "a later token does not move an earlier row of logits",
    source="a row that sees the token it is scored on learns to copy; causal attention in every decoder",
    budget=30,
    calls_again=True,
    adapt=unmasked,
    skip_reason=needs_model,
    points_to=("sees-its-target",),
)
def causal(trial: Trial, recipe: Recipe) -> Judgement:
    at = 1 + recipe.seed % (trial.fit(recipe).length - 1)
    if trial.shifts_inputs:  # the row at t sees the labels before t
        found = compare(trial, recipe, "labels", lambda t: t >= at, lambda t: t <= at)
        what = f"labels from position {at} on"
    else:
        found = compare(trial, recipe, "input_ids", lambda t: t >= at, lambda t: t < at)
        what = f"tokens from position {at} on"
    return _judge(found, f"other {what} move")


@law(
    "MODEL-2",
    "what one sequence holds does not move the logits of another",
    source="rows of a batch are independent; padding-free batches without a mask of documents",
    budget=20,
    calls_again=True,
    adapt=unmasked,
    skip_reason=needs_model,
    points_to=("sees-other-rows",),
)
def rows_apart(trial: Trial, recipe: Recipe) -> Judgement:
    def first(places: Tensor) -> Tensor:
        return (torch.arange(len(places)) == 0)[:, None].expand_as(places)

    found = compare(trial, recipe, "both", first, lambda places: ~first(places))
    return _judge(found, "other tokens in the first sequence move")


@law(
    "MODEL-3",
    "labels do not move the logits",
    source="what is scored must not depend on what it is scored on",
    budget=20,
    calls_again=True,
    adapt=unmasked,
    skip_reason=lambda trial: needs_model(trial) or ("its labels are its inputs too" if trial.shifts_inputs else None),
)
def labels_apart(trial: Trial, recipe: Recipe) -> Judgement:
    found = compare(trial, recipe, "labels", lambda t: t >= 0, lambda t: t >= 0)
    return _judge(found, "other labels move")


def _judge(found: Judgement | Tensor, what: str) -> Judgement:
    if isinstance(found, Judgement):
        return found
    if not bool(found.any()):
        return PASS
    row, position = found.nonzero()[0].tolist()
    return failing(f"{what} {int(found.sum())} rows of logits that must not move; the first is [{row}, {position}]")


def shifted(space: Space) -> Space:
    return {**space, "shift_labels": (ShiftLabels.PADDED, ShiftLabels.SHARDED)}


@law(
    "MODEL-4",
    "shift_labels, where given, are scored in place of the labels",
    source="transformers ForCausalLMLoss; sequence parallelism passes them, and many models silently drop them",
    budget=20,
    calls_again=True,
    level=Level.SHOULD,
    restrict=shifted,
    depends_on=("CONTRACT-1", "VALUE-1"),
    skip_reason=lambda trial: (
        needs_model(trial)
        or (None if trial.spec.terms[0].accepts_shift_labels else "its spec does not support shift_labels")
        or (None if trial.binding.takes("shift_labels") else "it does not take shift_labels")
    ),
)
def takes_shift_labels(trial: Trial, recipe: Recipe) -> Judgement:
    if recipe.shift_labels is ShiftLabels.ABSENT:
        return NOT_APPLICABLE
    observed = trained(trial, recipe)
    return observed if isinstance(observed, Judgement) else judge_both(trial, observed)


def several(recipe: Recipe) -> Recipe:
    """Return a recipe of at least two rows of some length."""
    return replace(recipe, rows=max(recipe.rows, 2), length=max(recipe.length, _SEVERAL))


@law(
    "MODEL-5",
    "the gradients at the head's hidden states and weight are those that the logits' comes to",
    source="any fused loss, or a loss on logits that are not returned: ∂L/∂h = G·W, ∂L/∂W = Gᵀ·h, with G = ∂L/∂logits",
    budget=30,
    calls_again=True,
    restrict=ordinary,
    adapt=several,
    depends_on=("CONTRACT-1", "ALIGN-1", "ALIGN-2", "VALUE-1", "GRAD-1"),
    skip_reason=lambda trial: needs_model(trial) or _needs_its_gradient(trial),
)
def at_its_head(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, ModelTrial)
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_APPLICABLE
    grad_output = UPSTREAM[recipe.seed % len(UPSTREAM)] if recipe.seed % 2 else 1.0
    observed = trial.watch(case, grad_output)
    if observed.problem is not None:
        return not_answered(observed)
    if observed.head is None:
        return NOT_APPLICABLE  # its logits are not the product of two of its tensors
    right, allowed = head_gradients(observed.case, observed.head, trial.bounds(observed))
    given = {HIDDEN: observed.head.hidden_gradient, WEIGHT: observed.head.weight_gradient}
    if not any(gradient is not None for gradient in given.values()):
        return failing("the loss has no gradient at the head, so nothing can be learned from it", "no gradient")
    for name, gradient in given.items():
        if gradient is None:
            if name == WEIGHT:
                continue  # the weight is frozen
            gradient = torch.zeros_like(right[name])
        coming = "" if grad_output == 1 else f"with an incoming gradient of {grad_output:g}: "
        found = gradient.double().reshape(right[name].shape)
        mismatch = compare_tensors(found, right[name] * grad_output, allowed[name] * max(abs(grad_output), 1.0))
        if mismatch is not None:
            return failing(f"{coming}{mismatch.describe(f'gradient at the {_CALLED[name]}')}", name)
        if compare_tensors(torch.zeros_like(found), right[name], allowed[name]) is None:
            return vacuous(f"no gradient at the {_CALLED[name]}")
    return PASS


_CALLED = {HIDDEN: "head's input", WEIGHT: "head's weight"}


def _needs_its_gradient(trial: Trial) -> str | None:
    if not isinstance(trial, ModelTrial) or trial.route is Route.RETURNED:
        return needs_gradient(trial)
    return "no hidden states and weight were found that make its logits" if trial.route is Route.PARAMETERS else None


@law(
    "MODEL-6",
    "the loss moves with the model's parameters as its gradient says",
    source="any loss that is computed out of sight: differences of its values approximate its derivative",
    budget=30,
    calls_again=True,
    restrict=ordinary,
    adapt=several,
    depends_on=("CONTRACT-1", "ALIGN-2", "VALUE-1"),
    skip_reason=lambda trial: (
        needs_model(trial)
        or (
            None
            if isinstance(trial, ModelTrial) and trial.route is Route.PARAMETERS
            else "its gradient is read elsewhere"
        )
    ),
)
def along_its_parameters(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, ModelTrial)
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_APPLICABLE
    found = trial.nudge(case)
    if not isinstance(found, Slopes):
        return not_answered(found) if found.problem is not None else NOT_APPLICABLE
    if not found.tells:
        return vacuous("any gradient, since the loss hardly moves with the parameters")
    if found.agree:
        return PASS
    message = f"the gradient predicts a rise of {found.claimed:.4g} per step, but the loss rises by {found.right:.4g}"
    return failing(f"along a direction of the model's parameters, {message}", "slope")
