"""Laws on losses that multiply hidden states with a weight themselves: the gradient of every leaf is right.

All other laws judge such a loss at its logits, whose gradient is read back from the leaf that carries them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.spec import Reduction

from ..compare import compare_tensors, derive_leaf_bounds
from ..linear import through
from ..recipe import Recipe
from ..trial import Observation, Trial
from ..verdict import Verdict
from .base import NOT_MEANT, PASS, Judgement, failing, law, needs_gradient, not_answered, trained, vacuous
from .numbers import UPSTREAM, ordinary, weighted_by

_MANY = 2048  # rows: where a sum of like terms in bf16, one by one, has long come to a standstill


def _needs_leaves(trial: Trial) -> str | None:
    return needs_gradient(trial) or (None if trial.is_linear else "it is given logits")


def judge_leaves(trial: Trial, observation: Observation, upstream: float = 1.0) -> Judgement:
    """The gradient of every leaf against ``upstream`` times the right one; vacuous where 0, or under another incoming
    gradient than 1 that of 1, would pass at one of them."""
    if observation.leaves is None:
        return failing("no gradient at the hidden states, the weight or the bias", "no gradient")
    case = observation.case
    linear = trial.linear(case)
    right = through(linear, case.oracle.gradients["logits"])
    bounds = derive_leaf_bounds(case, linear, trial.bounds(observation))
    null = "no gradient" if upstream == 1 else "the gradient of 1 coming in"
    dead = ""
    for name, found in observation.leaves.items():
        expected, allowed = right[name] * upstream, bounds[name] * max(abs(upstream), 1.0)
        mismatch = compare_tensors(found, expected, allowed)
        if mismatch is not None:
            return failing(mismatch.describe(f"gradient at {name}"), name)
        passing = torch.zeros_like(expected) if upstream == 1 else right[name]
        if compare_tensors(passing, expected, allowed) is None:
            dead = f"{null} at {name}"
    return vacuous(dead) if dead else PASS


def _few_rows(recipe: Recipe) -> Recipe:
    """So few rows that no way of adding them up costs much: what fails here is no matter of rounding."""
    return replace(recipe, rows=min(recipe.rows, 2), length=min(recipe.length, 4))


@law(
    "LINEAR-1",
    "hidden states, weight and bias have the gradients that the logits' comes to",
    source="∂L/∂h = G·W, ∂L/∂W = Gᵀ·h, ∂L/∂b = Σ G, with G = ∂L/∂logits",
    budget=60,
    narrow=ordinary,
    focus=_few_rows,
    excuse=_needs_leaves,
    presumes=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
)
def leaves(trial: Trial, recipe: Recipe) -> Judgement:
    looked = trained(trial, recipe, gradient=True)
    return looked if isinstance(looked, Judgement) else judge_leaves(trial, looked)


@law(
    "LINEAR-2",
    "the incoming gradient scales the gradients of hidden states, weight and bias alike",
    source="DeepSpeed's tiled loss scales that of the hidden states alone; Liger#968: reduction none",
    budget=40,
    narrow=ordinary,
    focus=_few_rows,
    excuse=_needs_leaves,
    presumes=("CONTRACT-1", "ALIGN-1", "GRAD-1", "GRAD-3", "GRAD-4", "LINEAR-1"),
    suggests=("upstream-ignored-weight",),
)
def leaves_scale_with_upstream(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_MEANT
    per_token = case.spec.terms[0].reduction is Reduction.NONE
    factor = UPSTREAM[recipe.seed % len(UPSTREAM)]
    shape = case.pairing.output_shape
    upstream = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape) % 5 / 2 + factor
    observation = trial.observe(case, upstream if per_token else factor)
    if observation.problem is not None:
        return not_answered(observation)
    if per_token:
        pairing = weighted_by(upstream, case)
        scaled = replace(case, pairing=pairing, oracle=evaluate(pairing, case.batch))
        judgement = judge_leaves(trial, replace(observation, case=scaled))
    else:
        judgement = judge_leaves(trial, observation, factor)
    if judgement.verdict is Verdict.FAIL:
        coming = "another a token" if per_token else f"{factor:g}"
        return replace(judgement, message=f"with an incoming gradient of {coming}: {judgement.message}")
    return judgement


@law(
    "LINEAR-3",
    "the gradients of weight and bias over many rows lose no more than sums in fp32 do",
    source="fla#874: the weight's gradient was added up over chunks in bf16",
    budget=8,
    narrow=ordinary,
    focus=lambda recipe: replace(recipe, rows=4, length=_MANY // 4, classes=min(recipe.classes, 7)),
    excuse=_needs_leaves,
    presumes=("CONTRACT-1", "ALIGN-1", "GRAD-1", "LINEAR-1"),
    suggests=("low-precision-accumulate",),
)
def many_rows(trial: Trial, recipe: Recipe) -> Judgement:
    looked = trained(trial, recipe, gradient=True)
    return looked if isinstance(looked, Judgement) else judge_leaves(trial, looked)
