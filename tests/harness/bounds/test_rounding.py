"""Right scores stay within the errors that are granted them, in any order of arithmetic; others do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.harness.bounds.rounding import Errors, rounding
from shiftproof.harness.cases.logits import bell
from shiftproof.reference.score import Scores, evaluate_rows
from shiftproof.reference.spec import Score, Smoothing

SAFETY = 2.0
FP32, BF16, FP16 = 2.0**-24, 2.0**-8, 2.0**-11
FLOOR = {torch.float16: 2.0**-24, torch.bfloat16: 2.0**-126, torch.float32: 2.0**-126}
OTHERS = Smoothing.OTHERS
HOWS = {
    "plain": Score(),
    "smoothed": Score(label_smoothing=0.1),
    "smoothed much": Score(label_smoothing=0.9),
    "smoothed over the others": Score(label_smoothing=0.1, smoothing_over=OTHERS),
    "little z-loss": Score(z_loss=1e-4),
    "much z-loss": Score(z_loss=1.0),
    "capped": Score(softcap=30.0),
    "capped low": Score(softcap=2.0),
    "scaled down": Score(logit_scale=0.1),
    "scaled up": Score(logit_scale=4.0),
    "class weights": Score(class_weights=True),
    "class weights, smoothed": Score(class_weights=True, label_smoothing=0.1),
    "dft": Score(dft=True),
    "dft, capped": Score(dft=True, softcap=30.0),
    "dft, class weights": Score(dft=True, class_weights=True),
    "everything": Score(
        label_smoothing=0.2, smoothing_over=OTHERS, z_loss=1e-2, softcap=15.0, logit_scale=0.5, class_weights=True
    ),
}
every_how = pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)


# Right scores of rows [n, V], each by other arithmetic. ``c`` is [V], ones where the score has no class weights.

Implementation = Callable[[Tensor, Tensor, Score, Tensor], Tensor]


def charges(how: Score, classes: int) -> tuple[float, float]:
    """What the target is charged on top, and what every class is."""
    if how.smoothing_over is OTHERS:
        share = how.label_smoothing / (classes - 1)
        return 1 - how.label_smoothing - share, share
    return 1 - how.label_smoothing, how.label_smoothing / classes


def capped(rows: Tensor, how: Score) -> Tensor:
    z = rows * how.logit_scale if how.logit_scale != 1 else rows
    return z if how.softcap is None else how.softcap * torch.tanh(z / how.softcap)


def finished(loss: Tensor, lse: Tensor, log_p: Tensor, how: Score) -> Tensor:
    loss = loss + how.z_loss * lse**2 if how.z_loss else loss
    return loss * log_p.detach().exp() if how.dft else loss


def at(values: Tensor, targets: Tensor) -> Tensor:
    return values.gather(-1, targets[:, None]).squeeze(-1)


def by_functions(rows: Tensor, targets: Tensor, how: Score, c: Tensor, z: Tensor | None = None) -> Tensor:
    """F.cross_entropy where it has the score, else its log_softmax."""
    z = capped(rows, how) if z is None else z
    log_p = F.log_softmax(z, -1)
    if how.smoothing_over is OTHERS and how.label_smoothing:
        hard, share = charges(how, z.shape[-1])
        loss = -hard * c[targets] * at(log_p, targets) - share * (log_p * c).sum(-1)
    else:
        weight = c if how.class_weights else None
        loss = F.cross_entropy(z, targets, weight=weight, label_smoothing=how.label_smoothing, reduction="none")
    return finished(loss, torch.logsumexp(z, -1), at(log_p, targets), how)


def by_a_sigmoid(rows: Tensor, targets: Tensor, how: Score, c: Tensor) -> Tensor:
    """tanh as 2σ − 1, as kernels without a tanh have it."""
    z = rows / (1 / how.logit_scale)
    if how.softcap is not None:
        z = how.softcap * (2 * torch.sigmoid(z * (2 / how.softcap)) - 1)
    return by_functions(rows, targets, how, c, z)


def by_target_distribution(rows: Tensor, targets: Tensor, how: Score, c: Tensor) -> Tensor:
    z = capped(rows, how)
    hard, share = charges(how, z.shape[-1])
    log_p = F.log_softmax(z, -1)
    if how.label_smoothing:
        q = torch.full_like(z, share).scatter(-1, targets[:, None], hard + share)
        loss = -(c * q * log_p).sum(-1)
    else:
        loss = -at(log_p, targets) * c[targets]
    return finished(loss, torch.logsumexp(z, -1), at(log_p, targets), how)


def by_logits(rows: Tensor, targets: Tensor, how: Score, c: Tensor) -> Tensor:
    """The logsumexp less logits and their sum, as in Liger."""
    z = capped(rows, how)
    hard, share = charges(how, z.shape[-1])
    lse = torch.logsumexp(z, -1)
    loss = hard * (lse - at(z, targets)) * c[targets]
    if how.label_smoothing:
        loss = loss + share * c.sum() * lse - (share * c * z).sum(-1)
    return finished(loss, lse, at(z, targets) - lse, how)


def by_chunks(rows: Tensor, targets: Tensor, how: Score, c: Tensor) -> Tensor:
    """A thousand classes at a time."""
    z = capped(rows, how)
    hard, share = charges(how, z.shape[-1])
    highest = z.detach().amax(-1)
    parts = z.split(1000, -1)
    lse = highest + torch.stack([torch.exp(part - highest[:, None]).sum(-1) for part in parts]).sum(0).log()
    loss = hard * (lse - at(z, targets)) * c[targets]
    if how.label_smoothing:
        sums = [((lse[:, None] - part) * w).sum(-1) for part, w in zip(parts, c.split(1000), strict=True)]
        loss = loss + share * torch.stack(sums).sum(0)
    return finished(loss, lse, at(z, targets) - lse, how)


class _ByHand(torch.autograd.Function):
    """Loss and gradient in one pass, in fp32."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, z: Tensor, targets: Tensor, how: Score, c: Tensor) -> Tensor:
        x, z = z, capped(z, how)
        hard, share = charges(how, z.shape[-1])
        highest = z.amax(-1, keepdim=True)
        powers = torch.exp(z - highest)
        total = powers.sum(-1, keepdim=True)
        lse = (highest + total.log()).squeeze(-1)
        loss = hard * c[targets] * (lse - at(z, targets)) + how.z_loss * lse * lse
        alpha = hard * c[targets] + share * c.sum() + 2 * how.z_loss * lse
        if how.label_smoothing:
            loss = loss + share * (c.sum() * lse - (c * z).t().contiguous().sum(0))
        gradient = alpha[:, None] * powers / total - share * c
        gradient.scatter_add_(-1, targets[:, None], -(hard * c[targets])[:, None])
        if how.dft:
            p = torch.exp(at(z, targets) - lse)
            loss, gradient = loss * p, gradient * p[:, None]
        if how.softcap is not None:
            gradient = gradient * (1 - (z / how.softcap) ** 2)
        ctx.save_for_backward(gradient * how.logit_scale)
        return loss.to(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grad_output: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad_output[0][:, None] * gradient, None, None, None


def by_hand(rows: Tensor, targets: Tensor, how: Score, c: Tensor) -> Tensor:
    return _ByHand.apply(rows, targets, how, c)


RIGHT = (by_functions, by_a_sigmoid, by_target_distribution, by_logits, by_chunks, by_hand)


# Rows of every kind of numbers.


def ordinary(size: float, offset: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda noise, targets: noise * size + offset


def one_hot(noise: Tensor, targets: Tensor) -> Tensor:
    """On the target in every other row, elsewhere in the rest."""
    height = 8.0 + noise.shape[-1].bit_length()
    where = torch.where(torch.arange(len(targets)) % 2 == 0, targets, (targets + 1) % noise.shape[-1])
    return noise.scatter(-1, where[:, None], height)


def huge(noise: Tensor, targets: Tensor) -> Tensor:
    rows = (noise * 3).clone()
    rows[0::3] *= 1000
    rows[1::3] += 1e4
    rows[2::3] -= 1e4
    return rows.clamp(-1e4, 1e4)


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tiny": ordinary(0.01),
    "calm": ordinary(1.0),
    "normal": ordinary(3.0),
    "wide": ordinary(30.0),
    "up": ordinary(1.0, 1000.0),
    "down": ordinary(3.0, -100.0),
    "one-hot": one_hot,
    "ties": lambda noise, targets: (noise * 1.5).round(),
    "equal": lambda noise, targets: (noise[:, :1] * 5).expand(noise.shape).clone(),
    "huge": huge,
}


def draw(kind: str, classes: int, dtype: torch.dtype, n: int = 9) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows [n, V] in ``dtype``, targets [n], weights [n] of either sign, class weights [V] from .05 to 3."""
    targets = (bell(1, 3, (n,)) * 2**13).long() % classes
    rows = KINDS[kind](bell(1, 1, (n, classes)), targets).to(dtype)
    return rows, targets, bell(1, 2, (n,)).float(), 0.05 + 3 * torch.sigmoid(2 * bell(1, 4, (classes,))).float()


def share(error: Tensor, bound: Tensor) -> float:
    """The largest error over its bound; infinite where there is an error and no bound, or either is NaN."""
    ratio = torch.where(error == 0, torch.zeros_like(error), error / bound)
    return float(ratio.nan_to_num(nan=math.inf).max())


def errors(rows: Tensor, targets: Tensor, weights: Tensor, how: Score, c: Tensor, unit: float) -> tuple[Scores, Errors]:
    scores = evaluate_rows(rows.double(), targets, how, c)
    return scores, rounding(rows.double(), targets, weights.abs().double(), scores, how, c, unit)


def shares(
    right: Implementation, how: Score, kind: str, classes: int, dtype: torch.dtype, unit: float = FP32
) -> tuple[float, float]:
    """The worst score and the worst element of the gradient, over what is allowed. Native if ``unit`` is not fp32's."""
    rows, targets, weights, c = draw(kind, classes, dtype)
    native = unit != FP32
    weights = weights.to(dtype).float() if native else weights
    scores, allowed = errors(rows, targets, weights, how, c, unit)
    leaf = rows.clone().requires_grad_()
    used = leaf if native else leaf.float()
    loss = right(used, targets, how, c.to(used.dtype) if how.class_weights else torch.ones_like(c, dtype=used.dtype))
    loss.backward(weights.to(loss.dtype))
    assert leaf.grad is not None
    gradient = scores.gradient * weights.double()[:, None]
    eps = torch.finfo(dtype).eps
    bound = SAFETY * (allowed.gradient + eps * gradient.abs() + FLOOR[dtype])
    out = torch.finfo(loss.dtype)
    score_bound = SAFETY * (allowed.score + out.eps * (scores.loss.abs() + out.smallest_normal))
    return (
        share((loss.detach().double() - scores.loss).abs(), score_bound),
        share((leaf.grad.double() - gradient).abs(), bound),
    )


@pytest.mark.representatives(24)
@pytest.mark.parametrize("right", RIGHT, ids=lambda right: right.__name__)
@every_how
def test_right_scores_are_within_bounds(how: Score, right: Implementation) -> None:
    worst = {
        (kind, classes, dtype): shares(right, how, kind, classes, dtype)
        for kind in KINDS
        for classes, dtype in (
            (2, torch.float32),
            (3, torch.float16),
            (11, torch.float32),
            (11, torch.bfloat16),
            (128, torch.float32),
            (128, torch.float16),
        )
    }
    worst |= {(kind, 4099, torch.float32): shares(right, how, kind, 4099, torch.float32) for kind in KINDS}
    at_worst = max(worst, key=lambda key: max(worst[key]))
    print(f"worst of {len(worst)}: {worst[at_worst]} at {at_worst}")
    assert max(worst[at_worst]) <= 1.0, at_worst


@pytest.mark.slow
@pytest.mark.parametrize("right", RIGHT, ids=lambda right: right.__name__)
@every_how
def test_right_scores_over_many_classes_are_within_bounds(how: Score, right: Implementation) -> None:
    for kind in KINDS:
        assert max(shares(right, how, kind, 32000, torch.float32)) <= 1.0, kind


@pytest.mark.parametrize("right", [by_functions, by_target_distribution, by_logits], ids=lambda right: right.__name__)
@pytest.mark.parametrize(("dtype", "unit"), [(torch.bfloat16, BF16), (torch.float16, FP16)], ids=["bf16", "fp16"])
@every_how
def test_right_native_scores_are_within_bounds(
    how: Score, dtype: torch.dtype, unit: float, right: Implementation
) -> None:
    """Where the sum over V and the squared logsumexp do not overflow, which no bound forgives."""
    for kind in ("tiny", "calm", "normal", "ties", "one-hot"):
        for classes in (2, 3, 11, 128) if dtype is torch.float16 else (2, 3, 11, 128, 4099):
            assert max(shares(right, how, kind, classes, dtype, unit)) <= 1.0, (kind, classes)


@every_how
def test_ordinary_errors_are_a_fair_part_of_the_bounds(how: Score) -> None:
    found = [
        shares(right, how, kind, classes, torch.float32)
        for right in RIGHT
        for kind in ("calm", "normal")
        for classes in (11, 128)
    ]
    score, gradient = median(pair[0] for pair in found), median(pair[1] for pair in found)
    print(f"median of the worst error/bound: score {score:.3f}, gradient {gradient:.3f}")
    assert score > 0.01
    assert gradient > 0.02


@pytest.mark.parametrize("unit", [FP32, BF16, FP16])
@pytest.mark.parametrize("kind", KINDS)
def test_of_cross_entropy_it_is_what_log_probabilities_are_off_by(kind: str, unit: float) -> None:
    classes = 11
    rows, targets, weights, c = draw(kind, classes, torch.float32)
    scores, found = errors(rows, targets, weights, Score(), c, unit)
    logits = rows.double()
    each = unit * (logits.abs().amax(-1) + scores.lse.abs()) + FP32 * (math.log2(classes) + 1 + classes / 8)
    torch.testing.assert_close(found.score, each + unit * at(logits, targets).abs(), rtol=1e-14, atol=0)
    elementwise = torch.exp(logits - scores.lse[:, None]) + F.one_hot(targets, classes)
    expected = (2 * weights.abs().double() * each)[:, None] * elementwise
    torch.testing.assert_close(found.gradient, expected, rtol=1e-14, atol=0)


WRONG = {
    "smoothed": (Score(label_smoothing=0.1), Score()),
    "smoothed a little more": (Score(label_smoothing=0.1), Score(label_smoothing=0.1001)),
    "over the others": (Score(label_smoothing=0.1), Score(label_smoothing=0.1, smoothing_over=OTHERS)),
    "z-loss": (Score(z_loss=1e-4), Score()),
    "twice the z-loss": (Score(z_loss=1e-4), Score(z_loss=2e-4)),
    "capped": (Score(softcap=30.0), Score()),
    "capped a little higher": (Score(softcap=30.0), Score(softcap=31.0)),
    "scaled": (Score(logit_scale=0.1), Score()),
    "scaled a little more": (Score(logit_scale=4.0), Score(logit_scale=4.001)),
    "class weights": (Score(class_weights=True), Score()),
    "class weights under smoothing": (
        Score(class_weights=True, label_smoothing=0.1),
        Score(class_weights=False, label_smoothing=0.1),
    ),
    "dft": (Score(dft=True), Score()),
    "everything but z-loss": (HOWS["everything"], replace(HOWS["everything"], z_loss=0.0)),
    "everything but the scale": (HOWS["everything"], replace(HOWS["everything"], logit_scale=1.0)),
}


@pytest.mark.parametrize("classes", [3, 11, 128, 1024])
@pytest.mark.parametrize(("how", "other"), WRONG.values(), ids=WRONG)
def test_another_score_is_out_of_bounds(how: Score, other: Score, classes: int) -> None:
    rows, targets, weights, c = draw("calm", classes, torch.float32)
    scores, allowed = errors(rows, targets, weights, how, c, FP32)
    wrong = evaluate_rows(rows.double(), targets, other, c)
    assert bool(((wrong.loss - scores.loss).abs() > 2 * SAFETY * allowed.score).any())
    gradient, expected = (found.gradient * weights.double()[:, None] for found in (wrong, scores))
    eps = torch.finfo(torch.float32).eps
    assert bool(((gradient - expected).abs() > 2 * SAFETY * (allowed.gradient + eps * expected.abs())).any())


@pytest.mark.parametrize("unit", [FP32, FP16, BF16])
@pytest.mark.parametrize("classes", [3, 11, 128])
@every_how
def test_no_null_candidate_is_within_bounds(how: Score, classes: int, unit: float) -> None:
    """Zeros, and the next class as the target, in the arithmetic of every dtype."""
    rows, targets, weights, c = draw("calm", classes, torch.float32)
    scores, allowed = errors(rows, targets, weights, how, c, unit)
    gradient = scores.gradient * weights.double()[:, None]
    moved = evaluate_rows(rows.double(), (targets + 1) % classes, how, c)
    for loss, slopes in ((0 * moved.loss, 0 * gradient), (moved.loss, moved.gradient * weights.double()[:, None])):
        # Of a score that is nine tenths the same whatever the target, eight bits see only the gradient.
        if unit < BF16 or how.label_smoothing < 0.5:
            assert bool(((loss - scores.loss).abs() > SAFETY * allowed.score).any())
        assert bool(((slopes - gradient).abs() > SAFETY * allowed.gradient).any())


@every_how
def test_forbidden_classes_have_finite_bounds(how: Score) -> None:
    rows, targets, weights, c = draw("normal", 11, torch.float32)
    rows = rows.scatter(-1, ((targets + 1) % 11)[:, None], -math.inf)
    _, allowed = errors(rows, targets, weights, how, c, FP32)
    assert bool(allowed.gradient.isfinite().all())
    assert bool((allowed.gradient >= 0).all())
    assert bool(allowed.score.isfinite().all())


@every_how
def test_nothing_that_is_given_is_changed(how: Score) -> None:
    rows, targets, weights, c = draw("normal", 11, torch.float64)
    scores = evaluate_rows(rows, targets, how, c)
    given = [tensor.clone() for tensor in (rows, targets, weights, c, *scores)]
    rounding(rows, targets, weights.double().abs(), scores, how, c, FP32)
    assert all(a.equal(b) for a, b in zip(given, (rows, targets, weights, c, *scores), strict=True))


def test_no_rows_have_no_errors() -> None:
    rows, targets, weights, c = draw("normal", 11, torch.float32, 0)
    _, allowed = errors(rows, targets, weights, HOWS["everything"], c, FP32)
    assert (allowed.score.shape, allowed.gradient.shape) == ((0,), (0, 11))
