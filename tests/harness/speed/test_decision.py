"""The decision on times that a generator makes: how often it is wrong where nothing differs, and right where 5% do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from shiftproof.harness.speed.decision import ERROR, LOOKS, UNKNOWN, Interval, Outcome, _student, error_after, interval

Noise = Callable[[np.random.Generator, int], np.ndarray]


def calm(draw: np.random.Generator, count: int) -> np.ndarray:
    return draw.normal(0, 0.06, count)


def heavy(draw: np.random.Generator, count: int) -> np.ndarray:
    """One pair in five has a neighbour in it, who takes half of the time or gives it back."""
    return draw.normal(0, 0.03, count) + np.where(draw.random(count) < 0.2, draw.normal(0, 0.5, count), 0)


def endless(draw: np.random.Generator, count: int) -> np.ndarray:
    """No variance at all."""
    return 0.04 * draw.standard_t(2, count)


def drifting(draw: np.random.Generator, count: int) -> np.ndarray:
    """The machine grows slower and faster; a pair's two calls are some time apart, in either order."""
    speed = np.cumsum(draw.normal(0, 0.02, 2 * count))
    first, second = speed[0::2], speed[1::2]
    return np.where(draw.random(count) < 0.5, first - second, second - first) + draw.normal(0, 0.05, count)


def clinging(draw: np.random.Generator, count: int) -> np.ndarray:
    """Each pair's noise has a fifth of the one's before in it."""
    fresh = draw.normal(0, 0.06, count)
    found = np.zeros(count)
    for index in range(count):
        found[index] = fresh[index] + 0.2 * (found[index - 1] if index else 0)
    return found


NOISES = [calm, heavy, endless, drifting, clinging]


def race(noise: Noise, shift: float, seed: int, most: int = 200) -> tuple[Outcome, int]:
    """The outcome with its looks, as pairs.run_race takes them."""
    logs = noise(np.random.default_rng(seed), most) + shift
    for count in [*(look for look in LOOKS if look < most), most]:
        outcome = interval([*logs[:count]]).outcome
        if outcome is not Outcome.INCONCLUSIVE:
            break
    return outcome, count


@pytest.mark.representatives(2)
@pytest.mark.parametrize("noise", NOISES)
def test_what_is_equal_is_seldom_told_apart(noise: Noise) -> None:
    told = sum(race(noise, 0.0, seed)[0] is not Outcome.INCONCLUSIVE for seed in range(100))
    assert told <= 1


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("factor", "outcome"), [(1.05, Outcome.SLOWER), (1 / 1.05, Outcome.FASTER)])
def test_five_percent_are_found(noise: Noise, factor: float, outcome: Outcome) -> None:
    found = [race(noise, math.log(factor), seed)[0] for seed in range(60)]
    assert found.count(outcome) >= 57
    assert set(found) <= {outcome, Outcome.INCONCLUSIVE}


def test_a_great_difference_takes_one_look() -> None:
    assert race(calm, math.log(2), 0) == (Outcome.SLOWER, LOOKS[0])


def test_a_great_difference_shows_in_few_pairs_when_time_is_up() -> None:
    """Whose calls take seconds has no time for the first look."""
    logs = calm(np.random.default_rng(0), 8) - math.log(3)
    found = interval([*logs])
    assert found.outcome is Outcome.FASTER
    assert found.high < 1.25 * found.ratio


@pytest.mark.parametrize("pairs", [6, 11, 13, 101, 999])
def test_all_looks_together_are_allowed_one_error(pairs: int) -> None:
    before = sum(error_after(look) for look in LOOKS if look < pairs)
    assert before + error_after(pairs) == pytest.approx(ERROR)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("pairs", [6, 8, 11])
def test_few_pairs_tell_apart_what_is_equal_no_more_often(noise: Noise, pairs: int) -> None:
    found = [interval([*noise(np.random.default_rng(seed), pairs)]).outcome for seed in range(300)]
    assert found.count(Outcome.INCONCLUSIVE) >= 298


def test_too_few_pairs_say_nothing() -> None:
    assert interval([1.0] * (LOOKS[0] // 2 - 1)) == UNKNOWN
    assert UNKNOWN.outcome is Outcome.INCONCLUSIVE
    assert UNKNOWN.against(100.0) is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("low", "high", "bound", "outcome"),
    [
        (1.01, 1.2, 1.0, Outcome.SLOWER),
        (0.9, 0.99, 1.0, Outcome.FASTER),
        (0.9, 1.0, 1.0, Outcome.INCONCLUSIVE),
        (1.0, 1.1, 1.0, Outcome.INCONCLUSIVE),
        (1.01, 1.09, 1.1, Outcome.FASTER),
        (1.05, 1.15, 1.1, Outcome.INCONCLUSIVE),
        (1.11, 1.15, 1.1, Outcome.SLOWER),
    ],
)
def test_where_an_interval_lies(low: float, high: float, bound: float, outcome: Outcome) -> None:
    assert Interval((low * high) ** 0.5, low, high, 40).against(bound) is outcome


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.975, 10, 2.2281), (0.995, 5, 4.0321), (0.9995, 20, 3.8495), (0.9999, 100, 3.8616)],
)
def test_quantiles_of_students_t(probability: float, freedom: int, quantile: float) -> None:
    """Tables of Student's t; the expansion is least exact in the far tail of few degrees."""
    assert _student(probability, freedom) == pytest.approx(quantile, rel=3e-3)
