"""Whether two numbers agree within a bound, and where two tensors differ most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def same_value(found: float, expected: float, bound: float) -> bool:
    """Whether two losses agree: NaN with NaN, infinity with itself, finite within the bound."""
    if math.isnan(expected) or math.isnan(found):
        return math.isnan(expected) and math.isnan(found)
    return found == expected or abs(found - expected) <= bound


@dataclass(frozen=True)
class Mismatch:
    """Where two tensors differ by more than their bound allows."""

    wrong: int
    total: int
    worst: tuple[int, ...]
    found: float
    expected: float
    allowed: float

    def describe(self, what: str) -> str:
        """One sentence in the style of torch.testing: count, percentage, worst index, allowed difference."""
        share = 100.0 * self.wrong / max(self.total, 1)
        return (
            f"{self.wrong} of {self.total} elements of the {what} ({share:.3g}%) are wrong; the worst, at "
            f"{list(self.worst)}, is {self.found:.9g}; expected {self.expected:.9g} ± {self.allowed:.2g}"
        )


def agreement(found: Tensor, expected: Tensor, bound: Tensor | float) -> Tensor:
    """Whether two float64 tensors of one shape agree, element by element. NaN agrees only with NaN."""
    return ((found - expected).abs() <= bound) | (found == expected) | (found.isnan() & expected.isnan())


def compare_tensors(found: Tensor, expected: Tensor, bound: Tensor | float) -> Mismatch | None:
    """The mismatch of two float64 tensors of one shape, with its worst element, or None."""
    if bool(((found - expected).abs_() <= bound).all()):
        return None  # without NaN and infinity, as nearly always
    agree = agreement(found, expected, bound)
    if bool(agree.all()):
        return None
    allowed = torch.as_tensor(bound, dtype=torch.float64).expand(expected.shape)
    excess = (found - expected).abs() / allowed.clamp_min(1e-300)
    excess = torch.where(agree, torch.zeros_like(excess), excess.nan_to_num(nan=math.inf, posinf=math.inf))
    flat = int(excess.argmax())
    worst: tuple[int, ...] = ()
    for extent in reversed(expected.shape):
        flat, place = divmod(flat, extent)
        worst = (place, *worst)
    return Mismatch(
        wrong=int((~agree).sum()),
        total=expected.numel(),
        worst=worst,
        found=float(found[worst]),
        expected=float(expected[worst]),
        allowed=float(allowed[worst]),
    )


def different_gradients(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], bounds: Mapping[str, Tensor | float]
) -> str | None:
    """One sentence on where gradients at the same logits differ by more than their bounds allow, or None."""
    for name, right in expected.items():
        mismatch = compare_tensors(found[name], right, bounds[name])
        if mismatch is not None:
            return mismatch.describe("gradient" if len(expected) == 1 else f"gradient at {name}")
    return None
