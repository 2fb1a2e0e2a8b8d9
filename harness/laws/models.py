"""Laws on models: what may reach the logits of a row, and what must not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cases import Case
from ..compare import compare_tensors
from ..head import head_gradients
from ..linear import HIDDEN, WEIGHT
from ..model import ModelTrial, Route, Slopes, moved_rows
from ..recipe import Count, Mask, Recipe, ShiftLabels
from ..strategies import Space
from ..trial import Observation, Trial
from ..verdict import Level
from .base import NOT_MEANT, PASS, Judgement, failing, law, needs_gradient, not_answered, trained, vacuous
from .numbers import UPSTREAM, judge_both, ordinary

_SEVERAL = 3


def needs_model(trial: Trial) -> str | None:
    return None if trial.makes_logits else "it is given its logits"


def unmasked(recipe: Recipe) -> Recipe:
    """Two rows at least, of some length, with every label kept."""
    return replace(
        recipe, rows=max(recipe.rows, 2), length=max(recipe.length, _SEVERAL), masks=(Mask.NONE,), count=Count.ABSENT
    )


def changed(trial: Trial, case: Case, of: str, where: Tensor) -> Observation | Judgement:
    """What a model does with other tokens ``where`` its ``of`` (input_ids, labels, or both) are marked, bool [B, S]."""
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
    """Which rows of the labels' logits [B, S] moved that should have been ``still`` when tokens were changed ``where``;
    both get the places [B, S]."""
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
    focus=unmasked,
    excuse=needs_model,
    suggests=("sees-its-target",),
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
    focus=unmasked,
    excuse=needs_model,
    suggests=("sees-other-rows",),
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
    focus=unmasked,
    excuse=lambda trial: needs_model(trial) or ("its labels are its inputs too" if trial.shifts_inputs else None),
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
    return failing(f"{what} {int(found.sum())} rows of logits that must not move, the first at [{row}, {position}]")


def shifted(space: Space) -> Space:
    return {**space, "shift_labels": (ShiftLabels.PADDED, ShiftLabels.SHARDED)}


@law(
    "MODEL-4",
    "shift_labels, where given, are scored in place of the labels",
    source="transformers ForCausalLMLoss; sequence parallelism hands them over, and many a model drops them unseen",
    budget=20,
    level=Level.SHOULD,
    narrow=shifted,
    presumes=("CONTRACT-1", "VALUE-1"),
    excuse=lambda trial: (
        needs_model(trial)
        or (None if trial.spec.terms[0].accepts_shift_labels else "its spec knows no shift_labels")
        or (None if trial.binding.takes("shift_labels") else "it takes no shift_labels")
    ),
)
def takes_shift_labels(trial: Trial, recipe: Recipe) -> Judgement:
    if recipe.shift_labels is ShiftLabels.ABSENT:
        return NOT_MEANT
    looked = trained(trial, recipe)
    return looked if isinstance(looked, Judgement) else judge_both(trial, looked)


def several(recipe: Recipe) -> Recipe:
    """Two rows at least, of some length."""
    return replace(recipe, rows=max(recipe.rows, 2), length=max(recipe.length, _SEVERAL))


@law(
    "MODEL-5",
    "the gradients at the head's hidden states and weight are those that the logits' comes to",
    source="any fused loss, or one of logits that are not returned: ∂L/∂h = G·W, ∂L/∂W = Gᵀ·h, with G = ∂L/∂logits",
    budget=30,
    narrow=ordinary,
    focus=several,
    presumes=("CONTRACT-1", "ALIGN-1", "ALIGN-2", "VALUE-1", "GRAD-1"),
    excuse=lambda trial: needs_model(trial) or _needs_its_gradient(trial),
)
def at_its_head(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, ModelTrial)
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_MEANT
    upstream = UPSTREAM[recipe.seed % len(UPSTREAM)] if recipe.seed % 2 else 1.0
    seen = trial.watch(case, upstream)
    if seen.problem is not None:
        return not_answered(seen)
    if seen.head is None:
        return NOT_MEANT  # its logits are no product of two tensors of its own
    right, allowed = head_gradients(seen.case, seen.head, trial.bounds(seen))
    given = {HIDDEN: seen.head.hidden_gradient, WEIGHT: seen.head.weight_gradient}
    if not any(gradient is not None for gradient in given.values()):
        return failing("the loss has no gradient at the head: nothing can be learnt from it", "no gradient")
    for name, gradient in given.items():
        if gradient is None:
            if name == WEIGHT:
                continue  # it is frozen
            gradient = torch.zeros_like(right[name])
        coming = "" if upstream == 1 else f"with an incoming gradient of {upstream:g}: "
        found = gradient.double().reshape(right[name].shape)
        mismatch = compare_tensors(found, right[name] * upstream, allowed[name] * max(abs(upstream), 1.0))
        if mismatch is not None:
            return failing(f"{coming}{mismatch.describe(f'gradient at the {_CALLED[name]}')}", name)
        if compare_tensors(torch.zeros_like(found), right[name], allowed[name]) is None:
            return vacuous(f"no gradient at the {_CALLED[name]}")
    return PASS


_CALLED = {HIDDEN: "head's input", WEIGHT: "head's weight"}


def _needs_its_gradient(trial: Trial) -> str | None:
    if not isinstance(trial, ModelTrial) or trial.route is Route.RETURNED:
        return needs_gradient(trial)
    return (
        "no hidden states and weight are seen whose product its logits are" if trial.route is Route.PARAMETERS else None
    )


@law(
    "MODEL-6",
    "the loss moves with the model's parameters as its gradient says",
    source="any loss that is made where nobody can look: a derivative is what differences of its values come to",
    budget=30,
    narrow=ordinary,
    focus=several,
    presumes=("CONTRACT-1", "ALIGN-2", "VALUE-1"),
    excuse=lambda trial: (
        needs_model(trial)
        or (
            None if isinstance(trial, ModelTrial) and trial.route is Route.PARAMETERS else "its gradient is read nearer"
        )
    ),
)
def along_its_parameters(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, ModelTrial)
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_MEANT
    found = trial.nudge(case)
    if not isinstance(found, Slopes):
        return not_answered(found) if found.problem is not None else NOT_MEANT
    if not found.tells:
        return vacuous("any gradient, since the loss hardly moves with the parameters")
    if found.agree:
        return PASS
    told = f"its gradient says that it rises by {found.claimed:.4g} a step, and it rises by {found.right:.4g}"
    return failing(f"along a direction of the model's parameters {told}", "slope")
