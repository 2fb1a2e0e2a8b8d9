"""Laws on the edges of the input space: nothing to train on, one position, no rows.

Implementations disagree on the value there: torch returns NaN, others return 0. If a spec sets the value itself, any
other value is wrong. If the spec keeps the default, NaN and 0 are both right.
"""

from __future__ import annotations

import math
from dataclasses import replace

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.spec import Empty, LossSpec

from ..bounds.compare import same_value
from ..candidates.loss import Trial
from ..cases.build import Case
from ..cases.recipe import Mask, Recipe, ShiftLabels
from ..results import Level
from .base import NOT_APPLICABLE, NOT_FINITE, PASS, Judgement, failing, law, needs_gradient, not_answered, trains
from .numerics import ordinary


def _all_ignored(recipe: Recipe) -> Recipe:
    return replace(recipe, masks=(Mask.ALL,), shift_labels=_not_sharded(recipe))


def _not_sharded(recipe: Recipe) -> ShiftLabels:
    return recipe.shift_labels if recipe.shift_labels is not ShiftLabels.SHARDED else ShiftLabels.PADDED


def _sets_value_of_nothing(spec: LossSpec) -> bool:
    """Return whether the spec itself sets what a term without pairs adds, so NaN is not just the default."""
    return all(term.empty is not Empty.NAN or term.clamp is not None or term.epsilon > 0 for term in spec.terms)


def _right_of_nothing(case: Case, found: float, allowed: float) -> Judgement:
    """Judge whether ``found`` is the value of a case in which a term, a codebook or the whole batch has no pair."""
    declared = case.oracle.value
    assert declared is not None
    if same_value(found, declared, allowed):
        return PASS
    if _sets_value_of_nothing(case.spec):
        return failing(f"the loss is {found:g}; the spec sets it to {declared:g}", "value")
    pairing = replace(case.pairing, empty=0.0)
    counted_as_zero = evaluate(pairing, case.batch).value
    assert counted_as_zero is not None
    if math.isnan(found) or same_value(found, counted_as_zero, allowed):
        return PASS
    return failing(f"the loss is {found:g}; expected NaN, or {counted_as_zero:g} if an empty part counts as 0", "value")


def _where_nothing_is_trained(trial: Trial, recipe: Recipe, whole: bool) -> Judgement:
    """Judge the value of a case without pairs, or if not ``whole``, of one in which only a part has none."""
    case = trial.case(recipe)
    if bool(case.pairing.pairs) is whole or not (whole or trains(case)) or case.oracle.value is None:
        return NOT_APPLICABLE
    observation = trial.observe_cached(recipe)
    if observation.problem is not None:
        return not_answered(observation)
    assert observation.value is not None
    return _right_of_nothing(case, observation.value, 0.0 if whole else trial.bounds(observation).value)


def _value_as_declared(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if case.pairing.pairs or case.oracle.value is None:
        return NOT_APPLICABLE
    observation = trial.observe_cached(recipe)
    if observation.problem is not None:
        return not_answered(observation)
    assert observation.value is not None
    if not same_value(observation.value, case.oracle.value, 0.0):
        return failing(f"the loss is {observation.value:g}; the spec declares {case.oracle.value:g}", "value")
    return PASS


@law(
    "EMPTY-1",
    "with every label ignored the loss is what the spec sets; NaN or 0 where it sets nothing",
    source="NaN in torch and transformers; 0 in Liger, TRL and fla",
    budget=20,
    restrict=ordinary,
    adapt=_all_ignored,
)
def empty_value(trial: Trial, recipe: Recipe) -> Judgement:
    return _where_nothing_is_trained(trial, recipe, whole=True)


@law(
    "EMPTY-2",
    "with every label ignored the gradient is exactly zero",
    source="torch 2.13 F.linear_cross_entropy, chunked: NaN",
    budget=30,
    adapt=_all_ignored,
    skip_reason=needs_gradient,
    depends_on=("CONTRACT-1", "ALIGN-1", "SELECT-1", "GRAD-1"),
    points_to=("all-ignored-nan-gradient",),
)
def empty_gradient(trial: Trial, recipe: Recipe) -> Judgement:
    if trial.case(recipe).pairing.pairs:
        return NOT_APPLICABLE
    observation = trial.observe_cached(recipe)
    if observation.problem is not None:
        return not_answered(observation)
    for gradient in (observation.gradients or {}).values():
        if bool((gradient != 0).any()):
            worst = gradient.flatten()[(gradient.flatten() != 0).nonzero()[0, 0]]
            kind = "gradient" if bool(worst.isfinite()) else NOT_FINITE
            return failing(f"no position is trained on, but the gradient holds {float(worst):g}", kind)
    return PASS


@law(
    "EMPTY-3",
    "with a codebook or a stream empty the loss is what the spec sets; NaN, or 0 for that part, where it sets nothing",
    source="NaN in audiocraft, MusicGen and Parler; Higgs-audio trainers re-average, NeMo keeps ÷ K",
    budget=15,
    restrict=ordinary,
    adapt=lambda recipe: recipe if recipe.hollow != "none" or recipe.streams != "both" else None,
    skip_reason=lambda trial: (
        None if {"hollow", "streams"} & set(trial.space) else "the spec has one stream of one head"
    ),
)
def empty_part(trial: Trial, recipe: Recipe) -> Judgement:
    return _where_nothing_is_trained(trial, recipe, whole=False)


@law(
    "EDGE-1",
    "rows of one position are answered as declared",
    source="transformers: N = 0, NaN",
    budget=10,
    level=Level.SHOULD,
    adapt=lambda recipe: replace(recipe, length=1, documents=1, shift_labels=_not_sharded(recipe)),
    depends_on=("CONTRACT-1",),
)
def one_position(trial: Trial, recipe: Recipe) -> Judgement:
    return _value_as_declared(trial, recipe)


@law(
    "EDGE-2",
    "a batch without rows is answered as declared",
    source="torch and transformers: NaN; Liger and cut-cross-entropy raise",
    budget=8,
    level=Level.SHOULD,
    adapt=lambda recipe: replace(recipe, rows=0),
    depends_on=("CONTRACT-1",),
)
def no_rows(trial: Trial, recipe: Recipe) -> Judgement:
    return _value_as_declared(trial, recipe)
