"""One pair's score and gradient, against numbers worked out by hand and against arithmetic of fifty digits."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftproof.reference.score import cross_entropy

INF, NAN = math.inf, math.nan
LN3 = 1.0986122886681098


def score(logits, target):
    """One row's loss, logsumexp and gradient, as Python numbers."""
    loss, lse, gradient = cross_entropy(torch.tensor([logits], dtype=torch.float64), torch.tensor([target]))
    return loss.item(), lse.item(), gradient[0].tolist()


def approx(numbers):
    return pytest.approx(numbers, rel=1e-15, abs=1e-15, nan_ok=True)


def test_one_to_three_odds_on_the_unlikely_class():
    loss, lse, gradient = score([0.0, LN3], 0)
    assert loss == approx(1.3862943611198906)  # ln 4
    assert lse == approx(1.3862943611198906)
    assert gradient == approx([-0.75, 0.75])


def test_one_to_three_odds_on_the_likely_class():
    loss, lse, gradient = score([0.0, LN3], 1)
    assert loss == approx(0.28768207245178085)  # ln 4/3
    assert lse == approx(1.3862943611198906)
    assert gradient == approx([0.25, -0.25])


def test_equal_logits_cost_the_logarithm_of_their_number():
    loss, lse, gradient = score([7.0] * 5, 3)
    assert loss == approx(1.6094379124341003)  # ln 5
    assert lse == approx(8.6094379124341)  # 7 + ln 5
    assert gradient == approx([0.2, 0.2, 0.2, -0.8, 0.2])


def test_one_class_costs_nothing():
    assert score([-3.0], 0) == (0.0, -3.0, [0.0])


def test_each_row_is_scored_on_its_own_target():
    rows = torch.tensor([[0.0, LN3], [0.0, LN3], [LN3, 0.0]], dtype=torch.float64)
    loss = cross_entropy(rows, torch.tensor([0, 1, 1])).loss
    assert loss.tolist() == approx([math.log(4), math.log(4 / 3), math.log(4)])


def test_no_rows_give_no_scores():
    loss, lse, gradient = cross_entropy(torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0, dtype=torch.long))
    assert (loss.shape, lse.shape, gradient.shape) == ((0,), (0,), (0, 5))


def test_minus_infinity_off_the_target_has_probability_zero():
    loss, lse, gradient = score([0.0, -INF, LN3, -INF], 0)
    assert (loss, lse) == (approx(math.log(4)), approx(math.log(4)))
    assert gradient == approx([-0.75, 0.0, 0.75, 0.0])
    assert (gradient[1], gradient[3]) == (0.0, 0.0)


def test_minus_infinity_on_the_target_costs_infinitely_much():
    loss, lse, gradient = score([0.0, -INF], 1)
    assert (loss, lse) == (INF, 0.0)
    assert gradient == [1.0, -1.0]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_nan_anywhere_in_a_row_makes_its_loss_and_its_whole_gradient_nan(at):
    logits = [0.0, 1.0, 2.0]
    logits[at] = NAN
    loss, lse, gradient = score(logits, 0)
    assert math.isnan(loss)
    assert math.isnan(lse)
    assert all(math.isnan(slope) for slope in gradient)


def test_nan_stays_in_its_row():
    rows = torch.tensor([[NAN, 0.0], [0.0, LN3]], dtype=torch.float64)
    scores = cross_entropy(rows, torch.tensor([0, 0]))
    assert scores.loss[1].item() == approx(math.log(4))
    assert scores.gradient[1].tolist() == approx([-0.75, 0.75])


def test_logits_of_ten_thousand_neither_overflow_nor_underflow():
    assert score([1e4, -1e4], 0) == (0.0, 1e4, [0.0, 0.0])
    assert score([1e4, -1e4], 1) == (20000.0, 1e4, [1.0, -1.0])
    loss, lse, gradient = score([-1e4, -1e4], 1)
    assert loss == pytest.approx(0.6931471805599453, abs=2.0**-39)  # ln 2, at the spacing of numbers near 1e4
    assert lse == pytest.approx(-9999.30685281944, rel=1e-15)
    assert gradient == pytest.approx([0.5, -0.5], abs=2.0**-39)


def test_a_step_too_small_for_float32_is_seen():
    tiny = 2.0**-40
    loss, _, gradient = score([0.0, tiny], 0)
    assert loss - math.log(2) == pytest.approx(tiny / 2, rel=1e-3)
    assert gradient[1] - 0.5 == pytest.approx(tiny / 4, rel=1e-3)


@settings(deadline=None, max_examples=50)
@given(logits=st.lists(st.floats(-50, 50), min_size=1, max_size=6), data=st.data())
def test_fifty_digits_agree(logits, data):
    target = data.draw(st.integers(0, len(logits) - 1))
    loss, lse, gradient = score(logits, target)
    with localcontext(prec=50):
        powers = [Decimal(logit).exp() for logit in logits]
        exact_lse = sum(powers).ln()
        exact_loss = exact_lse - Decimal(logits[target])
        exact_gradient = [power / sum(powers) - (index == target) for index, power in enumerate(powers)]
    ulp = 2.0**-52 * 100  # of numbers up to 100
    assert lse == pytest.approx(float(exact_lse), rel=0, abs=ulp)
    assert loss == pytest.approx(float(exact_loss), rel=0, abs=2 * ulp)
    assert gradient == pytest.approx([float(slope) for slope in exact_gradient], rel=0, abs=2 * ulp)


def test_the_logits_are_not_touched():
    rows = torch.tensor([[0.0, LN3]], dtype=torch.float64)
    cross_entropy(rows, torch.tensor([1]))
    assert rows.tolist() == [[0.0, LN3]]
