"""Laws on value and gradient, against the float64 oracle, within bounds that are shown to be alive on every case."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import Pairing, first_logit
from shiftproof.reference.spec import Reduction

from ..cases import Case
from ..compare import compare_tensors, different_gradients, same_value
from ..liveness import dead_gradient_bound, dead_value_bound
from ..recipe import Recipe, Regime
from ..strategies import Space
from ..trial import Observation, Trial
from ..verdict import Level, Verdict
from .base import NOT_MEANT, PASS, Judgement, failing, law, needs_gradient, not_answered, trained, vacuous

UPSTREAM = (0.5, 3.0, -2.0, 7.0)


def ordinary(space: Space) -> Space:
    return {**space, "regime": (Regime.NORMAL, Regime.SHARP, Regime.TIES)}


def judge_value(trial: Trial, observation: Observation) -> Judgement:
    """The value against the oracle's; vacuous where a null candidate's value would pass."""
    case = observation.case
    expected = case.oracle.value
    assert observation.value is not None
    assert observation.returned is not None
    if expected is None or (math.isnan(expected) and has_empty_group(case)):
        return NOT_MEANT  # what nothing divided by nothing is, is for the laws on the edges
    bounds = trial.bounds(observation)
    if case.spec.terms[0].reduction is Reduction.NONE:
        right, allowed = _spread(observation, case.oracle.per_token), _spread(observation, bounds.per_token)
        mismatch = compare_tensors(observation.returned.reshape(right.shape), right, allowed)
        if mismatch is not None:
            return failing(mismatch.describe("loss"), "value")
    elif not same_value(observation.value, expected, bounds.value):
        off = abs(observation.value - expected)
        return failing(f"the loss is {observation.value:.9g}; {expected:.9g} ± {bounds.value:.2g} is right", _kind(off))
    null = dead_value_bound(case, bounds)
    return vacuous(null) if null else PASS


def has_empty_group(case: Case) -> bool:
    """Whether a codebook, a stream or the whole has no pair, and the spec says that its mean is NaN."""
    return case.pairing.empty is None or math.isnan(case.pairing.empty)


def judge_gradient(trial: Trial, observation: Observation, upstream: float = 1.0) -> Judgement:
    """The gradient against ``upstream`` times the oracle's, element by element; vacuous where a null would pass."""
    case = observation.case
    if observation.gradients is None:
        return failing("no gradient at the logits", "no gradient")
    bounds = trial.bounds(observation)
    expected = {name: gradient * upstream for name, gradient in case.oracle.gradients.items()}
    allowed = {name: bound * max(abs(upstream), 1.0) for name, bound in bounds.gradients.items()}
    difference = different_gradients(observation.gradients, expected, allowed)
    if difference is not None:
        return failing(difference, "gradient")
    null = dead_gradient_bound(case, bounds)
    return vacuous(null) if null else PASS


def judge_both(trial: Trial, observation: Observation) -> Judgement:
    """Value, then gradient where there is one. Vacuous only if neither proves anything."""
    value = judge_value(trial, observation)
    if value.verdict is Verdict.FAIL or not trial.candidate.gradient:
        return value
    gradient = judge_gradient(trial, observation)
    return value if gradient.verdict is Verdict.VACUOUS else gradient


def _spread(observation: Observation, per_pair: Tensor) -> Tensor:
    """One number a pair -> one a label position that the output has, 0 where nothing is scored."""
    case = observation.case
    dense = torch.zeros(case.pairing.output_shape, dtype=torch.float64)
    first = first_logit(case.spec.terms[0], case.batch)
    for pair, number in zip(case.pairing.pairs, per_pair.tolist(), strict=True):
        dense[pair.logit[0], pair.logit[1] - first] = number
    return dense


def _kind(off: float) -> str:
    return "not finite" if math.isnan(off) or math.isinf(off) else "value"


@law(
    "VALUE-1",
    "the loss is the oracle's",
    source="float64 reference on the rounded inputs",
    budget=130,
    narrow=ordinary,
    presumes=("CONTRACT-1", "ALIGN-1", "SELECT-1", "REDUCE-1"),
    large=True,
    suggests=("no-upcast", "log-eps", "clamped"),
)
def value(trial: Trial, recipe: Recipe) -> Judgement:
    looked = trained(trial, recipe)
    return looked if isinstance(looked, Judgement) else judge_value(trial, looked)


@law(
    "GRAD-1",
    "every element of the gradient is the oracle's",
    source="float64 reference on the rounded inputs",
    budget=130,
    narrow=ordinary,
    presumes=("CONTRACT-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1"),
    large=True,
    excuse=needs_gradient,
    suggests=("true-class-cancel", "gradient-of-another", "no-upcast"),
)
def gradient(trial: Trial, recipe: Recipe) -> Judgement:
    looked = trained(trial, recipe)
    return looked if isinstance(looked, Judgement) else judge_gradient(trial, looked)


@law(
    "GRAD-2",
    "logit rows that nobody is scored on have a gradient of exactly zero",
    source="torch.nn.functional.cross_entropy ignore_index",
    budget=40,
    narrow=ordinary,
    excuse=needs_gradient,
    presumes=("CONTRACT-1", "ALIGN-1"),
    suggests=("aux-over-ignored", "smooth-ignored"),
)
def zero_where_ignored(trial: Trial, recipe: Recipe) -> Judgement:
    looked = trained(trial, recipe, gradient=True)
    if isinstance(looked, Judgement):
        return looked
    assert looked.gradients is not None
    judgement = NOT_MEANT
    for name, gradient in looked.gradients.items():
        idle = torch.ones(gradient.shape[:-1], dtype=torch.bool)
        for pair in looked.case.pairing.of(name):
            idle[pair.logit] = False
        if not bool(idle.any()):
            continue
        mismatch = compare_tensors(gradient[idle], torch.zeros_like(gradient[idle]), 0.0)
        if mismatch is not None:
            return failing(mismatch.describe("gradient of ignored rows"), "ignored rows")
        judgement = PASS
    return judgement


@law(
    "GRAD-3",
    "the incoming gradient scales every element",
    source="fla#963; torchtitan ChunkedLossWrapper, DeepSpeed's tiled loss",
    budget=40,
    narrow=ordinary,
    excuse=needs_gradient,
    presumes=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
    suggests=("upstream-ignored",),
)
def scales_with_upstream(trial: Trial, recipe: Recipe) -> Judgement:
    upstream = UPSTREAM[recipe.seed % len(UPSTREAM)]
    if trial.is_linear and not trial.linear(trial.case(recipe)).by_hidden:
        return NOT_MEANT  # what the weight does with the incoming gradient is for LINEAR-2
    looked = trained(trial, recipe, upstream)
    if isinstance(looked, Judgement):
        return looked
    judgement = judge_gradient(trial, looked, upstream)
    if judgement.verdict is Verdict.FAIL:
        return replace(judgement, message=f"with an incoming gradient of {upstream:g}: {judgement.message}")
    return judgement


@law(
    "GRAD-4",
    "under reduction none, each token's own incoming gradient scales its row",
    source="Liger#680, #968: every row was scaled by the first row's",
    budget=40,
    narrow=ordinary,
    excuse=lambda trial: (
        needs_gradient(trial) or (None if trial.spec.terms[0].reduction is Reduction.NONE else "its loss is one number")
    ),
    presumes=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
    suggests=("upstream-row-0",),
)
def scales_row_by_row(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_MEANT
    shape = case.pairing.output_shape
    upstream = 1.0 + torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape) % 5 / 2
    observation = trial.observe(case, upstream)
    if observation.problem is not None:
        return not_answered(observation)
    pairing = weighted_by(upstream, case)
    scaled = replace(case, pairing=pairing, oracle=evaluate(pairing, case.batch))
    return judge_gradient(trial, replace(observation, case=scaled))


def weighted_by(upstream: Tensor, case: Case) -> Pairing:
    """The pairs of a case whose losses have an incoming gradient each, ``upstream`` in the shape of the output."""
    first = first_logit(case.spec.terms[0], case.batch)
    return replace(
        case.pairing,
        pairs=tuple(
            pair._replace(weight=pair.weight * float(upstream[pair.logit[0], pair.logit[1] - first]))
            for pair in case.pairing.pairs
        ),
    )


@law(
    "GRAD-5",
    "going backward again, where that is possible, gives the same gradient again",
    source="Liger rescales the gradient that it kept in place, so that the second time it is scaled twice",
    budget=30,
    narrow=ordinary,
    excuse=needs_gradient,
    presumes=("CONTRACT-1", "ALIGN-1", "GRAD-1", "GRAD-3"),
    suggests=("second-backward",),
)
def backward_again(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_MEANT
    upstream = UPSTREAM[recipe.seed % len(UPSTREAM)]
    observation = trial.observe(case, upstream, backwards=2)
    if observation.problem is not None:
        return PASS if observation.problem.verdict is Verdict.ERROR else not_answered(observation)
    judgement = judge_gradient(trial, observation, 2 * upstream)
    if judgement.verdict is Verdict.FAIL:
        return replace(judgement, message=f"backward twice, {upstream:g} coming in: {judgement.message}")
    return judgement


@law(
    "STABLE-1",
    "logits of ±1e4 give the oracle's value and gradient",
    source="exp overflows fp32 above 88; log(softmax) underflows",
    budget=40,
    focus=lambda recipe: replace(recipe, regime=Regime.HUGE),
    presumes=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    suggests=("exp-overflow", "log-eps", "clamped"),
)
def huge_logits(trial: Trial, recipe: Recipe) -> Judgement:
    looked = trained(trial, recipe)
    return looked if isinstance(looked, Judgement) else judge_both(trial, looked)


@law(
    "STABLE-2",
    "classes of logit −inf off the target have probability 0 and harm nothing",
    source="constrained decoding and vocabulary padding mask classes with −inf",
    budget=40,
    focus=lambda recipe: replace(recipe, regime=Regime.MINUS_INF, classes=max(recipe.classes, 3)),
    presumes=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    excuse=lambda trial: (
        "label smoothing charges every class, those of probability 0 infinitely"
        if any(term.score.label_smoothing for term in trial.spec.terms)
        else "it is given no logits, and no product of finite numbers is −inf"
        if trial.is_linear
        else None
    ),
)
def minus_infinity(trial: Trial, recipe: Recipe) -> Judgement:
    looked = trained(trial, recipe)
    return looked if isinstance(looked, Judgement) else judge_both(trial, looked)


@law(
    "STABLE-3",
    "NaN on a row that counts reaches the loss",
    source="trainers that hide it: nan_to_num, `if loss.item() > 0`",
    budget=20,
    focus=lambda recipe: replace(recipe, regime=Regime.NAN_VALID),
    presumes=("CONTRACT-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1"),
    suggests=("nan-hidden",),
)
def nan_surfaces(trial: Trial, recipe: Recipe) -> Judgement:
    looked = trained(trial, recipe)
    if isinstance(looked, Judgement):
        return looked
    assert looked.value is not None
    if math.isfinite(looked.value):
        return failing(f"a row that counts holds NaN, and the loss is {looked.value:.6g}", "hidden")
    return PASS


@law(
    "STABLE-4",
    "NaN on rows that nobody is scored on does not reach the loss",
    source="undefined by consensus: finite in torch, transformers and Liger, NaN where a mask multiplies",
    budget=15,
    level=Level.SHOULD,
    focus=lambda recipe: replace(recipe, regime=Regime.NAN_IGNORED),
    presumes=("CONTRACT-1", "VALUE-1"),
)
def nan_ignored(trial: Trial, recipe: Recipe) -> Judgement:
    looked = trained(trial, recipe)
    return looked if isinstance(looked, Judgement) else judge_value(trial, looked)
