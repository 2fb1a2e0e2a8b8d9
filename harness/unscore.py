"""Reading back, from a gradient at the logits, which class each row was scored on, when the score is modified.

A row with one target y has the gradient ``W·u_y``, with ``u_y = dz/dx·(α_y·p − every − target_y·onehot(y))`` (see
shiftproof.reference.score). Of all y, the one whose u_y lies nearest the gradient's direction is taken. The products of
the gradient with every u_y, and of every u_y with itself, are sums of a few that do not depend on y, so V guesses cost
no more than one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shiftproof.reference.score import charge, map_logits, slope
from shiftproof.reference.spec import Score

# A relative residual of this many units in the last place of the gradient's dtype is rounding, whatever the score.
_ROUNDING = 3
# Residuals that differ by less are equal, as rounded here.
_TIE = 1e-6
# From here on a residual is no rounding, however coarse: neither class explains the gradient.
_ANYTHING = 0.5
# Elements that are read at once.
_BLOCK = 1 << 18


class Read(NamedTuple):
    """What each of n rows was scored on.

    ``targets`` [n] int64 and ``weights`` [n] float64; ``residuals`` [n] float64 is the share of the gradient's length
    that these do not explain: 0 where there is no gradient, and the weight 0 too; NaN where it is not finite.
    """

    targets: Tensor
    weights: Tensor
    residuals: Tensor


def read_rows(gradient: Tensor, logits: Tensor, how: Score, class_weights: Tensor | None = None) -> Read:
    """The target and weight of every row that explain ``gradient`` [n, V] at ``logits`` [n, V] best.

    The dtype of ``gradient`` is taken for what it was rounded to. Where a positive weight on one class and a negative
    one on another explain it equally well, up to rounding (with two classes they mostly do), the positive one is meant.
    """
    height = max(1, _BLOCK // max(1, logits.shape[-1]))
    blocks = [
        _read(part, rows, how, class_weights)
        for part, rows in zip(gradient.split(height), logits.split(height), strict=True)
    ]
    return Read(*(torch.cat(fields) for fields in zip(*blocks, strict=True)))


def _read(gradient: Tensor, logits: Tensor, how: Score, class_weights: Tensor | None) -> Read:
    """:func:`read_rows` all at once, with some fifteen temporaries of [n, V] float64."""
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
    # A class that nothing is charged for, or that is certain already, explains nothing: its square is rounding.
    whole = alpha**2 * _dot(along, along) + _dot(base, base) + peak**2
    seen = square > 8 * torch.finfo(torch.float64).eps * whole
    weights = (product / square).masked_fill_(~seen, 0.0)
    length = _dot(g, g)
    fit = (weights * product / length).masked_fill_(~seen | (length == 0), 0.0)
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
    """[n, 1] from two [n, V]."""
    return (a * b).sum(-1, keepdim=True)


def _rounding_of(dtype: torch.dtype, length: Tensor) -> Tensor:
    """The relative residual [n, 1] that rounding to ``dtype`` may leave of gradients of these squared lengths."""
    kind = torch.finfo(dtype)
    relative = _ROUNDING * max(kind.eps, torch.finfo(torch.float32).eps)
    step = kind.smallest_normal * kind.eps  # of the subnormal numbers, which what is left of a small gradient is cut to
    return (relative + step / length.sqrt()).clamp_max(_ANYTHING)
