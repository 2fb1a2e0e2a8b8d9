"""The oracle's value and gradient: numbers worked out by hand, torch's own cross entropy, and transformers' loss."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftproof.reference import oracle as oracle_module
from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import (
    Axis,
    Combine,
    Denominator,
    Empty,
    Heads,
    LossSpec,
    LossTerm,
    Score,
    ShiftedBy,
    Smoothing,
)

LN3 = 1.0986122886681098
LN4 = 1.3862943611198906
LN4_3 = 0.28768207245178085  # ln 4/3
NEXT = LossTerm()
HERE = LossTerm(shift=0, shifted_by=ShiftedBy.DATA)
BOOKS = LossTerm(heads=Heads.CODEBOOKS, shift=0, shifted_by=ShiftedBy.INPUTS)
AUDIO = LossTerm(name="audio", logits="audio_logits", labels="audio_labels", heads=Heads.CODEBOOKS)
BACKBONE = LossTerm(name="backbone", heads=Heads.FIRST)
DEPTH = LossTerm(name="depth", logits="depth_logits", heads=Heads.CODEBOOKS, axis=Axis.CODEBOOK)
AHEAD = LossTerm(name="ahead", logits="mtp_logits", heads=Heads.AHEAD)
SEEDS = st.integers(0, 2**32 - 1)


def oracle_of(terms, logits=None, labels=None, **arguments):
    """The oracle of these terms; nested lists become float64 logits, int64 labels and float32 weights."""
    terms = (terms,) if isinstance(terms, LossTerm) else terms
    arrays = {"logits": logits, "labels": labels, **arguments}
    for name, value in arrays.items():
        if isinstance(value, list):
            arrays[name] = torch.tensor(value, dtype=torch.float64 if name.endswith("logits") else None)
    batch = Batch(**arrays)
    return evaluate(build_pairing(LossSpec("mine", terms, "", ""), batch), batch)


def random_case(seed):
    """Logits [B, S, V] of spread 3, labels of which a third are ignored, and token weights."""
    rng = torch.Generator().manual_seed(seed)
    rows, length, classes = (int(torch.randint(low, high, (), generator=rng)) for low, high in ((1, 4), (1, 8), (1, 9)))
    logits = 3 * torch.randn(rows, length, classes, dtype=torch.float64, generator=rng)
    labels = torch.randint(classes, (rows, length), generator=rng)
    labels[torch.rand(rows, length, generator=rng) < 0.3] = -100
    return logits, labels, torch.rand(rows, length, dtype=torch.float64, generator=rng)


def random_codes(seed, *, ahead=False):
    """Logits [B, S, K, V] of spread 3 that ask for a gradient, labels [B, S, K] (``ahead``: [B, S]), a third of them
    ignored, and weights [K] and [V]."""
    rng = torch.Generator().manual_seed(seed)
    rows, length, books, classes = (
        int(torch.randint(low, high, (), generator=rng)) for low, high in ((1, 4), (1, 7), (1, 5), (2, 9))
    )
    shape = (rows, length) if ahead else (rows, length, books)
    logits = 3 * torch.randn(rows, length, books, classes, dtype=torch.float64, generator=rng)
    labels = torch.randint(classes, shape, generator=rng)
    labels[torch.rand(shape, generator=rng) < 0.3] = -100
    weights = [torch.rand(size, dtype=torch.float64, generator=rng) + 0.1 for size in (books, classes)]
    return logits.requires_grad_(), labels, *weights


def assert_equal_to_autograd(oracle, loss, *leaves, **named):
    """The oracle against ``loss`` and its gradients at the leaf for ``logits``, or those for the arguments named."""
    named |= dict(zip(["logits"], leaves, strict=False))
    assert oracle.value == pytest.approx(loss.item(), rel=1e-13, abs=1e-13)
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    assert oracle.gradients.keys() == named.keys()
    for name, gradient in zip(named, gradients, strict=True):
        expected = torch.zeros_like(named[name]) if gradient is None else gradient
        torch.testing.assert_close(oracle.gradients[name], expected, rtol=1e-12, atol=1e-14)


def mean_or_zero(rows, targets):
    """torch's mean over the targets that are not −100, and 0 without any."""
    return F.cross_entropy(rows, targets, reduction="sum") / max(int((targets != -100).sum()), 1)


# By hand


def test_two_pairs_by_hand():
    oracle = oracle_of(NEXT, [[[0.0, LN3], [0.0, LN3], [5.0, 6.0]]], [[1, 0, 1]])
    assert oracle.value == pytest.approx((LN4 + LN4_3) / 2, rel=1e-15)
    assert oracle.per_token.tolist() == pytest.approx([LN4, LN4_3], rel=1e-15)
    assert oracle.lse.tolist() == pytest.approx([LN4, LN4], rel=1e-15)
    assert oracle.gradients["logits"][0, 0].tolist() == pytest.approx([-3 / 8, 3 / 8], rel=1e-15)
    assert oracle.gradients["logits"][0, 1].tolist() == pytest.approx([1 / 8, -1 / 8], rel=1e-15)
    assert oracle.gradients["logits"][0, 2].tolist() == [0.0, 0.0]


def test_weights_by_hand():
    term = LossTerm(token_weights=True, denominator=Denominator.WEIGHTS)
    oracle = oracle_of(term, [[[0.0, LN3]] * 3], [[1, 0, 1]], token_weights=[[7.0, 1.0, 3.0]])
    assert oracle.value == pytest.approx((LN4 + 3 * LN4_3) / 4, rel=1e-15)
    assert oracle.per_token.tolist() == pytest.approx([LN4, LN4_3], rel=1e-15)
    assert oracle.gradients["logits"][0].tolist() == [
        pytest.approx([-3 / 16, 3 / 16], rel=1e-15),
        pytest.approx([3 / 16, -3 / 16], rel=1e-15),
        [0.0, 0.0],
    ]


def test_logits_that_two_terms_share_get_the_gradients_of_both():
    terms = (LossTerm(), LossTerm(name="after", shift=2, weight=0.5))
    oracle = oracle_of(terms, [[[0.0, LN3]] * 3], [[1, 0, 1]])
    assert oracle.value == pytest.approx((LN4 + LN4_3) / 2 + LN4_3 / 2, rel=1e-15)
    assert oracle.gradients["logits"][0].tolist() == [
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


# Codebooks, heads and streams by hand: softmax of (0, ln 3) is (1/4, 3/4), so a target of 1 costs ln 4/3, one of 0 ln 4

QUARTERS = [0.0, LN3]
ON_0, ON_1 = [-3 / 4, 3 / 4], [1 / 4, -1 / 4]  # the gradient of one pair whose target is 0 or 1


def times(weight, gradient):
    return pytest.approx([weight * each for each in gradient], rel=1e-15)


@pytest.mark.parametrize(
    ("fields", "first", "second"),
    [
        pytest.param({}, 1 / 3, 1 / 3, id="flat"),
        pytest.param({"combine": Combine.MEAN}, 1 / 4, 1 / 2, id="mean"),
        pytest.param({"combine": Combine.MEAN_NONEMPTY}, 1 / 4, 1 / 2, id="mean_nonempty"),
        pytest.param({"combine": Combine.SUM}, 1 / 2, 1, id="sum"),
        pytest.param(
            {"combine": Combine.WEIGHTED_MEAN, "codebook_weights": (3.0, 1.0)}, 3 / 8, 1 / 4, id="weighted_mean"
        ),
        pytest.param(
            {"codebook_weights": (3.0, 1.0), "denominator": Denominator.WEIGHTS}, 3 / 7, 1 / 7, id="flat, weighted"
        ),
        pytest.param({"combine": Combine.MEAN, "weight": 0.5}, 1 / 8, 1 / 4, id="half the mean"),
    ],
)
def test_two_codebooks_by_hand(fields, first, second):
    """Codebook 0 is scored on 1 and 0, codebook 1 on 0 and on nothing."""
    oracle = oracle_of(replace(BOOKS, **fields), [[[QUARTERS, QUARTERS]] * 2], [[[1, 0], [0, -100]]])
    assert oracle.per_token.tolist() == pytest.approx([LN4_3, LN4, LN4], rel=1e-15)
    assert oracle.value == pytest.approx(first * (LN4_3 + LN4) + second * LN4, rel=1e-15)
    assert oracle.gradients["logits"][0].tolist() == [
        [times(first, ON_1), times(second, ON_0)],
        [times(first, ON_0), [0.0, 0.0]],
    ]


@pytest.mark.parametrize(
    ("combine", "empty", "value", "weight"),
    [
        (Combine.FLAT, Empty.NAN, LN4, 1),
        (Combine.MEAN, Empty.NAN, math.nan, 1 / 2),
        (Combine.MEAN, Empty.ZERO, LN4 / 2, 1 / 2),
        (Combine.MEAN, Empty.UNDEFINED, None, 1 / 2),
        (Combine.MEAN_NONEMPTY, Empty.NAN, LN4, 1),
        (Combine.SUM, Empty.NAN, math.nan, 1),
        (Combine.SUM, Empty.ZERO, LN4, 1),
    ],
)
def test_an_empty_codebook_by_hand(combine, empty, value, weight):
    """Whatever the value is, the codebook that has a label has its gradient, and the other has none."""
    term = replace(BOOKS, combine=combine, empty=empty)
    oracle = oracle_of(term, [[[QUARTERS, [math.nan, math.nan]]]], [[[0, -100]]])
    assert oracle.value == (None if value is None else pytest.approx(value, rel=1e-15, nan_ok=True))
    assert oracle.gradients["logits"][0, 0].tolist() == [times(weight, ON_0), [0.0, 0.0]]


def test_two_streams_by_hand():
    terms = (NEXT, replace(AUDIO, weight=0.5))
    oracle = oracle_of(
        terms,
        [[QUARTERS] * 3],
        [[1, 0, 1]],
        audio_logits=[[[[0.0, 0.0, 0.0]]] * 2],
        audio_labels=[[[2], [2]]],
    )
    assert oracle.value == pytest.approx((LN4 + LN4_3) / 2 + LN3 / 2, rel=1e-15)
    assert oracle.gradients.keys() == {"logits", "audio_logits"}
    assert oracle.gradients["logits"][0].tolist() == [times(1 / 2, ON_0), times(1 / 2, ON_1), [0.0, 0.0]]
    assert oracle.gradients["audio_logits"][0].tolist() == [
        [pytest.approx([1 / 6, 1 / 6, -1 / 3], rel=1e-15)],
        [[0.0, 0.0, 0.0]],
    ]


def test_a_backbone_and_a_depth_decoder_by_hand():
    """Two frames of two codes: (1, 0) and (0, 1). The backbone at frame 0 predicts the 0 of frame 1."""
    terms = (BACKBONE, replace(DEPTH, weight=0.3))
    oracle = oracle_of(terms, [[QUARTERS] * 2], [[[1, 0], [0, 1]]], depth_logits=[[[QUARTERS]] * 2])
    assert oracle.value == pytest.approx(LN4 + 0.3 * (LN4 + LN4_3) / 2, rel=1e-15)
    assert oracle.gradients["logits"][0].tolist() == [times(1, ON_0), [0.0, 0.0]]
    assert oracle.gradients["depth_logits"][0].tolist() == [[times(0.15, ON_0)], [times(0.15, ON_1)]]


@pytest.mark.parametrize(
    ("combine", "near", "far"), [(Combine.FLAT, 1 / 3, 1 / 3), (Combine.MEAN, 1 / 4, 1 / 2), (Combine.SUM, 1 / 2, 1)]
)
def test_two_heads_ahead_by_hand(combine, near, far):
    """Tokens 1, 0, 1: head 0 is scored on 0 and 1, head 1 on the last 1."""
    term = replace(AHEAD, combine=combine)
    oracle = oracle_of(term, labels=[[1, 0, 1]], mtp_logits=[[[QUARTERS] * 2] * 3])
    assert oracle.value == pytest.approx(near * (LN4 + LN4_3) + far * LN4_3, rel=1e-15)
    assert oracle.gradients["mtp_logits"][0].tolist() == [
        [times(near, ON_0), times(far, ON_1)],
        [times(near, ON_1), [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],
    ]


# Scores other than cross-entropy, by hand


@pytest.mark.parametrize(
    ("how", "loss", "gradient"),
    [
        pytest.param(
            # q = (0.95, 0.05): ln 4 − 0.05 ln 3
            {"label_smoothing": 0.1},
            LN4 - 0.05 * LN3,
            [1 / 4 - 0.95, 3 / 4 - 0.05],
            id="smoothing over all",
        ),
        pytest.param(
            {"label_smoothing": 0.1, "smoothing_over": Smoothing.OTHERS},
            LN4 - 0.1 * LN3,
            [1 / 4 - 0.9, 3 / 4 - 0.1],
            id="smoothing over the others",
        ),
        pytest.param(
            {"z_loss": 0.01},
            LN4 + 0.01 * LN4**2,
            [-3 / 4 + 0.02 * LN4 / 4, 3 / 4 + 0.02 * LN4 * 3 / 4],
            id="z-loss",
        ),
        pytest.param({"logit_scale": 2.0}, math.log(10), [-1.8, 1.8], id="scale"),  # softmax (1/10, 9/10), times 2
        pytest.param({"dft": True}, LN4 / 4, [-3 / 16, 3 / 16], id="dft"),
        pytest.param({"class_weights": True}, 5 * LN4, [-15 / 4, 15 / 4], id="class weights"),
    ],
)
def test_a_score_by_hand(how, loss, gradient):
    term = replace(HERE, score=Score(**how))
    oracle = oracle_of(term, [[QUARTERS] * 2], [[0, -100]], class_weights=[5.0, 7.0])
    assert oracle.value == pytest.approx(loss, rel=1e-14)
    assert oracle.gradients["logits"][0].tolist() == [pytest.approx(gradient, rel=1e-14), [0.0, 0.0]]


def test_class_weights_divided_by_those_of_the_targets_by_hand():
    term = replace(HERE, score=Score(class_weights=True), denominator=Denominator.CLASS_WEIGHTS)
    oracle = oracle_of(term, [[QUARTERS] * 3], [[0, 1, -100]], class_weights=[5.0, 7.0])
    assert oracle.value == pytest.approx((5 * LN4 + 7 * LN4_3) / 12, rel=1e-15)
    assert oracle.gradients["logits"][0].tolist() == [times(5 / 12, ON_0), times(7 / 12, ON_1), [0.0, 0.0]]


def test_two_terms_with_scores_of_their_own_by_hand():
    terms = (replace(HERE, score=Score(dft=True)), replace(HERE, name="plain", weight=2.0))
    oracle = oracle_of(terms, [[QUARTERS]], [[0]])
    assert oracle.per_token.tolist() == pytest.approx([LN4 / 4, LN4], rel=1e-15)
    assert oracle.value == pytest.approx(LN4 / 4 + 2 * LN4, rel=1e-15)
    assert oracle.gradients["logits"][0, 0].tolist() == times(1 / 4 + 2, ON_0)


# Extreme logits


def test_minus_infinity_off_the_target():
    oracle = oracle_of(HERE, [[[0.0, -math.inf, LN3]]], [[0]])
    assert oracle.value == pytest.approx(LN4, rel=1e-15)
    assert oracle.gradients["logits"][0, 0].tolist() == pytest.approx([-3 / 4, 0.0, 3 / 4], rel=1e-15)


def test_minus_infinity_on_the_target():
    assert oracle_of(HERE, [[[0.0, -math.inf]]], [[1]]).value == math.inf


def test_nan_in_a_row_that_counts_surfaces_in_the_value_and_in_that_row_only():
    oracle = oracle_of(HERE, [[[math.nan, 0.0], [0.0, LN3]]], [[0, 0]])
    assert math.isnan(oracle.value)
    assert oracle.gradients["logits"][0, 0].isnan().all()
    assert oracle.gradients["logits"][0, 1].tolist() == pytest.approx([-3 / 8, 3 / 8], rel=1e-15)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_row_that_does_not_count_may_hold_anything(poison):
    oracle = oracle_of(HERE, [[[poison, poison], [0.0, LN3]]], [[-100, 0]])
    assert oracle.value == pytest.approx(LN4, rel=1e-15)
    assert oracle.gradients["logits"][0].tolist() == [[0.0, 0.0], pytest.approx([-3 / 4, 3 / 4], rel=1e-15)]


def test_ten_thousand_up_and_down():
    oracle = oracle_of(HERE, [[[1e4, -1e4], [1e4, -1e4]]], [[0, 1]])
    assert oracle.per_token.tolist() == [0.0, 20000.0]
    assert oracle.value == 10000.0
    assert oracle.gradients["logits"][0].tolist() == [[0.0, 0.0], [0.5, -0.5]]


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
    assert oracle.gradients["logits"][0, 0, 1].item() == pytest.approx(1 / (1 + math.exp(-read_as)), rel=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_all_answers_are_float64(dtype):
    oracle = oracle_of(NEXT, torch.zeros(1, 3, 2, dtype=dtype), [[0, 1, 1]])
    assert {oracle.per_token.dtype, oracle.lse.dtype, oracle.gradients["logits"].dtype} == {torch.float64}
    assert isinstance(oracle.value, float)


def test_labels_may_be_int32():
    assert oracle_of(NEXT, torch.zeros(1, 3, 2), torch.tensor([[0, 1, 1]], dtype=torch.int32)).value == pytest.approx(
        math.log(2), rel=1e-15
    )


def test_logits_may_lie_in_memory_in_any_order():
    logits = torch.randn(4, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).transpose(0, 1)
    straight, crooked = (oracle_of(NEXT, each, [[0, 1, 2, 3]] * 2) for each in (logits.contiguous(), logits))
    assert straight.value == crooked.value
    assert torch.equal(straight.gradients["logits"], crooked.gradients["logits"])


def test_the_logits_are_not_touched():
    logits = torch.tensor([[[0.0, LN3], [1.0, 2.0]]], dtype=torch.float64)
    before = logits.clone()
    oracle_of(NEXT, logits, [[0, 1]])
    assert torch.equal(logits, before)


def test_the_answer_is_no_part_of_the_graph_of_the_logits():
    oracle = oracle_of(NEXT, torch.zeros(1, 3, 2, requires_grad=True), [[0, 1, 1]])
    assert not oracle.gradients["logits"].requires_grad
    assert not oracle.per_token.requires_grad


# Nothing to score


@pytest.mark.parametrize(("empty", "value"), [(Empty.NAN, math.nan), (Empty.ZERO, 0.0), (Empty.UNDEFINED, None)])
def test_nothing_to_score_is_what_the_spec_declares_and_has_no_gradient(empty, value):
    oracle = oracle_of(LossTerm(empty=empty), torch.full((2, 3, 5), math.nan), [[-100] * 3] * 2)
    assert oracle.value == pytest.approx(value, nan_ok=True)
    assert torch.equal(oracle.gradients["logits"], torch.zeros(2, 3, 5, dtype=torch.float64))
    assert oracle.per_token.shape == oracle.lse.shape == (0,)


@pytest.mark.parametrize("empty", Empty)
def test_pairs_divided_by_nothing_are_infinite_whatever_the_spec_declares(empty):
    term = LossTerm(denominator=Denominator.NUM_ITEMS, empty=empty)
    oracle = oracle_of(term, torch.zeros(1, 3, 2), [[0, 1, 1]], num_items_in_batch=0)
    assert oracle.value == math.inf
    assert oracle.gradients["logits"][0].tolist() == [[math.inf, -math.inf], [math.inf, -math.inf], [0.0, 0.0]]


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


# What changes nothing


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.sampled_from([1, 9, 1 << 20]))
def test_many_rows_at_a_time_are_the_same_as_one(seed, elements):
    logits, labels, weights, class_weights = random_codes(seed)
    score = Score(label_smoothing=0.1, z_loss=0.01, softcap=5.0, class_weights=True)
    terms = (
        replace(BOOKS, combine=Combine.WEIGHTED_MEAN, codebook_weights=True, score=score, empty=Empty.ZERO),
        replace(BOOKS, name="next", shift=1, weight=0.3, clamp=1.0),
    )
    given = {"codebook_weights": weights, "class_weights": class_weights}
    at_once = oracle_of(terms, logits, labels, **given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle_module, "_ELEMENTS_AT_ONCE", elements)
        in_parts = oracle_of(terms, logits, labels, **given)
    assert in_parts.value == pytest.approx(at_once.value, rel=1e-14)
    for found, expected in (
        (in_parts.per_token, at_once.per_token),
        (in_parts.lse, at_once.lse),
        (in_parts.gradients["logits"], at_once.gradients["logits"]),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-16)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.sampled_from(Combine), st.sampled_from([0, 1]), st.randoms(use_true_random=False))
def test_the_order_of_codebooks_does_not_matter(seed, combine, shift, random):
    logits, labels, weights, _ = random_codes(seed)
    term = LossTerm(
        heads=Heads.CODEBOOKS,
        shift=shift,
        shifted_by=ShiftedBy.LOSS if shift else ShiftedBy.DATA,
        combine=combine,
        codebook_weights=combine is Combine.WEIGHTED_MEAN,
        empty=Empty.ZERO,
    )
    order = list(range(labels.shape[2]))
    random.shuffle(order)
    straight = oracle_of(term, logits, labels, codebook_weights=weights)
    shuffled = oracle_of(term, logits[:, :, order], labels[:, :, order], codebook_weights=weights[order])
    assert shuffled.value == pytest.approx(straight.value, rel=1e-14)
    torch.testing.assert_close(
        shuffled.gradients["logits"], straight.gradients["logits"][:, :, order], rtol=1e-14, atol=1e-16
    )


def test_one_codebook_is_text():
    logits = torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, 1, -100, 3], [4, 5, 6, 7]])
    text = oracle_of(NEXT, logits, labels)
    for combine in (Combine.FLAT, Combine.MEAN, Combine.MEAN_NONEMPTY, Combine.SUM):
        one = oracle_of(LossTerm(heads=Heads.CODEBOOKS, combine=combine), logits[:, :, None], labels[..., None])
        assert one.value == text.value
        assert torch.equal(one.gradients["logits"][:, :, 0], text.gradients["logits"])


def test_the_rows_of_a_term_count_through_all_axes():
    batch = Batch(torch.zeros(2, 3, 4, 5), torch.arange(24).reshape(2, 3, 4) % 5)
    pairing = build_pairing(LossSpec("mine", (BOOKS,), "", ""), batch)
    places, rows, targets, weights = pairing.by_term[0]
    assert places.tolist() == rows.tolist() == list(range(24))
    assert targets.tolist() == [at % 5 for at in range(24)]
    assert weights.tolist() == [1 / 24] * 24


def test_the_rows_of_a_term_without_pairs_are_none():
    batch = Batch(torch.zeros(2, 1, 4, 5), torch.zeros(2, 1, 4, dtype=torch.long))
    pairing = build_pairing(LossSpec("mine", (LossTerm(heads=Heads.CODEBOOKS),), "", ""), batch)
    assert [tuple(part.shape) for part in pairing.by_term[0]] == [(0,)] * 4
    assert [part.dtype for part in pairing.by_term[0]] == [torch.long, torch.long, torch.long, torch.float64]


# The pairs can be read back from the gradient: what the probe rests on


def test_the_gradient_shows_the_right_loss_of_the_probe_table():
    logits = torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradient = oracle_of(NEXT, logits, [[0, 1, 2, 3], [4, 5, 6, 7]]).gradients["logits"]
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
        assert not oracle.gradients["logits"].any()
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


@settings(deadline=None, max_examples=80)
@given(SEEDS, st.sampled_from(Combine), st.sampled_from([0, 1, 2]))
def test_torch_agrees_on_codebooks(seed, combine, shift):
    leaf, labels, weights, _ = random_codes(seed)
    weighted = combine is Combine.WEIGHTED_MEAN
    term = LossTerm(
        heads=Heads.CODEBOOKS,
        shift=shift,
        shifted_by=ShiftedBy.DATA,
        combine=combine,
        codebook_weights=weighted,
        empty=Empty.ZERO,
        weight=0.7,
    )
    oracle = oracle_of(term, leaf, labels, codebook_weights=weights)
    there = labels[:, shift:]
    logits = leaf[:, : there.shape[1]]
    means = torch.stack(
        [mean_or_zero(logits[:, :, book].flatten(0, 1), there[:, :, book].flatten()) for book in range(labels.shape[2])]
    )
    filled = sum(bool((there[:, :, book] != -100).any()) for book in range(labels.shape[2]))
    loss = {
        Combine.FLAT: lambda: mean_or_zero(logits.flatten(0, 2), there.flatten()),
        Combine.MEAN: means.mean,
        Combine.MEAN_NONEMPTY: lambda: means.sum() / max(filled, 1),
        Combine.SUM: means.sum,
        Combine.WEIGHTED_MEAN: lambda: (means * weights).sum() / weights.sum(),
    }[combine]()
    assert_equal_to_autograd(oracle, 0.7 * loss, leaf)
    empty = filled < labels.shape[2] if combine not in (Combine.FLAT, Combine.MEAN_NONEMPTY) else filled == 0
    declared = oracle_of(replace(term, empty=Empty.NAN), leaf, labels, codebook_weights=weights)
    assert math.isnan(declared.value) == empty
    assert torch.equal(declared.gradients["logits"], oracle.gradients["logits"])


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.sampled_from([None, 3, 40]))
def test_torch_agrees_on_text_beside_codebooks(seed, num_items):
    items = {"denominator": Denominator.NUM_ITEMS_OR_VALID, "empty": Empty.ZERO}
    text, text_labels, _ = random_case(seed)
    text.requires_grad_()
    audio, audio_labels, _, _ = random_codes(seed + 1)
    terms = (replace(NEXT, **items), replace(AUDIO, combine=Combine.SUM, **items))
    arguments = {"audio_logits": audio, "audio_labels": audio_labels, "num_items_in_batch": num_items}
    oracle = oracle_of(terms, text, text_labels, **arguments)

    def causal(logits, labels):
        rows, targets = logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        if num_items is None:
            return mean_or_zero(rows, targets)
        return F.cross_entropy(rows, targets, reduction="sum") / num_items

    loss = causal(text, text_labels)
    for book in range(audio_labels.shape[2]):
        loss = loss + causal(audio[:, :, book], audio_labels[:, :, book])
    assert_equal_to_autograd(oracle, loss, logits=text, audio_logits=audio)


@settings(deadline=None, max_examples=40)
@given(SEEDS)
def test_torch_agrees_on_a_backbone_and_a_depth_decoder(seed):
    logits, labels, _, _ = random_codes(seed)
    backbone = logits[:, :, 0].detach().clone().requires_grad_()
    depth = logits[:, :, 1:].detach().clone().requires_grad_()
    terms = (replace(BACKBONE, empty=Empty.ZERO), replace(DEPTH, weight=0.3, empty=Empty.ZERO))
    oracle = oracle_of(terms, backbone, labels, depth_logits=depth)
    loss = mean_or_zero(backbone[:, :-1].flatten(0, 1), labels[:, 1:, 0].flatten())
    loss = loss + 0.3 * mean_or_zero(depth.flatten(0, 2), labels[..., 1:].flatten())
    assert_equal_to_autograd(oracle, loss, logits=backbone, depth_logits=depth)


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.sampled_from([Combine.FLAT, Combine.MEAN, Combine.SUM]), st.sampled_from([0, 1, 2]))
def test_torch_agrees_on_heads_ahead(seed, combine, shift):
    leaf, labels, _, _ = random_codes(seed, ahead=True)
    term = replace(AHEAD, shift=shift, shifted_by=ShiftedBy.DATA, combine=combine, empty=Empty.ZERO)
    oracle = oracle_of(term, labels=labels, mtp_logits=leaf)
    heads, sums, counts = leaf.shape[2], [], []
    for head in range(heads):
        targets = labels[:, shift + head :]
        rows = leaf[:, : targets.shape[1], head]
        sums.append(F.cross_entropy(rows.flatten(0, 1), targets.flatten(), reduction="sum"))
        counts.append(int((targets != -100).sum()))
    if combine is Combine.FLAT:
        loss = sum(sums) / max(sum(counts), 1)
    else:
        loss = sum(total / max(count, 1) for total, count in zip(sums, counts, strict=True))
        loss = loss / (heads if combine is Combine.MEAN else 1)
    assert_equal_to_autograd(oracle, loss, mtp_logits=leaf)


def scored(rows, targets, how, class_weights):
    """ℓ of each row as torch has it, the parts that it has not written out."""
    z = rows * how.logit_scale
    z = z if how.softcap is None else how.softcap * torch.tanh(z / how.softcap)
    weight = class_weights if how.class_weights else None
    if how.smoothing_over is Smoothing.ALL:
        loss = F.cross_entropy(z, targets, weight=weight, label_smoothing=how.label_smoothing, reduction="none")
    else:
        share = how.label_smoothing / (z.shape[-1] - 1)
        wanted = torch.full_like(z, share).scatter(1, targets[:, None], 1 - how.label_smoothing)
        loss = -(wanted * z.log_softmax(-1) * (1 if weight is None else weight)).sum(1)
    if how.dft:
        loss = loss * z.softmax(-1).gather(1, targets[:, None]).squeeze(1).detach()
    return loss + how.z_loss * z.logsumexp(-1) ** 2


SCORES = {
    "smoothing": Score(label_smoothing=0.1),
    "smoothing over the others": Score(label_smoothing=0.1, smoothing_over=Smoothing.OTHERS),
    "z-loss": Score(z_loss=0.01),
    "softcap": Score(softcap=5.0),
    "scale": Score(logit_scale=0.5),
    "class weights": Score(class_weights=True),
    "dft": Score(dft=True),
    "dft of capped logits": Score(dft=True, softcap=5.0, logit_scale=2.0, class_weights=True),
    "all": Score(label_smoothing=0.1, z_loss=0.01, softcap=5.0, logit_scale=0.5, class_weights=True),
    "all over the others": Score(
        label_smoothing=0.1,
        smoothing_over=Smoothing.OTHERS,
        z_loss=0.01,
        softcap=5.0,
        logit_scale=0.5,
        class_weights=True,
    ),
}


@pytest.mark.parametrize("how", SCORES.values(), ids=SCORES.keys())
@settings(deadline=None, max_examples=15)
@given(SEEDS, st.sampled_from([Denominator.VALID, Denominator.CLASS_WEIGHTS]))
def test_torch_agrees_on_scores_of_codebooks(how, seed, denominator):
    if not how.class_weights:
        denominator = Denominator.VALID
    leaf, labels, _, class_weights = random_codes(seed)
    term = replace(BOOKS, score=how, combine=Combine.MEAN, denominator=denominator, empty=Empty.ZERO)
    oracle = oracle_of(term, leaf, labels, class_weights=class_weights)
    loss = leaf.sum() * 0
    for book in range(labels.shape[2]):
        valid = labels[:, :, book] != -100
        targets = labels[:, :, book][valid]
        total = scored(leaf[:, :, book][valid], targets, how, class_weights).sum()
        over = class_weights[targets].sum() if denominator is Denominator.CLASS_WEIGHTS else len(targets)
        loss = loss + total / (over or 1) / labels.shape[2]
    assert_equal_to_autograd(oracle, loss, leaf)


# Size

FIGURE = """
import json, time, torch
from torch.nn.functional import cross_entropy
from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES

def memory(which):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))

generator = torch.Generator().manual_seed(0)
logits = torch.randn(2, 1500, 8, 1026, generator=generator)
labels = torch.randint(1026, (2, 1500, 8), generator=generator)
batch = Batch(logits, labels)
before, started = memory("VmRSS"), time.perf_counter()
pairing = build_pairing(PROFILES["dia"], batch)
paired = time.perf_counter()
oracle = evaluate(pairing, batch)
print(json.dumps({
    "pairing_s": paired - started,
    "evaluate_s": time.perf_counter() - paired,
    "cpu_s": time.process_time(),
    "growth": (memory("VmHWM") - before) / (8 * logits.numel()),
    "value": oracle.value,
    "expected": cross_entropy(logits.double().flatten(0, 2), labels.flatten()).item(),
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the process's memory from Linux's /proc")
def test_a_minute_of_audio_takes_little_more_memory_than_its_gradient(capsys):
    """[2, 1500, 8, 1026] float32, every label valid, in a process of its own; the time is printed, not judged."""
    ran = subprocess.run([sys.executable, "-c", FIGURE], capture_output=True, text=True, check=True)
    figures = json.loads(ran.stdout)
    with capsys.disabled():
        print(f"\noracle of [2, 1500, 8, 1026]: {figures}")
    assert figures["value"] == pytest.approx(figures["expected"], rel=1e-12)
    assert figures["growth"] < 4, "times the logits in float64"


@pytest.mark.peers
def test_transformers_agrees_on_pairs_divided_by_nothing():
    loss_utils = pytest.importorskip("transformers.loss.loss_utils", reason="judges transformers' own loss")
    logits, labels = torch.zeros(1, 3, 2), torch.tensor([[0, 1, 1]])
    loss = loss_utils.ForCausalLMLoss(logits, labels, vocab_size=2, num_items_in_batch=0)
    batch = Batch(logits, labels, num_items_in_batch=0)
    oracle = evaluate(build_pairing(PROFILES["hf.causal_lm"], batch), batch)
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
    batch = Batch(logits, labels, **arguments)
    oracle = evaluate(build_pairing(PROFILES["hf.causal_lm"], batch), batch)
    assert oracle.value == pytest.approx(loss.item(), rel=1e-5, abs=1e-6, nan_ok=True)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(oracle.gradients["logits"].float(), gradient, rtol=1e-4, atol=1e-6)
