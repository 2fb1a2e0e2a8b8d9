"""Laws on value and gradient against the float64 oracle. Every case proves that its bounds are tight enough."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import first_logit
from shiftproof.reference.spec import Compute, Reduction

from ..bounds.compare import compare_tensors, different_gradients, same_value
from ..bounds.derive import Bounds
from ..bounds.liveness import dead_gradient_bound, dead_value_bound
from ..candidates.loss import Observation, Trial
from ..candidates.variant import Manner, Variant
from ..cases.build import Case
from ..cases.recipe import Delay, Hollow, Ids, Mask, Recipe, Regime, Streams
from ..cases.space import Space
from ..results import Level, Verdict
from .base import NOT_APPLICABLE, PASS, Judgement, failing, lacking, law, needs_gradient, on, trained, vacuous

_FACTORS = (0.5, 3.0, -2.0, 7.0)
_MOST_IN_FP16 = 32768.0
_ROWS_OF_MANY = 16, 1025
_MANY_ELEMENTS = 2_000_000
_FEW_CLASSES = 32
_SPREADS = 3  # of the sum over rows; the bound of a row is its worst case, and so some two of its standard deviations
_TELLS = 0.05
_INFINITE = (Regime.TARGET_MINUS_INF, Regime.PLUS_INF)


def factor_of(case: Case) -> float:
    """An incoming gradient other than 1. Cases of other seeds have others."""
    return _FACTORS[case.recipe.seed % len(_FACTORS)]


def per_token(case: Case) -> Tensor:
    """Another incoming gradient for each element of an output that is not a scalar."""
    shape = case.pairing.output_shape
    return 1.0 + torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape) % 5 / 2


UPSTREAM = Variant(
    "upstream", grad_output=factor_of, words=lambda case: f"with an incoming gradient of {factor_of(case):g}"
)
UPSTREAM_PER_TOKEN = Variant("upstream per token", grad_output=per_token)
BACKWARD_TWICE = Variant(
    "backward twice",
    grad_output=factor_of,
    manner=lambda case: Manner(n_backward=2),
    refusable=True,
    words=lambda case: f"backward twice, incoming gradient {factor_of(case):g}",
)


def ordinary(space: Space) -> Space:
    return {**space, "regime": (Regime.NORMAL, Regime.SHARP, Regime.TIES)}


def judge_value(trial: Trial, observation: Observation, bounds: Bounds | None = None) -> Judgement:
    """Compare the value with the oracle's. The judgement is vacuous if a null candidate's value would pass.

    ``bounds`` are the trial's if not given.
    """
    case = observation.case
    expected = case.oracle.value
    assert observation.value is not None
    assert observation.returned is not None
    if expected is None or (math.isnan(expected) and has_empty_group(case)):
        return NOT_APPLICABLE  # the laws on the edges judge the value of 0/0
    bounds = bounds or trial.bounds(observation)
    if case.spec.terms[0].reduction is Reduction.NONE:
        right, allowed = _spread(observation, case.oracle.per_token), _spread(observation, bounds.per_token)
        mismatch = compare_tensors(observation.returned.reshape(right.shape), right, allowed)
        if mismatch is not None:
            return failing(mismatch.describe("loss"), "value")
    elif not same_value(observation.value, expected, bounds.value):
        off = abs(observation.value - expected)
        return failing(f"the loss is {observation.value:.9g}; expected {expected:.9g} ± {bounds.value:.2g}", _kind(off))
    null = dead_value_bound(case, bounds)
    return vacuous(null) if null else PASS


def has_empty_group(case: Case) -> bool:
    """Return whether a codebook, a stream or the whole case has no pair, and the spec sets its mean to NaN."""
    return case.pairing.empty is None or math.isnan(case.pairing.empty)


def judge_gradient(trial: Trial, observation: Observation, bounds: Bounds | None = None) -> Judgement:
    """Compare the gradient with the oracle's, times the incoming one, element by element.

    ``bounds`` are the trial's if not given. The judgement is vacuous if a null gradient would pass.
    """
    case = observation.case
    if observation.gradients is None:
        return failing("no gradient at the logits", "no gradient")
    bounds = bounds or trial.bounds(observation)
    factor = observation.factor
    expected = {name: gradient * factor for name, gradient in case.oracle.gradients.items()}
    allowed = {name: bound * max(abs(factor), 1.0) for name, bound in bounds.gradients.items()}
    difference = different_gradients(observation.gradients, expected, allowed)
    if difference is not None:
        return failing(difference, "gradient")
    null = dead_gradient_bound(case, bounds)
    return vacuous(null) if null else PASS


def judge_both(trial: Trial, observation: Observation, bounds: Bounds | None = None) -> Judgement:
    """Judge the value, then the gradient if there is one. The judgement is vacuous only if neither proves anything.

    ``bounds`` are the trial's if not given.
    """
    value = judge_value(trial, observation, bounds)
    if value.verdict is Verdict.FAIL or not trial.candidate.gradient:
        return value
    gradient = judge_gradient(trial, observation, bounds)
    return value if gradient.verdict is Verdict.VACUOUS else gradient


def judge_shown(trial: Trial, observation: Observation, bounds: Bounds | None = None) -> Judgement:
    """Judge the value, and the gradient at the logits unless it cannot be read there.

    ``bounds`` are the trial's if not given.
    """
    shows_gradient = trial.skip_reason("GRAD-1") is None
    return (judge_both if shows_gradient else judge_value)(trial, observation, bounds)


def _spread(observation: Observation, per_pair: Tensor) -> Tensor:
    """Turn one number per pair into one per label position of the output. Positions without a pair get 0."""
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
    restrict=ordinary,
    depends_on=("CONTRACT-1", "ALIGN-1", "SELECT-1", "REDUCE-1"),
    points_to=("no-upcast", "log-eps", "clamped"),
)
def value(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe)
    return observed if isinstance(observed, Judgement) else judge_value(trial, observed)


@law(
    "GRAD-1",
    "every element of the gradient is the oracle's",
    source="float64 reference on the rounded inputs",
    budget=130,
    restrict=ordinary,
    depends_on=("CONTRACT-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1"),
    skip_reason=needs_gradient,
    points_to=("true-class-cancel", "gradient-of-another", "no-upcast"),
)
def gradient(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe)
    return observed if isinstance(observed, Judgement) else judge_gradient(trial, observed)


@law(
    "GRAD-2",
    "logit rows that nobody is scored on have a gradient of exactly zero",
    source="torch.nn.functional.cross_entropy ignore_index",
    budget=40,
    restrict=ordinary,
    skip_reason=needs_gradient,
    depends_on=("CONTRACT-1", "ALIGN-1"),
    points_to=("aux-over-ignored", "smooth-ignored"),
)
def zero_where_ignored(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe, gradient=True)
    if isinstance(observed, Judgement):
        return observed
    assert observed.gradients is not None
    judgement = NOT_APPLICABLE
    for name, gradient in observed.gradients.items():
        idle = torch.ones(gradient.shape[:-1], dtype=torch.bool)
        for pair in observed.case.pairing.of(name):
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
    budget=46,
    restrict=ordinary,
    skip_reason=lambda trial: needs_gradient(trial) or lacking(trial, "backward"),
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
    points_to=("upstream-ignored",),
)
@on(UPSTREAM)
def scales_with_upstream(trial: Trial, observed: Observation) -> Judgement:
    if trial.is_linear and not trial.linear(observed.case).by_hidden:
        return NOT_APPLICABLE  # LINEAR-2 judges how the incoming gradient reaches the weight
    return judge_gradient(trial, observed)


@law(
    "GRAD-4",
    "under reduction none, each token's own incoming gradient scales its row",
    source="Liger#680, #968: every row was scaled by the first row's",
    budget=40,
    restrict=ordinary,
    skip_reason=lambda trial: (
        needs_gradient(trial)
        or lacking(trial, "backward")
        or (None if trial.spec.terms[0].reduction is Reduction.NONE else "its loss is a scalar")
    ),
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
    points_to=("upstream-row-0",),
)
@on(UPSTREAM_PER_TOKEN)
def scales_row_by_row(trial: Trial, observed: Observation) -> Judgement:
    return judge_gradient(trial, observed)


@law(
    "GRAD-5",
    "going backward again, where that is possible, gives the same gradient again",
    source="Liger rescales its stored gradient in place, so a second backward scales it twice",
    budget=38,
    restrict=ordinary,
    skip_reason=lambda trial: needs_gradient(trial) or lacking(trial, "backward"),
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1", "GRAD-3"),
    points_to=("second-backward",),
)
@on(BACKWARD_TWICE)
def backward_again(trial: Trial, observed: Observation) -> Judgement:
    return judge_gradient(trial, observed)


def _loss_scale(case: Case) -> float:
    """65536, or in fp16 the largest power of two up to it that leaves every element of the right gradient finite."""
    if case.recipe.dtype != "float16":
        return 65536.0
    most = max(
        (float(gradient.abs().max()) for gradient in case.oracle.gradients.values() if gradient.numel()), default=0
    )
    return 2.0 ** min(16, math.floor(math.log2(_MOST_IN_FP16 / most))) if most and math.isfinite(most) else 1.0


@law(
    "GRAD-6",
    "under a loss scale of 65536 the gradient is as exact as without, and small elements are not lost",
    mode="loss scale",
    source="torch.amp.GradScaler begins at 65536; kernels that store the gradient in fp16 before it is scaled",
    budget=30,
    restrict=ordinary,
    skip_reason=lambda trial: (
        needs_gradient(trial)
        or lacking(trial, "backward")
        or (
            "it is declared to compute in fp16, where the scaled loss is infinite"
            if trial.compute is Compute.NATIVE and "float16" in trial.dtypes
            else None
        )
    ),
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1", "GRAD-3"),
    points_to=("scaled-late",),
)
@on(
    Variant(
        "loss scale", grad_output=_loss_scale, words=lambda case: f"with an incoming gradient of {_loss_scale(case):g}"
    )
)
def survives_loss_scale(trial: Trial, observed: Observation) -> Judgement:
    scale = observed.factor
    pairing = observed.case.pairing
    pairs = tuple(pair._replace(weight=pair.weight * scale) for pair in pairing.pairs)
    scaled = replace(pairing, pairs=pairs)
    case = replace(observed.case, pairing=scaled, oracle=evaluate(scaled, observed.case.batch))
    return judge_gradient(trial, replace(observed, case=case, factor=1.0))


def _many_rows(recipe: Recipe) -> Recipe | None:
    """A case of up to 16384 rows of logits, so that the rounding errors of one row hardly count."""
    of_a_row = _ROWS_OF_MANY[1] * recipe.codebooks * recipe.classes
    most = min(_MANY_ELEMENTS // of_a_row, _ROWS_OF_MANY[0])
    if not most:
        return None
    rows = 1 << (most.bit_length() - 1)  # a mean over them divides by a power of two, which loses nothing
    plain = replace(recipe, masks=(Mask.NONE,), documents=1, hollow=Hollow.NONE, delay=Delay.NONE, ids=Ids.SEEDED)
    return replace(plain, rows=rows, length=_ROWS_OF_MANY[1], regime=Regime.NORMAL, streams=Streams.BOTH)


def _few_classes(space: Space) -> Space:
    few = tuple(classes for classes in space["classes"] if classes <= _FEW_CLASSES)
    return {**space, "classes": few or space["classes"]}


@law(
    "GRAD-7",
    "in 16 bits, small errors of the elements of the gradient do not add up",
    source="a temperature 1% off: each element of a bf16 gradient is within its rounding, and all lean the same way",
    budget=2,
    adapt=_many_rows,
    restrict=_few_classes,
    skip_reason=lambda trial: (
        needs_gradient(trial)
        or ("its gradient is not read at logits" if trial.is_linear else None)
        or (
            None
            if trial.compute is Compute.NATIVE and not {"bfloat16", "float16"}.isdisjoint(trial.dtypes)
            else "each element of its gradient shows as much"
        )
    ),
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
)
def leans_nowhere(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe, gradient=True)
    if isinstance(observed, Judgement):
        return observed
    assert observed.gradients is not None
    bounds = trial.bounds(observed).gradients
    along = length = spread = 0.0
    for name, right in observed.case.oracle.gradients.items():
        along += float((observed.gradients[name] * right).sum())
        length += float((right * right).sum())
        # Errors within a row may go together, as those of its softmax do. Those of different rows do not.
        spread += float((bounds[name] * right.abs()).sum(-1).square().sum())
    kind = getattr(torch, recipe.dtype)
    weights = {pair.weight for pair in observed.case.pairing.pairs}
    is_exact = all(float(torch.tensor(weight).to(kind)) == weight for weight in weights)
    allowed = _SPREADS * math.sqrt(spread) / length + (0.0 if is_exact else torch.finfo(kind).eps)
    if allowed >= _TELLS:
        return vacuous("a gradient 5% too large")
    if abs(along / length - 1) <= allowed:
        return PASS
    return failing(f"along the right gradient, it is {along / length:.4f} times as long; expected 1 ± {allowed:.2g}")


@law(
    "STABLE-1",
    "logits of ±1e4 give the oracle's value and gradient",
    source="exp overflows fp32 above 88; log(softmax) underflows",
    budget=46,
    adapt=lambda recipe: replace(recipe, regime=Regime.HUGE),
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    points_to=("exp-overflow", "log-eps", "clamped"),
)
def huge_logits(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe)
    return observed if isinstance(observed, Judgement) else judge_both(trial, observed)


def _makes_no_infinity(trial: Trial) -> str | None:
    return "it takes no logits, and no product of finite numbers is infinite" if trial.is_linear else None


@law(
    "STABLE-2",
    "classes of logit −inf off the target have probability 0 and harm nothing",
    source="constrained decoding and vocabulary padding mask classes with −inf",
    budget=46,
    adapt=lambda recipe: replace(recipe, regime=Regime.MINUS_INF, classes=max(recipe.classes, 3)),
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    skip_reason=lambda trial: (
        "label smoothing scores every class, and a class of probability 0 costs infinity"
        if any(term.score.label_smoothing for term in trial.spec.terms)
        else _makes_no_infinity(trial)
    ),
)
def minus_infinity(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe)
    return observed if isinstance(observed, Judgement) else judge_both(trial, observed)


@law(
    "STABLE-3",
    "NaN on a row that counts reaches the loss",
    source="trainers that hide it: nan_to_num, `if loss.item() > 0`",
    budget=24,
    adapt=lambda recipe: replace(recipe, regime=Regime.NAN_VALID),
    depends_on=("CONTRACT-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1"),
    points_to=("nan-hidden",),
)
def nan_surfaces(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe)
    if isinstance(observed, Judgement):
        return observed
    assert observed.value is not None
    if math.isfinite(observed.value):
        return failing(
            f"a row that counts holds NaN, but the loss is {observed.value:.6g}; expected NaN or infinity", "hidden"
        )
    return PASS


@law(
    "STABLE-4",
    "NaN on rows that nobody is scored on does not reach the loss",
    source="no consensus: finite in torch, transformers and Liger, NaN where the loss is multiplied by a mask",
    budget=18,
    level=Level.SHOULD,
    adapt=lambda recipe: replace(recipe, regime=Regime.NAN_IGNORED),
    depends_on=("CONTRACT-1", "VALUE-1"),
)
def nan_ignored(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe)
    return observed if isinstance(observed, Judgement) else judge_value(trial, observed)


@law(
    "STABLE-5",
    "a logit of +inf, or of −inf at the target, reaches the loss",
    source="overflow in fp16; torch gives NaN and inf; a clamp of logits, probabilities or losses hides it",
    budget=16,
    restrict=lambda space: {**space, "regime": _INFINITE},
    adapt=lambda recipe: recipe if recipe.regime in _INFINITE else replace(recipe, regime=Regime.TARGET_MINUS_INF),
    depends_on=("CONTRACT-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1"),
    skip_reason=lambda trial: (
        "a softcap makes every logit finite"
        if any(term.score.softcap for term in trial.spec.terms)
        else _makes_no_infinity(trial)
    ),
    points_to=("nan-hidden", "clamped"),
)
def infinity_surfaces(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe)
    if isinstance(observed, Judgement):
        return observed
    assert observed.value is not None
    if math.isfinite(observed.value):
        what = "a logit of +inf" if recipe.regime is Regime.PLUS_INF else "−inf at its target"
        return failing(
            f"a row that counts has {what}, but the loss is {observed.value:.6g}; expected infinity or NaN", "hidden"
        )
    return PASS
