"""The oracle's value and gradient: numbers worked out by hand, torch's own cross entropy, and transformers' loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Denominator, Empty, LossSpec, LossTerm, ShiftedBy

LN3 = 1.0986122886681098
LN4 = 1.3862943611198906
LN4_3 = 0.28768207245178085  # ln 4/3
NEXT = LossTerm()
HERE = LossTerm(shift=0, shifted_by=ShiftedBy.DATA)
SEEDS = st.integers(0, 2**32 - 1)


def oracle_of(terms, logits, labels, **arguments):
    """The oracle of these terms; nested lists become float64 logits and int64 labels."""
    terms = (terms,) if isinstance(terms, LossTerm) else terms
    logits = logits if isinstance(logits, torch.Tensor) else torch.tensor(logits, dtype=torch.float64)
    labels = labels if isinstance(labels, torch.Tensor) else torch.tensor(labels)
    arguments = {name: torch.tensor(value) if isinstance(value, list) else value for name, value in arguments.items()}
    return evaluate(build_pairing(LossSpec("mine", terms, "", ""), Batch(logits, labels, **arguments)), logits)


def random_case(seed):
    """Logits [B, S, V] of spread 3, labels of which a third are ignored, and token weights."""
    rng = torch.Generator().manual_seed(seed)
    rows, length, classes = (int(torch.randint(low, high, (), generator=rng)) for low, high in ((1, 4), (1, 8), (1, 9)))
    logits = 3 * torch.randn(rows, length, classes, dtype=torch.float64, generator=rng)
    labels = torch.randint(classes, (rows, length), generator=rng)
    labels[torch.rand(rows, length, generator=rng) < 0.3] = -100
    return logits, labels, torch.rand(rows, length, dtype=torch.float64, generator=rng)


def assert_equal_to_autograd(oracle, loss, logits):
    (gradient,) = torch.autograd.grad(loss, logits)
    assert oracle.value == pytest.approx(loss.item(), rel=1e-13, abs=1e-13)
    torch.testing.assert_close(oracle.gradient, gradient, rtol=1e-12, atol=1e-14)


# By hand


def test_two_pairs_by_hand():
    oracle = oracle_of(NEXT, [[[0.0, LN3], [0.0, LN3], [5.0, 6.0]]], [[1, 0, 1]])
    assert oracle.value == pytest.approx((LN4 + LN4_3) / 2, rel=1e-15)
    assert oracle.per_token.tolist() == pytest.approx([LN4, LN4_3], rel=1e-15)
    assert oracle.lse.tolist() == pytest.approx([LN4, LN4], rel=1e-15)
    assert oracle.gradient[0, 0].tolist() == pytest.approx([-3 / 8, 3 / 8], rel=1e-15)
    assert oracle.gradient[0, 1].tolist() == pytest.approx([1 / 8, -1 / 8], rel=1e-15)
    assert oracle.gradient[0, 2].tolist() == [0.0, 0.0]


def test_weights_by_hand():
    term = LossTerm(token_weights=True, denominator=Denominator.WEIGHTS)
    oracle = oracle_of(term, [[[0.0, LN3]] * 3], [[1, 0, 1]], token_weights=[[7.0, 1.0, 3.0]])
    assert oracle.value == pytest.approx((LN4 + 3 * LN4_3) / 4, rel=1e-15)
    assert oracle.per_token.tolist() == pytest.approx([LN4, LN4_3], rel=1e-15)
    assert oracle.gradient[0].tolist() == [
        pytest.approx([-3 / 16, 3 / 16], rel=1e-15),
        pytest.approx([3 / 16, -3 / 16], rel=1e-15),
        [0.0, 0.0],
    ]


def test_logits_that_two_terms_share_get_the_gradients_of_both():
    terms = (LossTerm(), LossTerm(name="after", shift=2, weight=0.5))
    oracle = oracle_of(terms, [[[0.0, LN3]] * 3], [[1, 0, 1]])
    assert oracle.value == pytest.approx((LN4 + LN4_3) / 2 + LN4_3 / 2, rel=1e-15)
    assert oracle.gradient[0].tolist() == [
        pytest.approx([-3 / 8 + 1 / 8, 3 / 8 - 1 / 8], rel=1e-15),
        pytest.approx([1 / 8, -1 / 8], rel=1e-15),
        [0.0, 0.0],
    ]


def test_a_sum_that_single_precision_loses():
    tiny = 2.0**-40
    small, large = (oracle_of(HERE, [[[0.0, logit]]], [[0]]).value for logit in (0.0, tiny))
    assert large - small == pytest.approx(tiny / 2, rel=1e-3)


def test_a_long_sum_is_not_rounded_on_the_way():
    term = LossTerm(shift=0, shifted_by=ShiftedBy.DATA, token_weights=True, denominator=Denominator.ONE)
    oracle = oracle_of(term, torch.zeros(1, 4, 2), [[0] * 4], token_weights=[[2.0**60, 1.0, -(2.0**60), 1.0]])
    assert oracle.value == pytest.approx(2 * math.log(2), rel=1e-15)


# Extreme logits


def test_minus_infinity_off_the_target():
    oracle = oracle_of(HERE, [[[0.0, -math.inf, LN3]]], [[0]])
    assert oracle.value == pytest.approx(LN4, rel=1e-15)
    assert oracle.gradient[0, 0].tolist() == pytest.approx([-3 / 4, 0.0, 3 / 4], rel=1e-15)


def test_minus_infinity_on_the_target():
    assert oracle_of(HERE, [[[0.0, -math.inf]]], [[1]]).value == math.inf


def test_nan_in_a_row_that_counts_surfaces_in_the_value_and_in_that_row_only():
    oracle = oracle_of(HERE, [[[math.nan, 0.0], [0.0, LN3]]], [[0, 0]])
    assert math.isnan(oracle.value)
    assert oracle.gradient[0, 0].isnan().all()
    assert oracle.gradient[0, 1].tolist() == pytest.approx([-3 / 8, 3 / 8], rel=1e-15)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_row_that_does_not_count_may_hold_anything(poison):
    oracle = oracle_of(HERE, [[[poison, poison], [0.0, LN3]]], [[-100, 0]])
    assert oracle.value == pytest.approx(LN4, rel=1e-15)
    assert oracle.gradient[0].tolist() == [[0.0, 0.0], pytest.approx([-3 / 4, 3 / 4], rel=1e-15)]


def test_ten_thousand_up_and_down():
    oracle = oracle_of(HERE, [[[1e4, -1e4], [1e4, -1e4]]], [[0, 1]])
    assert oracle.per_token.tolist() == [0.0, 20000.0]
    assert oracle.value == 10000.0
    assert oracle.gradient[0].tolist() == [[0.0, 0.0], [0.5, -0.5]]


def test_infinite_losses_of_opposite_weights_are_nan():
    term = LossTerm(shift=0, shifted_by=ShiftedBy.DATA, token_weights=True)
    logits = [[[0.0, -math.inf], [0.0, -math.inf]]]
    assert math.isnan(oracle_of(term, logits, [[1, 1]], token_weights=[[1.0, -1.0]]).value)


# Dtypes


@pytest.mark.parametrize(
    ("dtype", "read_as"),
    [
        (torch.float16, 1.0986328125),
        (torch.bfloat16, 1.1015625),
        (torch.float32, 1.0986123085021973),
        (torch.float64, LN3),
    ],
)
def test_logits_are_read_as_their_dtype_rounded_them(dtype, read_as):
    oracle = oracle_of(HERE, torch.tensor([[[0.0, LN3]]], dtype=torch.float64).to(dtype), [[0]])
    assert oracle.value == pytest.approx(math.log(1 + math.exp(read_as)), rel=1e-15)
    assert oracle.gradient[0, 0, 1].item() == pytest.approx(1 / (1 + math.exp(-read_as)), rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_answers_are_float64(dtype):
    oracle = oracle_of(NEXT, torch.zeros(1, 3, 2, dtype=dtype), [[0, 1, 1]])
    assert {oracle.per_token.dtype, oracle.lse.dtype, oracle.gradient.dtype} == {torch.float64}
    assert isinstance(oracle.value, float)


def test_labels_may_be_int32():
    assert oracle_of(NEXT, torch.zeros(1, 3, 2), torch.tensor([[0, 1, 1]], dtype=torch.int32)).value == pytest.approx(
        math.log(2), rel=1e-15
    )


def test_logits_may_lie_in_memory_in_any_order():
    logits = torch.randn(4, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).transpose(0, 1)
    straight, crooked = (oracle_of(NEXT, each, [[0, 1, 2, 3]] * 2) for each in (logits.contiguous(), logits))
    assert straight.value == crooked.value
    assert torch.equal(straight.gradient, crooked.gradient)


def test_the_logits_are_not_touched():
    logits = torch.tensor([[[0.0, LN3], [1.0, 2.0]]], dtype=torch.float64)
    before = logits.clone()
    oracle_of(NEXT, logits, [[0, 1]])
    assert torch.equal(logits, before)


def test_the_answer_is_no_part_of_the_graph_of_the_logits():
    oracle = oracle_of(NEXT, torch.zeros(1, 3, 2, requires_grad=True), [[0, 1, 1]])
    assert not oracle.gradient.requires_grad
    assert not oracle.per_token.requires_grad


# Nothing to score


@pytest.mark.parametrize(("empty", "value"), [(Empty.NAN, math.nan), (Empty.ZERO, 0.0), (Empty.UNDEFINED, None)])
def test_nothing_to_score_is_what_the_spec_declares_and_has_no_gradient(empty, value):
    oracle = oracle_of(LossTerm(empty=empty), torch.full((2, 3, 5), math.nan), [[-100] * 3] * 2)
    assert oracle.value == pytest.approx(value, nan_ok=True)
    assert torch.equal(oracle.gradient, torch.zeros(2, 3, 5, dtype=torch.float64))
    assert oracle.per_token.shape == oracle.lse.shape == (0,)


@pytest.mark.parametrize("empty", Empty)
def test_pairs_divided_by_nothing_are_infinite_whatever_the_spec_declares(empty):
    term = LossTerm(denominator=Denominator.NUM_ITEMS, empty=empty)
    oracle = oracle_of(term, torch.zeros(1, 3, 2), [[0, 1, 1]], num_items_in_batch=0)
    assert oracle.value == math.inf
    assert oracle.gradient[0].tolist() == [[math.inf, -math.inf], [math.inf, -math.inf], [0.0, 0.0]]


@pytest.mark.parametrize("empty", Empty)
def test_weights_that_sum_to_nothing_are_nan_whatever_the_spec_declares(empty):
    term = LossTerm(token_weights=True, denominator=Denominator.WEIGHTS, empty=empty)
    assert math.isnan(oracle_of(term, torch.zeros(1, 3, 2), [[0, 1, 1]], token_weights=[[0.0] * 3]).value)


@pytest.mark.parametrize(("empty", "value"), [(Empty.NAN, math.nan), (Empty.UNDEFINED, None)])
def test_one_empty_term_speaks_for_the_whole_loss(empty, value):
    terms = (LossTerm(), LossTerm(name="after", shift=2, empty=empty))
    assert oracle_of(terms, torch.zeros(1, 2, 2), [[0, 1]]).value == pytest.approx(value, nan_ok=True)


def test_an_empty_term_that_is_worth_zero_leaves_the_other():
    terms = (LossTerm(), LossTerm(name="after", shift=2, empty=Empty.ZERO))
    assert oracle_of(terms, torch.zeros(1, 2, 2), [[0, 1]]).value == pytest.approx(math.log(2), rel=1e-15)


# The pairs can be read back from the gradient: what the probe rests on


def test_the_gradient_shows_the_right_loss_of_the_probe_table():
    logits = torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradient = oracle_of(NEXT, logits, [[0, 1, 2, 3], [4, 5, 6, 7]]).gradient
    targets = [[int(row.argmin()) if row.any() else None for row in rows] for rows in gradient]
    assert targets == [[1, 2, 3, None], [5, 6, 7, None]]
    weight = gradient[1, 2, 7] / (logits[1, 2].softmax(-1)[7] - 1)
    assert weight.item() == pytest.approx(1 / 6, rel=1e-12)


# Second opinions


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_torch_agrees_on_the_next_token(seed):
    logits, labels, _ = random_case(seed)
    oracle = oracle_of(NEXT, logits, labels)
    leaf = logits.clone().requires_grad_()
    loss = F.cross_entropy(leaf[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    if (labels[:, 1:] == -100).all():
        assert math.isnan(loss.item())
        assert math.isnan(oracle.value)
        assert not oracle.gradient.any()
    else:
        assert_equal_to_autograd(oracle, loss, leaf)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_torch_agrees_on_weighted_tokens(seed):
    logits, labels, token_weights = random_case(seed)
    term = LossTerm(token_weights=True, denominator=Denominator.WEIGHTS, epsilon=1e-3, weight=0.7)
    oracle = oracle_of(term, logits, labels, token_weights=token_weights)
    leaf = logits.clone().requires_grad_()
    losses = F.cross_entropy(leaf[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    used = token_weights[:, 1:].flatten() * (labels[:, 1:].flatten() != -100)
    assert_equal_to_autograd(oracle, 0.7 * (losses * used).sum() / (used.sum() + 1e-3), leaf)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_torch_agrees_on_the_sum_of_two_terms(seed):
    logits, labels, _ = random_case(seed)
    terms = (LossTerm(clamp=1.0), LossTerm(name="after", shift=2, weight=0.3, clamp=1.0))
    oracle = oracle_of(terms, logits, labels)
    leaf = logits.clone().requires_grad_()
    loss = leaf.sum() * 0
    for shift, scale in ((1, 1.0), (2, 0.3)):
        there = labels[:, shift:].flatten()
        total = F.cross_entropy(leaf[:, : there.numel() // len(labels)].flatten(0, 1), there, reduction="sum")
        loss = loss + scale * total / max(int((there != -100).sum()), 1)
    assert_equal_to_autograd(oracle, loss, leaf)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_torch_agrees_on_each_token(seed):
    logits, labels, _ = random_case(seed)
    oracle = oracle_of(NEXT, logits, labels)
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    valid = labels[:, 1:].flatten() != -100
    torch.testing.assert_close(oracle.per_token, losses[valid], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(oracle.lse, logits[:, :-1].logsumexp(-1).flatten()[valid], rtol=1e-13, atol=1e-13)


@pytest.mark.peers
def test_transformers_agrees_on_pairs_divided_by_nothing():
    loss_utils = pytest.importorskip("transformers.loss.loss_utils", reason="judges transformers' own loss")
    logits, labels = torch.zeros(1, 3, 2), torch.tensor([[0, 1, 1]])
    loss = loss_utils.ForCausalLMLoss(logits, labels, vocab_size=2, num_items_in_batch=0)
    oracle = evaluate(build_pairing(PROFILES["hf.causal_lm"], Batch(logits, labels, num_items_in_batch=0)), logits)
    assert oracle.value == loss.item() == math.inf


@pytest.mark.peers
@settings(deadline=None, max_examples=60)
@given(SEEDS, st.sampled_from([None, 1, 3, 1000]), st.sampled_from(["absent", "padded", "sharded"]))
def test_transformers_agrees_on_causal_lm(seed, num_items, shift_labels):
    loss_utils = pytest.importorskip("transformers.loss.loss_utils", reason="judges transformers' own loss")
    logits, labels, _ = random_case(seed)
    logits = logits.float().requires_grad_()
    arguments = {"num_items_in_batch": num_items}
    if shift_labels != "absent":
        last = -100 if shift_labels == "padded" else 0  # sharded: the last label is the next shard's first token
        arguments["shift_labels"] = F.pad(labels[:, 1:], (0, 1), value=last)
    loss = loss_utils.ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1], **arguments)
    oracle = evaluate(build_pairing(PROFILES["hf.causal_lm"], Batch(logits, labels, **arguments)), logits.detach())
    assert oracle.value == pytest.approx(loss.item(), rel=1e-5, abs=1e-6, nan_ok=True)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(oracle.gradient.float(), gradient, rtol=1e-4, atol=1e-6)
