"""How a model makes logits from the product of hidden states and a weight: unchanged, biased, scaled, or capped."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_CLOSE = 5e-3  # the largest error, in norm, relative to the logits: twice that of a cast to bfloat16
_MASKED = -1e4  # a model writes this, or less, into the classes that it forbids
_ROWS = 4  # with at least so many rows, a difference that all rows share is a bias
_CAPS = 60  # bisection steps in the search for a cap


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """Logits as a function of a product, element by element, float64 in the shape of both."""

    slope: torch.Tensor
    """Its derivative. 0 where the model replaced the product by another value."""

    left: torch.Tensor
    """The part of the logits that it does not explain, such as rounding."""


def link(product: torch.Tensor, logits: torch.Tensor) -> Link | None:
    """Find how float64 `logits` [rows, V] are made from a `product` of that shape. None if they are not."""
    shown = logits.isfinite() & (logits > _MASKED)
    right, given = logits.where(shown, 0.0), product.where(shown, 0.0)
    size = float(right.norm())
    if not size or not bool(given.isfinite().all()):
        return None
    one = torch.ones_like(right)
    ways = [(one, given)]
    if len(right) >= _ROWS:
        bias = (right - given).sum(0) / shown.sum(0).clamp_min(1)
        ways.append((one, given + bias))
    norm = float(given.square().sum())
    scale = float((given * right).sum()) / norm if norm else 0.0
    ways.append((scale * one, scale * given))
    cap = _cap(given, right)
    if cap is not None:
        ways.append((1 - (right / cap).square().clamp(max=1.0), cap * torch.tanh(given / cap)))
    for slope, made in ways:
        left = (right - made.where(shown, 0.0)).abs()
        # A bias has as many values as there are classes, so it explains part of anything. Each way must explain all.
        if float(left.norm()) <= _CLOSE * size and (slope is one or scale > 0):
            return Link(slope.where(shown, 0.0), left)
    return None


def _cap(given: torch.Tensor, right: torch.Tensor) -> float | None:
    """The c for which c·tanh(x / c) turns the largest product into its logit."""
    at = int(given.abs().argmax())
    x, y = abs(float(given.flatten()[at])), abs(float(right.flatten()[at]))
    if not 0 < y < x * (1 - 1e-6):
        return None
    low, high = y, 1e6 * x
    for _ in range(_CAPS):
        middle = (low * high) ** 0.5
        made = middle * float(torch.tanh(torch.tensor(x / middle, dtype=torch.float64)))
        low, high = (middle, high) if made < y else (low, middle)
    return low
