"""One pair's score and gradient, against numbers worked out by hand and against arithmetic of fifty digits."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftproof.reference.score import charge, evaluate_rows, map_logits
from shiftproof.reference.spec import Score

INF, NAN = math.inf, math.nan
LN3 = 1.0986122886681098


def score(logits, target, class_weights=None, **how):
    """One row's loss, logsumexp and gradient, as Python numbers."""
    rows, targets = torch.tensor([logits], dtype=torch.float64), torch.tensor([target])
    if class_weights is not None:
        how["class_weights"], class_weights = True, torch.tensor(class_weights)
    loss, lse, gradient = evaluate_rows(rows, targets, Score(**how), class_weights)
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
    loss = evaluate_rows(rows, torch.tensor([0, 1, 1])).loss
    assert loss.tolist() == approx([math.log(4), math.log(4 / 3), math.log(4)])


def test_no_rows_give_no_scores():
    loss, lse, gradient = evaluate_rows(torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0, dtype=torch.long))
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
    scores = evaluate_rows(rows, torch.tensor([0, 0]))
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
    evaluate_rows(rows, torch.tensor([1]))
    assert rows.tolist() == [[0.0, LN3]]


# Scores that are not plain. First by hand.


def test_smoothing_over_all_classes_of_five():
    # z = (2, 0, 0, 0, 0), y = 1, ε = .1: q_y = 1 − .1 + .1/5 = .92 and the others .1/5 = .02.
    # ℓ = lse − Σ q·z = ln(e² + 4) − .02·2 = 2.4326529 − .04
    loss, lse, gradient = score([2.0, 0.0, 0.0, 0.0, 0.0], 1, label_smoothing=0.1)
    assert lse == pytest.approx(2.4326529, abs=1e-7)
    assert loss == pytest.approx(2.3926529, abs=1e-7)
    # p = e²/(e² + 4) = .6487856 and 1/(e² + 4) = .0878036; the gradient is p − q.
    assert gradient == pytest.approx([0.6287856, -0.8321964, 0.0678036, 0.0678036, 0.0678036], abs=1e-7)


def test_smoothing_over_the_other_classes_of_five():
    # As above with q_y = 1 − .1 = .9 and the others .1/4 = .025: ℓ = 2.4326529 − .025·2
    loss, _, gradient = score([2.0, 0.0, 0.0, 0.0, 0.0], 1, label_smoothing=0.1, smoothing_over="others")
    assert loss == pytest.approx(2.3826529, abs=1e-7)
    assert gradient == pytest.approx([0.6237856, -0.8121964, 0.0628036, 0.0628036, 0.0628036], abs=1e-7)


def test_smoothing_on_equal_logits_changes_the_gradient_alone():
    # −log p = ln 5 for every class, and Σ q = 1 either way. p − q: .2 − .92 and .2 − .02, or .2 − .9 and .2 − .025.
    for over, slopes in {"all": [-0.72, 0.18, 0.18, 0.18, 0.18], "others": [-0.7, 0.175, 0.175, 0.175, 0.175]}.items():
        loss, _, gradient = score([3.0] * 5, 0, label_smoothing=0.1, smoothing_over=over)
        assert loss == approx(1.6094379124341003)
        assert gradient == pytest.approx(slopes, abs=1e-15)


def test_the_square_of_the_logsumexp_is_charged():
    # lse = ln 4 = 1.3862943611, so .5·lse² = .9609060278.
    # dℓ/dz = (1 + 2·.5·lse)·p − onehot = 2.3862943611·(1/4, 3/4) − (1, 0)
    loss, lse, gradient = score([0.0, LN3], 0, z_loss=0.5)
    assert lse == approx(1.3862943611198906)
    assert loss == pytest.approx(1.3862943611 + 0.9609060278, abs=1e-9)
    assert gradient == pytest.approx([0.5965735903 - 1, 1.7897207708], abs=1e-9)


def test_capped_logits():
    # tanh(ln(3)/2) = (3 − 1)/(3 + 1) = .5: x = (ln 3, 0) capped at 2 is z = (1, 0), with dz/dx = (1 − .5², 1).
    # lse = ln(e + 1) = 1.3132616875, p = (.7310585786, .2689414214), gradient (.75·.7310585786, .2689414214 − 1)
    loss, lse, gradient = score([LN3, 0.0], 1, softcap=2.0)
    assert (loss, lse) == pytest.approx((1.3132616875, 1.3132616875), abs=1e-9)
    assert gradient == pytest.approx([0.5482939339, -0.7310585786], abs=1e-9)


def test_scaled_logits():
    # Half of (0, 2·ln 3) is (0, ln 3), and half of its gradient (−3/4, 3/4) is left.
    loss, lse, gradient = score([0.0, 2 * LN3], 0, logit_scale=0.5)
    assert (loss, lse) == (approx(math.log(4)), approx(math.log(4)))
    assert gradient == approx([-0.375, 0.375])


def test_doubled_logits():
    # Twice (0, ln(3)/2) is (0, ln 3), and its gradient (−3/4, 3/4) doubles.
    loss, lse, gradient = score([0.0, LN3 / 2], 0, logit_scale=2.0)
    assert (loss, lse) == (approx(math.log(4)), approx(math.log(4)))
    assert gradient == approx([-1.5, 1.5])


def test_logits_that_are_scored_as_they_are_are_not_copied():
    rows = torch.zeros(2, 3, dtype=torch.float64)
    assert map_logits(rows, Score()) is rows


def test_the_scale_comes_before_the_cap():
    # .5·2·ln 3 = ln 3, capped at 2: 1. The other order would cap 2·ln 3 to 1.6 and halve that.
    assert score([2 * LN3, 0.0], 1, logit_scale=0.5, softcap=2.0)[0] == pytest.approx(1.3132616875, abs=1e-9)


def test_the_targets_class_weight_multiplies_the_loss():
    loss, lse, gradient = score([0.0, LN3], 0, class_weights=[0.5, 8.0])
    assert (loss, lse) == (approx(math.log(4) / 2), approx(math.log(4)))
    assert gradient == approx([-0.375, 0.375])


def test_under_smoothing_every_class_brings_its_own_weight():
    # −log p = (ln 4, ln 4/3) = (1.3862943611, .2876820725), y = 0, ε = .2 over both: q = (.9, .1), c = (.5, 8):
    # .45·1.3862943611 + .8·.2876820725 = .8539781205; gradient (.45 + .8)·p − (.45, .8)
    loss, _, gradient = score([0.0, LN3], 0, class_weights=[0.5, 8.0], label_smoothing=0.2)
    assert loss == pytest.approx(0.8539781205, abs=1e-9)
    assert gradient == approx([0.3125 - 0.45, 0.9375 - 0.8])


def test_dynamic_fine_tuning_multiplies_by_the_probability_and_not_by_its_gradient():
    # p_y = 1/4: ℓ = ln(4)/4, gradient (−3/4, 3/4)/4
    loss, lse, gradient = score([0.0, LN3], 0, dft=True)
    assert (loss, lse) == (approx(math.log(4) / 4), approx(math.log(4)))
    assert gradient == approx([-0.1875, 0.1875])


# Then against other people's arithmetic.

ROWS = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 3
TARGETS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 6, 0])
CLASS_WEIGHTS = torch.tensor([0.25, 1.0, 3.0, 0.5, 0.0, 2.0, 1.5])
EVERYTHING = Score(
    label_smoothing=0.3, smoothing_over="others", z_loss=0.2, softcap=4.0, logit_scale=0.75, class_weights=True
)


def assert_same(how, by_torch):
    """The loss of ``how`` and its gradient against those of ``by_torch``, which scores rows one by one."""
    rows = ROWS.clone().requires_grad_()
    loss = by_torch(rows)
    loss.sum().backward()
    found = evaluate_rows(ROWS, TARGETS, how, CLASS_WEIGHTS)
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(found.gradient, rows.grad, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weighted", [False, True])
def test_torch_agrees_on_smoothing_and_class_weights(smoothing, weighted):
    weight = CLASS_WEIGHTS.double() if weighted else None
    assert_same(
        Score(label_smoothing=smoothing, class_weights=weighted),
        lambda rows: F.cross_entropy(rows, TARGETS, weight=weight, label_smoothing=smoothing, reduction="none"),
    )


@pytest.mark.parametrize("smoothing", [0.1, 0.6])
def test_fairseqs_formula_agrees_on_smoothing_over_the_others(smoothing):
    def loss(rows):
        log_p = F.log_softmax(rows, -1)
        nll, smooth = -log_p.gather(-1, TARGETS[:, None])[:, 0], -log_p.sum(-1)
        share = smoothing / (rows.shape[-1] - 1)
        return (1 - smoothing - share) * nll + share * smooth

    assert_same(Score(label_smoothing=smoothing, smoothing_over="others"), loss)


def test_autograd_agrees_on_the_square_of_the_logsumexp():
    assert_same(
        Score(z_loss=0.01),
        lambda rows: F.cross_entropy(rows, TARGETS, reduction="none") + 0.01 * torch.logsumexp(rows, -1) ** 2,
    )


@pytest.mark.parametrize(("cap", "scale"), [(None, 0.1), (30.0, 1.0), (1.5, 1.0), (5.0, 3.0)])
def test_autograd_agrees_on_cap_and_scale(cap, scale):
    def loss(rows):
        scaled = rows * scale
        return F.cross_entropy(scaled if cap is None else cap * torch.tanh(scaled / cap), TARGETS, reduction="none")

    assert_same(Score(softcap=cap, logit_scale=scale), loss)


def test_autograd_agrees_on_dynamic_fine_tuning():
    def loss(rows):
        each = F.cross_entropy(rows, TARGETS, reduction="none")
        return each * torch.softmax(rows, -1).gather(-1, TARGETS[:, None])[:, 0].detach()

    assert_same(Score(dft=True), loss)


def test_autograd_agrees_on_everything_at_once():
    def loss(rows):
        z = 4.0 * torch.tanh(0.75 * rows / 4.0)
        q = torch.full_like(z, 0.3 / 6).scatter(-1, TARGETS[:, None], 0.7)
        return -(CLASS_WEIGHTS * q * F.log_softmax(z, -1)).sum(-1) + 0.2 * torch.logsumexp(z, -1) ** 2

    assert_same(EVERYTHING, loss)


@pytest.mark.parametrize(
    "how",
    [
        Score(label_smoothing=0.1, class_weights=True),
        Score(z_loss=0.3),
        Score(softcap=3.0, logit_scale=2.0),
        EVERYTHING,
    ],
)
def test_the_gradient_is_the_slope_of_the_loss(how):
    step = 1e-6
    slopes = torch.empty_like(ROWS)
    for v in range(ROWS.shape[-1]):
        moved = torch.zeros_like(ROWS)
        moved[:, v] = step
        above, below = (evaluate_rows(ROWS + sign * moved, TARGETS, how, CLASS_WEIGHTS).loss for sign in (1, -1))
        slopes[:, v] = (above - below) / (2 * step)
    gradient = evaluate_rows(ROWS, TARGETS, how, CLASS_WEIGHTS).gradient
    torch.testing.assert_close(gradient, slopes, rtol=0, atol=1e-8)


# And at the edges.


def test_smoothing_over_a_forbidden_class_costs_infinitely_much():
    loss, _, gradient = score([0.0, -INF, LN3], 0, label_smoothing=0.3)
    assert loss == INF
    assert gradient == approx([0.25 - 0.8, -0.1, 0.75 - 0.1])


def test_a_cap_makes_a_forbidden_class_possible():
    loss, lse, gradient = score([0.0, -INF], 1, softcap=1.0)  # z = (0, −1)
    assert lse == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-15)
    assert loss == pytest.approx(lse + 1, abs=1e-15)
    assert gradient[1] == 0.0


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_at_the_cap_the_slope_is_as_small_as_it_is(size):
    # 1 − tanh²(t) = 4·e^(−2t) up to e^(−4t): of 100/15 one in 154,000, which 1 − tanh² would round in its 12th digit.
    _, _, gradient = score([size, size], 0, softcap=15.0)
    steep = 4 * math.exp(-2 * size / 15) / (1 + math.exp(-2 * size / 15)) ** 2
    assert gradient == pytest.approx([-0.5 * steep, 0.5 * steep], rel=1e-13, abs=0)


@pytest.mark.parametrize(
    "how", [Score(label_smoothing=0.1), Score(z_loss=0.1), Score(softcap=5.0), Score(logit_scale=2.0), Score(dft=True)]
)
def test_nan_in_a_row_makes_its_modified_score_nan_too(how):
    rows = torch.tensor([[NAN, 0.0], [0.0, LN3]], dtype=torch.float64)
    found = evaluate_rows(rows, torch.tensor([1, 0]), how)
    assert found.loss.isnan().tolist() == [True, False]
    assert found.gradient.isnan().tolist() == [[True, True], [False, False]]


def test_class_weights_must_be_given_where_they_are_used():
    with pytest.raises(ValueError, match=r"^the score has class weights; give class_weights \[V\]$"):
        evaluate_rows(ROWS, TARGETS, Score(class_weights=True))


def test_class_weights_are_not_used_where_they_are_not_asked_for():
    assert evaluate_rows(ROWS, TARGETS, Score(), CLASS_WEIGHTS).loss.equal(evaluate_rows(ROWS, TARGETS).loss)


@pytest.mark.parametrize("over", ["all", "others"])
def test_the_charges_of_a_target_add_up_to_one(over):
    target, every = charge(Score(label_smoothing=0.3, smoothing_over=over), 7)
    assert (target + every.sum()).tolist() == approx([1.0] * 7)


@pytest.mark.parametrize("how", [Score(softcap=5.0), Score(logit_scale=2.0), EVERYTHING])
def test_a_modified_score_does_not_touch_the_logits_either(how):
    rows = ROWS.clone()
    evaluate_rows(rows, TARGETS, how, CLASS_WEIGHTS)
    assert rows.equal(ROWS)
