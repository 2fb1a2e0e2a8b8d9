"""Read from a gradient at the logits on which class each row was scored, if the score is modified.

A row with one target y has the gradient ``W·u_y``, with ``u_y = dz/dx·(α_y·p − every − target_y·onehot(y))`` (see
shiftproof.reference.score). The result is the y whose u_y is nearest to the gradient's direction. The products of the
gradient with every u_y, and of every u_y with itself, are sums of a few products that do not depend on y. So V guesses
cost no more than one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shiftproof.reference.score import charge, map_logits, slope
from shiftproof.reference.spec import Score

# Up to this many units in the last place of the gradient's dtype, a relative residual is rounding, for any score.
_ROUNDING = 3
# Residuals that differ by less count as equal.
_TIE = 1e-6
# A residual above this is never rounding, in any dtype: the class does not explain the gradient.
_ANYTHING = 0.5
# The number of elements to read at once.
_BLOCK = 1 << 18


class Read(NamedTuple):
    """The class and weight on which each of n rows was scored.

    Attributes:
        targets: [n] int64.
        weights: [n] float64. 0 if the row has no gradient.
        residuals: [n] float64, the share of the gradient's length that target and weight do not explain. 0 if the row
            has no gradient. NaN if the gradient is not finite.
    """

    targets: Tensor
    weights: Tensor
    residuals: Tensor


def read_rows(gradient: Tensor, logits: Tensor, how: Score, class_weights: Tensor | None = None) -> Read:
    """Find the target and weight of every row that best explain ``gradient`` [n, V] at ``logits`` [n, V].

    ``gradient`` is assumed to be rounded to its dtype. With two classes, a positive weight on one class and a negative
    one on the other mostly explain it equally well, up to rounding. In such a case the positive one is the result.
    """
    height = max(1, _BLOCK // max(1, logits.shape[-1]))
    blocks = [
        _read(part, rows, how, class_weights)
        for part, rows in zip(gradient.split(height), logits.split(height), strict=True)
    ]
    return Read(*(torch.cat(fields) for fields in zip(*blocks, strict=True)))


def _read(gradient: Tensor, logits: Tensor, how: Score, class_weights: Tensor | None) -> Read:
    """Do :func:`read_rows` for one block, with about fifteen temporaries [n, V] float64."""
    g, x = gradient.double(), logits.double()
    z = map_logits(x, how)
    lse = torch.logsumexp(z, -1, keepdim=True)
    p = torch.exp(z - lse)
    steep = torch.as_tensor(slope(x, how), dtype=torch.float64)
    target, every = charge(how, x.shape[-1], class_weights)
    # u_y = alpha_y·along − base − peak_y·onehot(y)
    along, base, peak = steep * p, steep * every, steep * target
    alpha = target + every.sum() + 2 * how.z_loss * lse
    product = alpha * _dot(g, along) - _dot(g, base) - peak * g
    square = alpha**2 * _dot(along, along) + _dot(base, base) - 2 * alpha * _dot(along, base)
    square += peak * (peak - 2 * alpha * along + 2 * base)
    # A class without a charge, or with probability 1, explains nothing: its square is only rounding.
    whole = alpha**2 * _dot(along, along) + _dot(base, base) + peak**2
    readable = square > 8 * torch.finfo(torch.float64).eps * whole
    weights = (product / square).masked_fill_(~readable, 0.0)
    length = _dot(g, g)
    fit = (weights * product / length).masked_fill_(~readable | (length == 0), 0.0)
    best = fit.argmax(-1, keepdim=True)
    positive = fit.masked_fill(weights < 0, 0.0).argmax(-1, keepdim=True)
    of_best, of_positive = ((1 - fit.gather(-1, y)).clamp_min(0.0).sqrt() for y in (best, positive))
    as_good = of_positive <= torch.maximum(_rounding_of(gradient.dtype, length), of_best + _TIE)
    targets = torch.where(as_good, positive, best)
    residuals = torch.where(targets == positive, of_positive, of_best).masked_fill_(length == 0, 0.0)
    found = weights.gather(-1, targets)
    if how.dft:
        found = found / p.gather(-1, targets)
    return Read(targets.squeeze(-1), found.squeeze(-1), residuals.squeeze(-1))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The dot products of the rows: [n, 1] from two [n, V]."""
    return (a * b).sum(-1, keepdim=True)


def _rounding_of(dtype: torch.dtype, length: Tensor) -> Tensor:
    """The largest relative residual [n, 1] from rounding to ``dtype``, for gradients of these squared lengths."""
    kind = torch.finfo(dtype)
    relative = _ROUNDING * max(kind.eps, torch.finfo(torch.float32).eps)
    step = kind.smallest_normal * kind.eps  # the step between subnormal numbers, to which small gradients are rounded
    return (relative + step / length.sqrt()).clamp_max(_ANYTHING)
