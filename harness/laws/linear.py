"""Laws on losses that multiply hidden states by a weight themselves: the gradient of every leaf is right.

All other laws judge such a loss at its logits. Their gradient is read back from the leaf that carries them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.spec import Reduction

from ..bounds.compare import compare_tensors
from ..bounds.derive import derive_leaf_bounds
from ..candidates.loss import Observation, Trial
from ..cases.linear import through
from ..cases.recipe import Recipe
from ..results import Verdict
from .base import NOT_APPLICABLE, PASS, Judgement, failing, law, needs_gradient, not_answered, trained, vacuous
from .numerics import UPSTREAM, ordinary, weighted_by

_MANY = 2048  # rows; with so many, a bf16 sum of similar terms, added one by one, no longer grows


def _needs_leaves(trial: Trial) -> str | None:
    return needs_gradient(trial) or (None if trial.is_linear else "it takes logits as input")


def judge_leaves(trial: Trial, observation: Observation, grad_output: float = 1.0) -> Judgement:
    """Compare the gradient of every leaf with ``grad_output`` times the right one.

    The judgement is vacuous if the bounds would let a wrong gradient pass at one leaf. The wrong gradient is 0 if
    ``grad_output`` is 1, and otherwise the gradient for an incoming gradient of 1.
    """
    if observation.leaves is None:
        return failing("no gradient at the hidden states, the weight or the bias", "no gradient")
    case = observation.case
    linear = trial.linear(case)
    right = through(linear, case.oracle.gradients["logits"])
    bounds = derive_leaf_bounds(case, linear, trial.bounds(observation))
    null = "no gradient" if grad_output == 1 else "the gradient for an incoming gradient of 1"
    dead = ""
    for name, found in observation.leaves.items():
        expected, allowed = right[name] * grad_output, bounds[name] * max(abs(grad_output), 1.0)
        mismatch = compare_tensors(found, expected, allowed)
        if mismatch is not None:
            return failing(mismatch.describe(f"gradient at {name}"), name)
        passing = torch.zeros_like(expected) if grad_output == 1 else right[name]
        if compare_tensors(passing, expected, allowed) is None:
            dead = f"{null} at {name}"
    return vacuous(dead) if dead else PASS


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
    calls_again=True,
    restrict=ordinary,
    adapt=_few_rows,
    skip_reason=_needs_leaves,
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1", "GRAD-3", "GRAD-4", "LINEAR-1"),
    points_to=("upstream-ignored-weight",),
)
def leaves_scale_with_upstream(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_APPLICABLE
    per_token = case.spec.terms[0].reduction is Reduction.NONE
    factor = UPSTREAM[recipe.seed % len(UPSTREAM)]
    shape = case.pairing.output_shape
    grad_output = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape) % 5 / 2 + factor
    observation = trial.observe(case, grad_output if per_token else factor)
    if observation.problem is not None:
        return not_answered(observation)
    if per_token:
        pairing = weighted_by(grad_output, case)
        scaled = replace(case, pairing=pairing, oracle=evaluate(pairing, case.batch))
        judgement = judge_leaves(trial, replace(observation, case=scaled))
    else:
        judgement = judge_leaves(trial, observation, factor)
    if judgement.verdict is Verdict.FAIL:
        coming = "a different factor per token" if per_token else f"{factor:g}"
        return replace(judgement, message=f"with an incoming gradient of {coming}: {judgement.message}")
    return judgement


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
