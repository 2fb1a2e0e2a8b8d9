"""Exponents of growth, and which of them is called quadratic."""

from __future__ import annotations

import math

import pytest

from shiftproof.harness.speed.growth import Growth, fit_exponent


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_a_power_is_found(exponent: float) -> None:
    sizes = [256, 512, 1024]
    assert fit_exponent(sizes, [3e-9 * size**exponent for size in sizes]) == pytest.approx(exponent)


def test_the_slope_is_that_of_least_squares() -> None:
    assert fit_exponent([1, 2, 4], [1.0, 4.0, 4.0]) == pytest.approx(1.0)


def test_one_size_has_no_slope() -> None:
    assert math.isnan(fit_exponent([7], [1.0]))
    assert math.isnan(fit_exponent([7, 7], [1.0, 2.0]))


@pytest.mark.parametrize(
    ("exponent", "rival", "quadratic"), [(1.9, 1.0, True), (1.1, 1.0, False), (1.9, 1.8, False), (math.nan, 1.0, False)]
)
def test_quadratic_is_what_the_rival_is_not(exponent: float, rival: float, quadratic: bool) -> None:
    assert Growth("T", (1, 2), exponent, rival).is_quadratic is quadratic
