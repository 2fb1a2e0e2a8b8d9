"""How time grows with T, V and K: an exponent fitted to a few sizes, so that quadratic growth is detected."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

QUADRATIC = 1.5
"""Growth counts as quadratic from this exponent on: half way between linear and quadratic."""

SIZES = (4, 2, 1)
"""The divisors of the axis."""


@dataclass(frozen=True)
class Growth:
    """Time ~ size ** exponent along one axis: T (positions), V (classes) or K (codebooks). ``rival`` is the rival's."""

    axis: str
    sizes: tuple[int, ...]
    exponent: float
    rival: float

    @property
    def is_quadratic(self) -> bool:
        """Return whether the candidate's time grows far faster than its inputs, and the rival's does not."""
        return self.exponent >= QUADRATIC > self.rival


def fit_exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the slope of log time over log size, by least squares; NaN with fewer than two sizes."""
    logs = [(math.log(size), math.log(taken)) for size, taken in zip(sizes, seconds, strict=True) if taken > 0]
    if len({x for x, _ in logs}) < 2:
        return math.nan
    middle_x = sum(x for x, _ in logs) / len(logs)
    middle_y = sum(y for _, y in logs) / len(logs)
    return sum((x - middle_x) * (y - middle_y) for x, y in logs) / sum((x - middle_x) ** 2 for x, _ in logs)
