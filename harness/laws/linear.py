"""Laws on losses that multiply hidden states by a weight themselves: the gradient of every leaf is right.

All other laws judge such a loss at its logits. Their gradient is read back from the leaf that carries them.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from shiftproof.reference.spec import Compute, Reduction

from ..bounds.compare import compare_tensors
from ..bounds.derive import Bounds, derive_leaf_bounds, widen
from ..bounds.rounding import FP32_ROUNDOFF
from ..candidates.loss import Observation, Trial
from ..candidates.variant import Manner, Variant
from ..cases.build import Case
from ..cases.linear import DENSE_HIDDEN_SIZES, DENSE_PLACES, HIDDEN, WEIGHT, product, through
from ..cases.recipe import HIDDEN_MULTIPLE, Ids, Mask, Recipe
from ..results import Verdict
from .base import (
    NOT_APPLICABLE,
    PASS,
    Judgement,
    failing,
    lacking,
    law,
    needs_gradient,
    not_answered,
    on,
    trained,
    trains,
    vacuous,
)
from .numerics import factor_of, judge_value, ordinary, per_token

_WIDE = 8192  # classes; a sum over so many in bf16 shows
_ORDINARY = 17  # rows or positions; more are a region of the candidate's own code
_FEW = 128  # B·S
_MANY = 2048  # rows; with so many, a bf16 sum of similar terms, added one by one, no longer grows


def _needs_leaves(trial: Trial) -> str | None:
    return needs_gradient(trial) or (None if trial.is_linear else "it takes logits as input")


def judge_leaves(trial: Trial, observation: Observation, bounds: Bounds | None = None) -> Judgement:
    """Compare the gradient of every leaf that was asked for with the right one, times the incoming one.

    ``bounds`` are those of the gradient at the logits, the trial's if not given.

    The judgement is vacuous if the bounds would let a wrong gradient pass at one leaf. The wrong gradient is 0 if the
    incoming one is 1, and otherwise the gradient for an incoming gradient of 1.
    """
    if observation.leaves is None:
        return failing("no gradient at the hidden states, the weight or the bias", "no gradient")
    case = observation.case
    linear = trial.linear(case)
    right = through(linear, case.oracle.gradients["logits"])
    of_leaves = derive_leaf_bounds(case, linear, bounds or trial.bounds(observation))
    grad_output = observation.factor
    null = "no gradient" if grad_output == 1 else "the gradient for an incoming gradient of 1"
    dead = ""
    for name, found in observation.leaves.items():
        expected, allowed = right[name] * grad_output, of_leaves[name] * max(abs(grad_output), 1.0)
        mismatch = compare_tensors(found, expected, allowed)
        if mismatch is not None:
            return failing(mismatch.describe(f"gradient at {name}"), name)
        passing = torch.zeros_like(expected) if grad_output == 1 else right[name]
        if compare_tensors(passing, expected, allowed) is None:
            dead = f"{null} at {name}"
    return vacuous(dead) if dead else PASS


def _has_many_outputs(case: Case) -> bool:
    return case.spec.terms[0].reduction is Reduction.NONE


def _coming(case: Case) -> str:
    return "a different factor per token" if _has_many_outputs(case) else f"{factor_of(case):g}"


UPSTREAM_OF_LEAVES = Variant(
    "upstream of leaves",
    grad_output=lambda case: per_token(case) + factor_of(case) - 1 if _has_many_outputs(case) else factor_of(case),
    words=lambda case: f"with an incoming gradient of {_coming(case)}",
)


def _few_rows(recipe: Recipe) -> Recipe:
    """Limit the rows, so that every summation order is accurate. Then a failure is not a matter of rounding."""
    return replace(recipe, rows=min(recipe.rows, 2), length=min(recipe.length, 4))


@law(
    "LINEAR-1",
    "hidden states, weight and bias have the gradients that the logits' comes to",
    source="∂L/∂h = G·W, ∂L/∂W = Gᵀ·h, ∂L/∂b = Σ G, with G = ∂L/∂logits",
    budget=60,
    restrict=ordinary,
    adapt=_few_rows,
    skip_reason=_needs_leaves,
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
)
def leaves(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe, gradient=True)
    return observed if isinstance(observed, Judgement) else judge_leaves(trial, observed)


@law(
    "LINEAR-2",
    "the incoming gradient scales the gradients of hidden states, weight and bias alike",
    source="DeepSpeed's tiled loss scales that of the hidden states alone; Liger#968: reduction none",
    budget=40,
    restrict=ordinary,
    adapt=_few_rows,
    skip_reason=lambda trial: _needs_leaves(trial) or lacking(trial, "backward"),
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1", "GRAD-3", "GRAD-4", "LINEAR-1"),
    points_to=("upstream-ignored-weight",),
)
@on(UPSTREAM_OF_LEAVES)
def leaves_scale_with_upstream(trial: Trial, observed: Observation) -> Judgement:
    return judge_leaves(trial, observed)


def _only(leaf: str) -> Variant:
    return Variant(
        f"only {leaf}",
        manner=lambda case: Manner(leaves=(leaf,)),
        words=lambda case: f"where only {leaf} needs a gradient",
    )


@law(
    "LINEAR-5",
    "with the weight frozen, or the hidden states, the other's gradient and the value are right",
    source="LoRA freezes the head; a probe trains the head alone; needs_input_grad in a custom backward",
    budget=12,
    restrict=ordinary,
    adapt=_few_rows,
    skip_reason=_needs_leaves,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1", "GRAD-1", "LINEAR-1"),
)
@on(_only(HIDDEN), _only(WEIGHT))
def leaves_in_turn(trial: Trial, observed: Observation) -> Judgement:
    value = judge_value(trial, observed)
    return value if value.verdict is Verdict.FAIL else judge_leaves(trial, observed)


@law(
    "LINEAR-3",
    "the gradients of weight and bias over many rows lose no more than sums in fp32 do",
    source="fla#874: the weight's gradient was added up over chunks in bf16",
    budget=8,
    restrict=ordinary,
    adapt=lambda recipe: replace(recipe, rows=4, length=_MANY // 4, classes=min(recipe.classes, 7)),
    skip_reason=_needs_leaves,
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1", "LINEAR-1"),
    points_to=("low-precision-accumulate",),
)
def many_rows(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe, gradient=True)
    return observed if isinstance(observed, Judgement) else judge_leaves(trial, observed)


def _dense(recipe: Recipe) -> Recipe:
    """Few pairs, in whose mean rounding errors do not cancel, many classes and dense factors."""
    if max(recipe.rows, recipe.length) > _ORDINARY and recipe.rows * recipe.length <= _FEW:
        few, hidden_size = replace(recipe, masks=(Mask.LAST_ONLY,)), DENSE_HIDDEN_SIZES[0]
    else:
        few = replace(recipe, rows=min(recipe.rows, 2), length=min(recipe.length, DENSE_PLACES // 2))
        hidden_size = DENSE_HIDDEN_SIZES[recipe.seed % len(DENSE_HIDDEN_SIZES)]
    return replace(
        few,
        classes=max(recipe.classes, _WIDE + recipe.seed % 3),
        hidden_size=-(-max(recipe.hidden_size, hidden_size) // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE,
        dense=True,
        ids=Ids.SEEDED,
    )


def _needs_fp32(trial: Trial) -> str | None:
    if (missing := _needs_leaves(trial)) is not None:
        return missing
    if any(term.score.dft for term in trial.spec.terms):
        return "a probability multiplies its score, and its bounds are for exact logits"
    low = trial.compute is Compute.NATIVE and not {"bfloat16", "float16"}.isdisjoint(trial.dtypes)
    return "it is declared to round its logits to their dtype" if low else None


@law(
    "LINEAR-4",
    "with dense hidden states and weight, value and gradients lose no more than products and sums in fp32 do",
    source="a product in bf16 rounds a logit of 40 by up to 0.125; sums of the hidden states' gradient in bf16",
    budget=3,
    restrict=ordinary,
    adapt=_dense,
    skip_reason=_needs_fp32,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1", "GRAD-1", "LINEAR-1", "LINEAR-3"),
    points_to=("low-precision-accumulate",),
)
def dense(trial: Trial, recipe: Recipe) -> Judgement:
    blank = trial.case(recipe)
    if not trains(blank):
        return NOT_APPLICABLE
    linear = trial.linear(blank)
    # One more rounding to fp32 than of the sums. The bounds count it.
    case = trial.variation(blank, lambda batch: replace(batch, logits=product(linear).float()))
    observed = trial.observe(case)
    if observed.problem is not None:
        return not_answered(observed)
    if observed.leaves is None:
        return failing("no gradient at the hidden states, the weight or the bias", "no gradient")
    magnitudes = linear.hidden.double().abs() @ linear.weight.double().abs().T + linear.bias.double().abs()
    unsure = FP32_ROUNDOFF * (linear.width + 1) * magnitudes
    bounds = widen(case, trial.bounds(observed), unsure)
    value = judge_value(trial, observed, bounds)
    if value.verdict is Verdict.FAIL:
        return value
    leaves = judge_leaves(trial, observed, bounds)
    return leaves if leaves.verdict is Verdict.FAIL else value if value.verdict is not Verdict.PASS else leaves
