"""Which logits meet which labels, with what weight: examples worked out by hand.

A grid has one entry a logit position: the target it is scored on, or – where it is scored on nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftproof.reference.batch import Batch, BatchError
from shiftproof.reference.pairing import Pair, assemble, build_pairing, divide_by, select
from shiftproof.reference.spec import (
    Denominator,
    Documents,
    Empty,
    Extra,
    LossSpec,
    LossTerm,
    Reduction,
    ShiftedBy,
    Tail,
)

_ = None  # – in a grid
EIGHT = [[0, 1, 2, 3], [4, 5, 6, 7]]
IGNORED = [[-100, -100, -100, -100]]

NEXT = LossTerm()
BY_DATA = {"shift": 0, "shifted_by": ShiftedBy.DATA}
BY_INPUTS = {"shift": 0, "shifted_by": ShiftedBy.INPUTS}
SUM = {"reduction": Reduction.SUM, "denominator": Denominator.ONE}
PER_TOKEN = {"reduction": Reduction.NONE, "denominator": Denominator.ONE}


def batch_of(labels, *, extra=0, **arguments):
    """A batch with these labels and ``extra`` more logits than labels; lists become tensors."""
    labels = torch.tensor(labels, dtype=torch.long)
    rows, length = labels.shape
    arguments = {name: torch.tensor(value) if isinstance(value, list) else value for name, value in arguments.items()}
    return Batch(torch.zeros(rows, length + extra, 8), labels, **arguments)


def pair_up(terms, labels, **arguments):
    terms = (terms,) if isinstance(terms, LossTerm) else terms
    return build_pairing(LossSpec("mine", terms, "", ""), batch_of(labels, **arguments))


def grid(pairing):
    """The target of every logit position."""
    rows, length, _classes = pairing.logits_shape
    targets = [[_] * length for _row in range(rows)]
    for pair in pairing.pairs:
        row, position = pair.logit
        assert targets[row][position] is None, "scored twice"
        targets[row][position] = pair.target
    return targets


def weights(pairing):
    return [pair.weight for pair in pairing.pairs]


# Align: shift and tail


def test_the_right_loss_of_the_probe_table():
    assert grid(pair_up(NEXT, EIGHT)) == [[1, 2, 3, _], [5, 6, 7, _]]


def test_every_field_of_every_pair_in_reading_order():
    assert pair_up(NEXT, EIGHT).pairs == (
        Pair(term=0, logit=(0, 0), label=(0, 1), target=1, weight=1 / 6),
        Pair(term=0, logit=(0, 1), label=(0, 2), target=2, weight=1 / 6),
        Pair(term=0, logit=(0, 2), label=(0, 3), target=3, weight=1 / 6),
        Pair(term=0, logit=(1, 0), label=(1, 1), target=5, weight=1 / 6),
        Pair(term=0, logit=(1, 1), label=(1, 2), target=6, weight=1 / 6),
        Pair(term=0, logit=(1, 2), label=(1, 3), target=7, weight=1 / 6),
    )


@pytest.mark.parametrize("shifted_by", [ShiftedBy.DATA, ShiftedBy.INPUTS])
def test_labels_that_someone_else_shifted_are_met_where_they_are(shifted_by):
    pairing = pair_up(LossTerm(shift=0, shifted_by=shifted_by), EIGHT)
    assert grid(pairing) == EIGHT
    assert pairing.denominators == (8,)


def test_a_shift_of_two():
    pairing = pair_up(LossTerm(shift=2), EIGHT)
    assert grid(pairing) == [[2, 3, _, _], [6, 7, _, _]]
    assert pairing.denominators == (4,)


def test_a_further_shift_of_labels_that_the_data_shifted():
    assert grid(pair_up(LossTerm(shift=1, shifted_by=ShiftedBy.DATA), EIGHT)) == [[1, 2, 3, _], [5, 6, 7, _]]


@pytest.mark.parametrize("shift", [4, 5])
def test_a_shift_past_the_end_leaves_nothing(shift):
    assert pair_up(LossTerm(shift=shift), EIGHT).pairs == ()


@pytest.mark.parametrize("shift", [1, 2])
def test_a_trimmed_tail_leaves_the_same_pairs_as_an_ignored_one(shift):
    trimmed, ignored = (pair_up(LossTerm(shift=shift, tail=tail), EIGHT) for tail in (Tail.TRIM, Tail.IGNORE))
    assert trimmed == ignored


# Align: shift_labels


def test_shift_labels_replace_the_labels_and_are_not_shifted_again():
    pairing = pair_up(LossTerm(accepts_shift_labels=True), IGNORED, shift_labels=[[1, 2, 3, 7]])
    assert grid(pairing) == [[1, 2, 3, 7]]
    assert pairing.pairs[3] == Pair(term=0, logit=(0, 3), label=(0, 3), target=7, weight=1 / 4)


def test_ignored_shift_labels_do_not_count():
    pairing = pair_up(LossTerm(accepts_shift_labels=True), EIGHT[:1], shift_labels=[[1, -100, 3, -100]])
    assert grid(pairing) == [[1, _, 3, _]]
    assert pairing.denominators == (2,)


def test_without_shift_labels_the_loss_shifts_by_itself():
    assert grid(pair_up(LossTerm(accepts_shift_labels=True), EIGHT)) == [[1, 2, 3, _], [5, 6, 7, _]]


def test_shift_labels_that_the_spec_does_not_accept_are_not_read():
    assert grid(pair_up(NEXT, EIGHT, shift_labels=[[9] * 4] * 2)) == [[1, 2, 3, _], [5, 6, 7, _]]


def test_labels_shifted_by_the_caller_mean_what_the_labels_mean():
    term = LossTerm(accepts_shift_labels=True)
    alone = pair_up(term, EIGHT[:1])
    shifted = pair_up(term, EIGHT[:1], shift_labels=[[1, 2, 3, -100]])
    assert [(pair.logit, pair.target, pair.weight) for pair in shifted.pairs] == [
        (pair.logit, pair.target, pair.weight) for pair in alone.pairs
    ]


# Align: extra logits


def test_logits_before_the_text_are_skipped():
    pairing = pair_up(LossTerm(extra=Extra.PREFIX), EIGHT, extra=2)
    assert grid(pairing) == [[_, _, 1, 2, 3, _], [_, _, 5, 6, 7, _]]
    assert pairing.pairs[0] == Pair(term=0, logit=(0, 2), label=(0, 1), target=1, weight=1 / 6)
    assert pairing.logits_shape == (2, 6, 8)


def test_logits_before_text_that_nobody_shifts():
    assert grid(pair_up(LossTerm(extra=Extra.PREFIX, **BY_INPUTS), EIGHT[:1], extra=1)) == [[_, 0, 1, 2, 3]]


def test_logits_after_the_text_are_left_over():
    assert grid(pair_up(LossTerm(extra=Extra.SUFFIX, **BY_DATA), EIGHT, extra=1)) == [[0, 1, 2, 3, _], [4, 5, 6, 7, _]]


def test_the_seed_case_of_168_logits_and_167_labels():
    labels = [[token % 8 for token in range(1, 168)]] * 2
    pairing = pair_up(LossTerm(extra=Extra.SUFFIX, **BY_DATA), labels, extra=1)
    assert len(pairing.pairs) == 334
    assert grid(pairing) == [[*row, _] for row in labels]


@pytest.mark.parametrize("extra", [Extra.PREFIX, Extra.SUFFIX])
def test_extra_logits_may_be_none_at_all(extra):
    assert grid(pair_up(LossTerm(extra=extra, **BY_DATA), EIGHT)) == EIGHT


@pytest.mark.parametrize(
    ("fields", "extra", "message"),
    [
        ({}, 1, "logits have 5 positions and labels 4, which extra=none does not allow"),
        ({}, -1, "logits have 3 positions and labels 4, which extra=none does not allow"),
        ({"extra": Extra.PREFIX}, -1, "logits have 3 positions and labels 4, which extra=prefix does not allow"),
        (
            {"extra": Extra.SUFFIX, **BY_DATA},
            -2,
            "logits have 2 positions and labels 4, which extra=suffix does not allow",
        ),
    ],
)
def test_more_or_fewer_logits_than_the_spec_allows(fields, extra, message):
    with pytest.raises(BatchError, match=message):
        pair_up(LossTerm(**fields), EIGHT, extra=extra)


# Align: packed documents


def test_documents_start_where_position_ids_restart():
    pairing = pair_up(LossTerm(documents=Documents.POSITION_IDS), EIGHT, position_ids=[[0, 1, 2, 0], [0, 0, 1, 2]])
    assert grid(pairing) == [[1, 2, _, _], [_, 6, 7, _]]
    assert pairing.denominators == (4,)


def test_position_ids_of_a_row_that_starts_in_the_middle_of_a_document():
    pairing = pair_up(LossTerm(documents=Documents.POSITION_IDS), EIGHT[:1], position_ids=[[5, 6, 0, 1]])
    assert grid(pairing) == [[1, _, 3, _]]


def test_position_ids_that_jump_ahead_start_a_document_too():
    pairing = pair_up(LossTerm(documents=Documents.POSITION_IDS), EIGHT[:1], position_ids=[[0, 1, 5, 6]])
    assert grid(pairing) == [[1, _, 3, _]]


def test_documents_of_one_token_have_no_pairs():
    assert pair_up(LossTerm(documents=Documents.POSITION_IDS), EIGHT[:1], position_ids=[[0, 0, 0, 0]]).pairs == ()


@pytest.mark.parametrize("ends", [[0, 3, 4, 5, 8], [0, 3, 3, 4, 5, 8, 8]], ids=["full", "with empty documents"])
def test_documents_end_at_cu_seqlens_over_the_flattened_batch(ends):
    pairing = pair_up(LossTerm(documents=Documents.CU_SEQLENS), EIGHT, cu_seqlens=ends)
    assert grid(pairing) == [[1, 2, _, _], [_, 6, 7, _]]


def test_one_document_a_row_by_cu_seqlens_is_the_plain_loss():
    assert pair_up(LossTerm(documents=Documents.CU_SEQLENS), EIGHT, cu_seqlens=[0, 4, 8]) == pair_up(NEXT, EIGHT)


def test_documents_by_segment_ids_and_segment_zero_is_padding():
    term = LossTerm(documents=Documents.SEGMENT_IDS)
    pairing = pair_up(term, EIGHT, segment_ids=[[1, 1, 2, 2], [3, 3, 0, 0]])
    assert grid(pairing) == [[1, _, 3, _], [5, _, _, _]]
    assert pairing.denominators == (3,)


def test_padding_on_the_left():
    pairing = pair_up(LossTerm(documents=Documents.SEGMENT_IDS), EIGHT[:1], segment_ids=[[0, 0, 1, 1]])
    assert grid(pairing) == [[_, _, 3, _]]


def test_a_shift_of_two_stays_within_its_document():
    term = LossTerm(shift=2, documents=Documents.POSITION_IDS)
    assert grid(pair_up(term, EIGHT, position_ids=[[0, 1, 2, 0], [0, 1, 0, 1]])) == [[2, _, _, _], [_, _, _, _]]


def test_a_document_of_labels_that_the_data_shifted_is_that_of_the_next_token():
    term = LossTerm(documents=Documents.SEGMENT_IDS, **BY_DATA)
    # The last label is a token beyond the row, which no segment id speaks of: it counts with its column.
    assert grid(pair_up(term, [[1, 2, 3, 4]], segment_ids=[[1, 1, 2, 2]])) == [[1, _, 3, 4]]
    assert grid(pair_up(term, [[1, 2, 3, 4]], segment_ids=[[1, 1, 0, 0]])) == [[1, _, _, _]]


def test_position_ids_of_labels_that_the_data_shifted():
    term = LossTerm(documents=Documents.POSITION_IDS, **BY_DATA)
    assert grid(pair_up(term, [[1, 2, 3, 4]], position_ids=[[0, 1, 2, 0]])) == [[1, 2, _, 4]]


def test_a_document_of_labels_whose_inputs_were_shifted_is_that_of_their_own_column():
    term = LossTerm(documents=Documents.SEGMENT_IDS, **BY_INPUTS)
    assert grid(pair_up(term, EIGHT[:1], segment_ids=[[1, 1, 2, 0]])) == [[0, 1, 2, _]]


def test_packed_text_behind_a_prefix():
    term = LossTerm(documents=Documents.POSITION_IDS, extra=Extra.PREFIX)
    assert grid(pair_up(term, EIGHT[:1], extra=2, position_ids=[[0, 1, 0, 1]])) == [[_, _, 1, _, 3, _]]


# Select


def test_an_ignored_label_does_not_count_and_the_others_weigh_more():
    pairing = pair_up(NEXT, [[0, 1, -100, 3], [-100, 5, 6, -100]])
    assert grid(pairing) == [[1, _, 3, _], [5, 6, _, _]]
    assert weights(pairing) == [1 / 4] * 4


def test_an_ignored_first_label_costs_nothing_because_nobody_predicts_it():
    assert pair_up(NEXT, [[-100, 1, 2, 3]]) == pair_up(NEXT, EIGHT[:1])


def test_another_ignore_index():
    assert grid(pair_up(LossTerm(ignore_index=-1), [[0, 1, -1, 3]])) == [[1, _, 3, _]]


def test_an_ignore_index_that_is_also_a_class():
    assert grid(pair_up(LossTerm(ignore_index=0), [[0, 1, 0, 3]])) == [[1, _, 3, _]]


def test_without_ignore_index_every_label_counts():
    pairing = pair_up(LossTerm(ignore_index=None), [[0, 1, -100, 3]])
    assert grid(pairing) == [[1, -100, 3, _]]
    assert pairing.denominators == (3,)


def test_further_ignored_ids():
    assert grid(pair_up(LossTerm(ignored_ids=(2, 6)), [[0, 1, 2, 3], [4, -100, 6, 7]])) == [[1, _, 3, _], [_, _, 7, _]]


@pytest.mark.parametrize("mask", [[[0, 1, 0, 1]], [[False, True, False, True]], [[0.0, 1.0, 0.0, 1.0]]])
def test_the_mask_is_aligned_with_the_labels(mask):
    pairing = pair_up(LossTerm(loss_mask=True), EIGHT[:1], loss_mask=mask)
    assert grid(pairing) == [[1, _, 3, _]]
    assert weights(pairing) == [1 / 2] * 2


def test_mask_and_ignore_index_both_have_to_agree():
    pairing = pair_up(LossTerm(loss_mask=True), [[0, 1, -100, 3]], loss_mask=[[1, 0, 1, 1]])
    assert grid(pairing) == [[_, _, 3, _]]


def test_a_mask_that_the_spec_does_not_name_is_not_read():
    assert pair_up(NEXT, EIGHT, loss_mask=[[0] * 4] * 2, token_weights=[[9.0] * 4] * 2) == pair_up(NEXT, EIGHT)


# Reduce


def test_token_weights_are_aligned_with_the_labels_and_do_not_enter_the_count():
    pairing = pair_up(LossTerm(token_weights=True), EIGHT[:1], token_weights=[[9.0, 1.0, 2.0, 3.0]])
    assert weights(pairing) == [1 / 3, 2 / 3, 3 / 3]


def test_token_weights_divided_by_their_sum():
    term = LossTerm(token_weights=True, denominator=Denominator.WEIGHTS)
    pairing = pair_up(term, [[0, 1, -100, 3]], token_weights=[[9.0, 1.0, 5.0, 3.0]])
    assert weights(pairing) == [1 / 4, 3 / 4]


def test_a_token_weight_of_zero_is_still_a_pair():
    pairing = pair_up(LossTerm(token_weights=True), EIGHT[:1], token_weights=[[1.0, 1.0, 0.0, 1.0]])
    assert weights(pairing) == [1 / 3, 0.0, 1 / 3]


@pytest.mark.parametrize(
    ("fields", "arguments", "expected"),
    [
        pytest.param({}, {}, 5, id="valid"),
        pytest.param({}, {"num_items_in_batch": 20}, 5, id="valid, items given"),
        pytest.param({"denominator": Denominator.NUM_ITEMS}, {"num_items_in_batch": 20}, 20, id="items"),
        pytest.param({"denominator": Denominator.NUM_ITEMS_OR_VALID}, {"num_items_in_batch": 20}, 20, id="either"),
        pytest.param({"denominator": Denominator.NUM_ITEMS_OR_VALID}, {}, 5, id="either, none given"),
        pytest.param({"denominator": Denominator.POSITIONS}, {}, 8, id="positions"),
        pytest.param({"denominator": Denominator.POSITIONS, "tail": Tail.TRIM}, {}, 6, id="positions, trimmed"),
        pytest.param(
            {"denominator": Denominator.WEIGHTS, "token_weights": True},
            {"token_weights": [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]},
            2 + 3 + 4 + 7 + 8,
            id="weights",
        ),
        pytest.param(
            {"denominator": Denominator.WEIGHTS, "loss_mask": True},
            {"loss_mask": [[1, 1, 0, 1], [1, 1, 1, 1]]},
            4,
            id="weights of a mask",
        ),
        pytest.param({"denominator": Denominator.ONE}, {}, 1, id="one"),
        pytest.param(SUM, {}, 1, id="sum"),
        pytest.param(PER_TOKEN, {}, 1, id="per token"),
        pytest.param({"clamp": 1.0}, {}, 5, id="clamp below the count"),
        pytest.param({"clamp": 6.5}, {}, 6.5, id="clamp above the count"),
        pytest.param({"epsilon": 0.25}, {}, 5.25, id="epsilon"),
        pytest.param({"clamp": 6.0, "epsilon": 0.25}, {}, 6.25, id="clamp, then epsilon"),
    ],
)
def test_the_denominator(fields, arguments, expected):
    term = LossTerm(**fields)
    pairing = pair_up(term, [[0, 1, 2, 3], [4, -100, 6, 7]], **arguments)
    assert pairing.denominators == (expected,)
    if not term.token_weights:
        assert weights(pairing) == [1 / expected] * len(pairing.pairs)


def test_trimmed_positions_shrink_with_the_shift_and_not_below_zero():
    term = {"denominator": Denominator.POSITIONS, "tail": Tail.TRIM}
    assert pair_up(LossTerm(shift=3, **term), EIGHT).denominators == (2,)
    assert pair_up(LossTerm(shift=5, **term), EIGHT).denominators == (0,)


def test_extra_logits_are_no_positions():
    term = LossTerm(denominator=Denominator.POSITIONS, extra=Extra.PREFIX)
    assert pair_up(term, EIGHT, extra=3).denominators == (8,)


def test_lambda_scales_every_weight_and_not_the_denominator():
    pairing = pair_up(LossTerm(weight=0.5), EIGHT)
    assert weights(pairing) == [1 / 12] * 6
    assert pairing.denominators == (6,)


def test_each_term_has_its_own_pairs_denominator_and_lambda():
    terms = (LossTerm(name="next"), LossTerm(name="after", shift=2, weight=0.5, ignored_ids=(3,)))
    pairing = pair_up(terms, EIGHT)
    assert pairing.denominators == (6, 3)
    assert pairing.pairs[:6] == pair_up(NEXT, EIGHT).pairs
    assert pairing.pairs[6:] == (
        Pair(term=1, logit=(0, 0), label=(0, 2), target=2, weight=0.5 / 3),
        Pair(term=1, logit=(1, 0), label=(1, 2), target=6, weight=0.5 / 3),
        Pair(term=1, logit=(1, 1), label=(1, 3), target=7, weight=0.5 / 3),
    )


@pytest.mark.parametrize(
    ("fields", "shape"),
    [
        ({}, ()),
        (SUM, ()),
        (PER_TOKEN, (2, 4)),
        ({**PER_TOKEN, "shift": 2}, (2, 4)),
        ({**PER_TOKEN, "tail": Tail.TRIM}, (2, 3)),
        ({**PER_TOKEN, "tail": Tail.TRIM, "shift": 2}, (2, 2)),
        ({**PER_TOKEN, "tail": Tail.TRIM, "shift": 5}, (2, 0)),
        ({**PER_TOKEN, "tail": Tail.TRIM, **BY_DATA}, (2, 4)),
    ],
)
def test_the_shape_of_the_loss(fields, shape):
    assert pair_up(LossTerm(**fields), EIGHT).output_shape == shape


def test_extra_logits_do_not_change_the_shape_of_the_loss():
    assert pair_up(LossTerm(extra=Extra.PREFIX, **PER_TOKEN), EIGHT, extra=2).output_shape == (2, 4)


def test_shift_labels_leave_no_tail_to_trim():
    term = LossTerm(accepts_shift_labels=True, tail=Tail.TRIM, **PER_TOKEN)
    pairing = pair_up(term, EIGHT[:1], shift_labels=[[1, 2, 3, 4]])
    assert grid(pairing) == [[1, 2, 3, 4]]
    assert pairing.output_shape == (1, 4)


# Nothing to score


@pytest.mark.parametrize(
    ("fields", "arguments", "expected"),
    [
        pytest.param({"empty": Empty.NAN}, {}, math.nan, id="nan"),
        pytest.param({"empty": Empty.ZERO}, {}, 0.0, id="zero"),
        pytest.param({"empty": Empty.UNDEFINED}, {}, None, id="undefined"),
        pytest.param({"denominator": Denominator.NUM_ITEMS}, {"num_items_in_batch": 20}, 0.0, id="0 / items"),
        pytest.param({"denominator": Denominator.NUM_ITEMS}, {"num_items_in_batch": 0}, math.nan, id="0 / no items"),
        pytest.param({"denominator": Denominator.NUM_ITEMS_OR_VALID}, {}, math.nan, id="no items given"),
        pytest.param({"denominator": Denominator.POSITIONS}, {}, 0.0, id="0 / positions"),
        pytest.param({"clamp": 1.0}, {}, 0.0, id="0 / clamp"),
        pytest.param({"epsilon": 1e-8}, {}, 0.0, id="0 / epsilon"),
        pytest.param({"clamp": 1.0, "empty": Empty.UNDEFINED}, {}, 0.0, id="0 / clamp is defined"),
        pytest.param(SUM, {}, 0.0, id="sum"),
        pytest.param(PER_TOKEN, {}, 0.0, id="per token"),
    ],
)
def test_the_value_of_nothing(fields, arguments, expected):
    pairing = pair_up(LossTerm(**fields), IGNORED, **arguments)
    assert pairing.pairs == ()
    assert pairing.empty == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (Empty.NAN, Empty.ZERO, math.nan),
        (Empty.NAN, Empty.UNDEFINED, None),
        (Empty.ZERO, Empty.UNDEFINED, None),
        (Empty.ZERO, Empty.ZERO, 0.0),
    ],
)
@pytest.mark.parametrize("swap", [False, True])
def test_the_value_of_nothing_twice(first, second, expected, swap):
    first, second = (second, first) if swap else (first, second)
    pairing = pair_up((LossTerm(empty=first), LossTerm(name="other", empty=second)), IGNORED)
    assert pairing.empty == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(("empty", "expected"), [(Empty.NAN, math.nan), (Empty.ZERO, 0.0), (Empty.UNDEFINED, None)])
def test_the_value_of_nothing_is_that_of_the_terms_without_pairs(empty, expected):
    with_pairs, without = LossTerm(empty=Empty.UNDEFINED), LossTerm(name="far", shift=4, empty=empty)
    pairing = pair_up((with_pairs, without), EIGHT)
    assert {pair.term for pair in pairing.pairs} == {0}
    assert pairing.empty == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("shape", [(2, 1), (2, 0), (0, 4)], ids=["one token a row", "no tokens", "no rows"])
@pytest.mark.parametrize("documents", [Documents.NONE, Documents.POSITION_IDS])
def test_batches_without_a_next_token(shape, documents):
    labels = torch.zeros(shape, dtype=torch.long)
    batch = Batch(torch.zeros(*shape, 8), labels, position_ids=labels)
    pairing = build_pairing(LossSpec("mine", (LossTerm(documents=documents),), "", ""), batch)
    assert pairing.pairs == ()
    assert math.isnan(pairing.empty)


@pytest.mark.parametrize("empty", Empty)
@pytest.mark.parametrize("denominator", [Denominator.NUM_ITEMS, Denominator.NUM_ITEMS_OR_VALID])
def test_pairs_divided_by_zero_weigh_infinitely_much(denominator, empty):
    pairing = pair_up(LossTerm(denominator=denominator, empty=empty), EIGHT[:1], num_items_in_batch=0)
    assert pairing.denominators == (0,)
    assert weights(pairing) == [math.inf] * 3
    assert pairing.empty == 0.0


def test_a_weight_divided_by_zero_keeps_its_sign_and_nothing_divided_by_zero_is_nan():
    term = LossTerm(token_weights=True, denominator=Denominator.NUM_ITEMS)
    pairing = pair_up(term, EIGHT[:1], num_items_in_batch=0, token_weights=[[1.0, 2.0, -2.0, 0.0]])
    assert weights(pairing) == pytest.approx([math.inf, -math.inf, math.nan], nan_ok=True)
    pairing = pair_up(
        replace(term, weight=-0.5), EIGHT[:1], num_items_in_batch=0, token_weights=[[1.0, 2.0, -2.0, 0.0]]
    )
    assert weights(pairing) == pytest.approx([-math.inf, math.inf, math.nan], nan_ok=True)


# Arguments that are missing


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_mask": True}, "this spec reads loss_mask, and the batch has none; give it one"),
        ({"token_weights": True}, "this spec reads token_weights, and the batch has none; give it one"),
        ({"documents": Documents.POSITION_IDS}, "this spec reads position_ids, and the batch has none; give it one"),
        ({"documents": Documents.CU_SEQLENS}, "this spec reads cu_seqlens, and the batch has none; give it one"),
        ({"documents": Documents.SEGMENT_IDS}, "this spec reads segment_ids, and the batch has none; give it one"),
        (
            {"denominator": Denominator.NUM_ITEMS},
            "this spec divides by num_items_in_batch, and the batch has none; give it one",
        ),
    ],
)
def test_a_missing_argument_is_named(fields, message):
    with pytest.raises(BatchError, match=re.escape(message)):
        pair_up(LossTerm(**fields), EIGHT)


# The pieces that mutants are made of


def test_the_pieces_make_the_whole():
    term = LossTerm(token_weights=True, weight=0.5)
    spec = LossSpec("mine", (term,), "", "")
    batch = batch_of(EIGHT, token_weights=[[1.0, 2.0, 3.0, 4.0]] * 2)
    chosen = select(term, batch)
    assert [pair.weight for pair in chosen] == [2.0, 3.0, 4.0] * 2
    assert divide_by(term, batch, chosen) == 6
    assert assemble(spec, batch, [chosen], [6]) == build_pairing(spec, batch)


def test_assembling_other_pairs_with_another_denominator():
    spec, batch = LossSpec("mine", (NEXT,), "", ""), batch_of(EIGHT)
    pairing = assemble(spec, batch, [[Pair(0, (1, 3), (0, 0), 0, 1.0)]], [4])
    assert pairing.pairs == (Pair(0, (1, 3), (0, 0), 0, 1 / 4),)
    assert pairing.denominators == (4,)


# What holds of every batch


@st.composite
def labels_with_holes(draw):
    length = draw(st.integers(0, 6))
    row = st.lists(st.sampled_from([-100, 0, 1, 5]), min_size=length, max_size=length)
    return draw(st.lists(row, min_size=1, max_size=3))


@settings(deadline=None, max_examples=60)
@given(labels=labels_with_holes(), shift=st.integers(1, 4))
def test_every_label_that_counts_is_met_exactly_once_by_the_logits_a_shift_before_it(labels, shift):
    pairing = pair_up(LossTerm(shift=shift), torch.tensor(labels, dtype=torch.long).reshape(len(labels), -1).tolist())
    expected = [
        ((row, at - shift), (row, at), label)
        for row, tokens in enumerate(labels)
        for at, label in enumerate(tokens)
        if at >= shift and label != -100
    ]
    assert [(pair.logit, pair.label, pair.target) for pair in pairing.pairs] == expected
    assert math.fsum(weights(pairing)) == pytest.approx(1.0 if expected else 0.0)


@settings(deadline=None, max_examples=40)
@given(labels=labels_with_holes(), data=st.data())
def test_every_way_to_mark_documents_is_the_same_loss(labels, data):
    tokens = sum(map(len, labels))
    length = len(labels[0])
    starts = data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens))
    starts = [start or at % length == 0 for at, start in enumerate(starts)]
    positions, segments = [], []
    for start in starts:
        positions.append(0 if start else positions[-1] + 1)
        segments.append((segments[-1] if segments else 0) + start)

    def fold(flat):
        return [flat[row * length : (row + 1) * length] for row in range(len(labels))]

    by_position, by_length, by_segment = (
        pair_up(
            LossTerm(documents=documents),
            labels,
            position_ids=fold(positions),
            cu_seqlens=[*(at for at, start in enumerate(starts) if start), tokens] if tokens else [0],
            segment_ids=fold(segments),
        )
        for documents in (Documents.POSITION_IDS, Documents.CU_SEQLENS, Documents.SEGMENT_IDS)
    )
    assert by_position.pairs == by_length.pairs == by_segment.pairs
