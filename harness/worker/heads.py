"""How a model's logits come of the product of hidden states and a weight: as it is, with a bias, scaled, or capped."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_CLOSE = 5e-3  # of the logits, in norm: a cast to bfloat16 leaves half of it
_MASKED = -1e4  # a model writes this, or less, over the classes that it forbids
_ROWS = 4  # from so many rows on, what is the same in all of them is a bias
_CAPS = 60  # halvings of the interval in which a cap is looked for


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """Logits as a function of a product, element by element, float64 in the shape of both."""

    slope: torch.Tensor
    """Its derivative; 0 where the model wrote something else over the product."""

    left: torch.Tensor
    """What of the logits it leaves unexplained, such as rounding."""


def link(product: torch.Tensor, logits: torch.Tensor) -> Link | None:
    """How float64 `logits` [rows, V] come of a `product` of that shape; None where they do not."""
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
        # A bias of so many classes would explain a little of anything: each way has to explain all.
        if float(left.norm()) <= _CLOSE * size and (slope is one or scale > 0):
            return Link(slope.where(shown, 0.0), left)
    return None


def _cap(given: torch.Tensor, right: torch.Tensor) -> float | None:
    """The c for which c·tanh(x / c) of the largest product is its logit."""
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
