"""Faster, slower, or inconclusive: what pairs of times show about a ratio, and when there are enough pairs.

The logarithm of each pair's ratio is one observation. Their middle is a mean without the outer quarter on either side,
because the noise of a shared machine has heavy tails. The interval is the bootstrap's standard error times a quantile
of Student's t. A test that looks again until something shows would find effects that do not exist. So the number of
looks is fixed, and each look has its part of the total allowed error. The last look, when time is up, has the part that
the looks before it did not use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

LOOKS = (12, 18, 27, 40, 60, 90, 135, 200, 300, 450, 675, 1000)
"""The numbers of pairs after which a look is taken. One more look is taken when time is up."""

ERROR = 0.002
"""The largest allowed probability of calling a ratio of 1 faster or slower, over all looks."""

_TRIMMED = 0.25
_RESAMPLES = 1000


class Outcome(StrEnum):
    FASTER = "faster"
    SLOWER = "slower"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Interval:
    """A ratio of times, candidate over rival, with its bounds and the number of pairs."""

    ratio: float
    low: float
    high: float
    pairs: int

    @property
    def outcome(self) -> Outcome:
        return self.against(1.0)

    def against(self, bound: float) -> Outcome:
        """Return where the ratio lies relative to ``bound``. Above the bound is slower."""
        if self.low > bound:
            return Outcome.SLOWER
        return Outcome.FASTER if self.high < bound else Outcome.INCONCLUSIVE


UNKNOWN = Interval(math.nan, 0.0, math.inf, 0)
"""The interval of no pairs."""


def error_after(pairs: int) -> float:
    """Return the allowed error of the look after so many pairs. If none is due, it is the last look: time is up."""
    parts = len(LOOKS) + 1
    return ERROR / parts * (1 if pairs in LOOKS else parts - sum(look < pairs for look in LOOKS))


def interval(logs: Sequence[float]) -> Interval:
    """Return the interval of a ratio from the logarithms of pairs' ratios, as wide as a look after so many needs it."""
    if len(logs) < LOOKS[0] // 2:
        return UNKNOWN
    values = np.asarray(logs, dtype=np.float64)
    draw = np.random.default_rng(len(values)).integers(len(values), size=(_RESAMPLES, len(values)))
    middle = float(_middle(values[None])[0])
    spread = float(_middle(values[draw]).std(ddof=1))
    # The middle depends only on the inner observations.
    reach = spread * _student(1 - error_after(len(values)) / 2, max(round(len(values) * (1 - 2 * _TRIMMED)) - 1, 2))
    return Interval(math.exp(middle), math.exp(middle - reach), math.exp(middle + reach), len(values))


def _middle(rows: np.ndarray) -> np.ndarray:
    """Return the mean of each row [n, m] without its outer quarters."""
    cut = int(rows.shape[1] * _TRIMMED)
    inner = np.partition(rows, (cut, rows.shape[1] - cut - 1), axis=1)[:, cut : rows.shape[1] - cut]
    found: np.ndarray = inner.mean(axis=1)
    return found


def _student(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t: Hill's expansion about the normal one (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
