"""Whatever the score's modifiers, the target and weight of a row are read back from its gradient alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.harness.cases.logits import bell
from shiftproof.harness.probe.modified_scores import Read, read_rows
from shiftproof.reference.spec import Score, Smoothing

HOWS = {
    "plain": Score(),
    "smoothed": Score(label_smoothing=0.1),
    "smoothed much": Score(label_smoothing=0.4),
    "smoothed over the others": Score(label_smoothing=0.1, smoothing_over=Smoothing.OTHERS),
    "little z-loss": Score(z_loss=1e-4),
    "much z-loss": Score(z_loss=0.1),
    "capped": Score(softcap=30.0),
    "capped low": Score(softcap=1.0),
    "scaled down": Score(logit_scale=0.1),
    "scaled up": Score(logit_scale=4.0),
    "class weights": Score(class_weights=True),
    "class weights, smoothed": Score(class_weights=True, label_smoothing=0.1),
    "dft": Score(dft=True),
    "dft, capped": Score(dft=True, softcap=15.0, logit_scale=0.5),
    "dft, class weights": Score(dft=True, class_weights=True),
    "everything": Score(
        label_smoothing=0.2,
        smoothing_over=Smoothing.OTHERS,
        z_loss=1e-2,
        softcap=15.0,
        logit_scale=0.5,
        class_weights=True,
    ),
}
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
CLASSES = (2, 3, 5, 11, 128, 4099)
SIZES = (1.0, 0.37, 1e-3, 1e-6)
ROWS = 16
STEP = 2.0**-24  # of fp16's subnormal numbers


def score(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor) -> Tensor:
    """The losses [n] by torch's functions, for autograd."""
    z = rows * how.logit_scale
    z = z if how.softcap is None else how.softcap * torch.tanh(z / how.softcap)
    log_p = F.log_softmax(z, -1)
    others = rows.shape[-1] - (how.smoothing_over is Smoothing.OTHERS)
    share = how.label_smoothing / others
    hard = 1 - how.label_smoothing + share * (how.smoothing_over is Smoothing.ALL)
    q = torch.full_like(z, share).scatter(-1, targets[:, None], hard)
    weights = class_weights.to(z.dtype) if how.class_weights else torch.ones_like(z[0])
    loss = -(weights * q * log_p).sum(-1) + how.z_loss * torch.logsumexp(z, -1) ** 2
    return loss * log_p.gather(-1, targets[:, None])[:, 0].detach().exp() if how.dft else loss


def rows_of(classes: int, seed: int, dtype: torch.dtype, n: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of spread at most 1 a row, targets, and class weights from .1 to 3.1."""
    noise = bell(seed, 1, (n, classes))
    calm = noise / (2 * noise.abs().amax(-1, keepdim=True)) + bell(seed, 2, (n, 1))
    targets = (bell(seed, 3, (n,)) * 2**13).long() % classes
    return calm.to(dtype), targets, 0.1 + 3 * torch.sigmoid(2 * bell(seed, 4, (classes,))).float()


def gradient_of(logits: Tensor, targets: Tensor, weight: float, how: Score, class_weights: Tensor) -> Tensor:
    """In fp32 at least, then in the logits' dtype."""
    leaf = logits.clone().requires_grad_()
    used = leaf if leaf.dtype is torch.float64 else leaf.float()
    (score(used, targets, how, class_weights) * weight).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def tolerance(gradient: Tensor, exact: Tensor) -> Tensor:
    """The share [n] of its weight by which a row may be misread: a few roundings, of its largest element's place."""
    relative = {torch.float64: 1e-10, torch.float32: 3e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-9}
    step = STEP if gradient.dtype is torch.float16 else 0.0
    return relative[gradient.dtype] + step * math.sqrt(gradient.shape[-1]) / exact.norm(dim=-1)


@pytest.mark.representatives(24)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_any_target_and_weight_is_read_back(how: Score, classes: int) -> None:
    seen = 0
    for dtype in DTYPES:
        # With two classes a negative weight on one is a positive weight on the other.
        for weight in (sign * size for size in SIZES for sign in ((1, -1) if classes > 2 else (1,))):
            logits, targets, class_weights = rows_of(classes, 7, dtype)
            gradient = gradient_of(logits, targets, weight, how, class_weights)
            exact = gradient_of(logits.double(), targets, weight, how, class_weights)
            found = read_rows(gradient, logits, how, class_weights)
            allowed = tolerance(gradient, exact)
            # Of fp16 gradients so small that they are a handful of steps, or none, no more can be asked.
            clear = allowed < 0.05
            assert bool(clear.all()) or dtype is torch.float16
            assert found.targets[clear].equal(targets[clear]), (dtype, weight)
            assert bool(((found.weights / weight - 1).abs() <= allowed)[clear].all()), (dtype, weight)
            assert bool((found.residuals <= allowed.clamp_min(2e-6))[clear].all()), (dtype, weight)
            seen += int(clear.sum())
    assert seen >= 3 * len(SIZES) * ROWS


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("how", [Score(z_loss=0.1), HOWS["everything"]], ids=["z-loss", "everything"])
def test_the_sign_of_one_in_two_classes_is_seen_where_the_logsumexp_is_charged(how: Score, dtype: torch.dtype) -> None:
    """Then the two gradients are not multiples of each other: if rounding leaves the difference, it is seen."""
    logits, targets, class_weights = rows_of(2, 3, dtype)
    logits = logits + 3  # a logsumexp well away from 0
    gradient = gradient_of(logits, targets, -1.0, how, class_weights)
    found = read_rows(gradient, logits, how, class_weights)
    if how.z_loss >= 0.1 or dtype in (torch.float64, torch.float32):
        assert found.targets.equal(targets)
        assert bool((found.weights < 0).all())


def test_of_two_classes_the_positive_weight_is_meant() -> None:
    """g = −1·(p − onehot(0)) = (p1, −p1) is also (p1/p0)·(p − onehot(1))."""
    logits = torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    for how in (Score(), Score(softcap=1e9)):
        found = read_rows(torch.tensor([[0.75, -0.75]], dtype=torch.float64), logits, how)
        assert found.targets.tolist() == [1]
        assert found.weights.tolist() == pytest.approx([3.0])


def test_more_rows_than_are_read_at_once() -> None:
    how = Score(label_smoothing=0.1)
    logits, targets, class_weights = rows_of(4099, 1, torch.float32, 150)
    found = read_rows(gradient_of(logits, targets, 1.0, how, class_weights), logits, how)
    assert found.targets.equal(targets)
    assert found.weights.tolist() == pytest.approx([1.0] * 150, rel=1e-5)


def test_rows_are_read_on_their_own() -> None:
    how = HOWS["everything"]
    logits, targets, class_weights = rows_of(11, 5, torch.float32)
    weights = torch.linspace(-2, 2, ROWS)
    leaf = logits.clone().requires_grad_()
    (score(leaf, targets, how, class_weights) * weights).sum().backward()
    assert leaf.grad is not None
    found = read_rows(leaf.grad, logits, how, class_weights)
    assert found.targets.equal(targets)
    assert found.weights.tolist() == pytest.approx(weights.tolist(), rel=1e-5)


def test_forbidden_classes_do_no_harm() -> None:
    logits, targets, class_weights = rows_of(11, 5, torch.float32)
    logits = logits.scatter(-1, ((targets + 1) % 11)[:, None], -math.inf)
    for how in (Score(z_loss=0.1), Score(logit_scale=0.5), Score(softcap=5.0), Score(class_weights=True)):
        found = read_rows(gradient_of(logits, targets, 0.5, how, class_weights), logits, how, class_weights)
        assert found.targets.equal(targets)
        assert found.weights.tolist() == pytest.approx([0.5] * ROWS, rel=1e-5)


def test_a_row_without_gradient_has_no_weight() -> None:
    logits, _, _ = rows_of(5, 1, torch.float32, 3)
    found = read_rows(torch.zeros(3, 5), logits, Score(label_smoothing=0.1))
    assert found.weights.tolist() == [0.0] * 3
    assert found.residuals.tolist() == [0.0] * 3


def test_a_gradient_that_is_not_finite_explains_nothing() -> None:
    logits, targets, class_weights = rows_of(5, 1, torch.float32, 3)
    gradient = gradient_of(logits, targets, 1.0, Score(z_loss=0.1), class_weights)
    gradient[1, 2] = math.nan
    found = read_rows(gradient, logits, Score(z_loss=0.1))
    assert found.residuals.isnan().tolist() == [False, True, False]


def test_no_rows_read_as_none() -> None:
    found = read_rows(torch.zeros(0, 5), torch.zeros(0, 5), Score(z_loss=0.1))
    assert [field.shape for field in found] == [(0,)] * 3


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_what_the_score_does_not_explain_is_left_over(how: Score) -> None:
    """A second target, or another score's gradient."""
    logits, targets, class_weights = rows_of(11, 2, torch.float32)
    first = gradient_of(logits, targets, 1.0, how, class_weights)
    second = gradient_of(logits, (targets + 1) % 11, 1.0, how, class_weights)
    assert bool((read_rows(first + second, logits, how, class_weights).residuals > 0.05).all())
    other = Score(label_smoothing=0.7) if how.label_smoothing < 0.4 else Score()
    strange = gradient_of(logits, targets, 1.0, other, class_weights)
    found: Read = read_rows(strange, logits, how, class_weights)
    assert bool((found.residuals > 0.02).all())
