"""Which logits meet which labels, with what weight: examples worked out by hand.

A grid has one entry a logit position: the target it is scored on, or – where it is scored on nothing. With codebooks or
several heads it has one line for each of them.
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
from shiftproof.reference.pairing import (
    Group,
    Pair,
    Rule,
    aligned,
    assemble,
    build_pairing,
    divide_by,
    document_ids,
    group,
    select,
)
from shiftproof.reference.spec import (
    Axis,
    Combine,
    Denominator,
    Documents,
    Empty,
    Extra,
    Heads,
    LossSpec,
    LossTerm,
    Reduction,
    Score,
    ShiftedBy,
    Tail,
)

_ = None  # – in a grid
EIGHT = [[0, 1, 2, 3], [4, 5, 6, 7]]
IGNORED = [[-100, -100, -100, -100]]

CODES = [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]]  # one row, three codebooks, four frames

NEXT = LossTerm()
BY_DATA = {"shift": 0, "shifted_by": ShiftedBy.DATA}
BY_INPUTS = {"shift": 0, "shifted_by": ShiftedBy.INPUTS}
SUM = {"reduction": Reduction.SUM, "denominator": Denominator.ONE}
PER_TOKEN = {"reduction": Reduction.NONE, "denominator": Denominator.ONE}


BOOKS = LossTerm(heads=Heads.CODEBOOKS, **BY_INPUTS)
AUDIO = LossTerm(name="audio", logits="audio_logits", labels="audio_labels", heads=Heads.CODEBOOKS)
DEPTH = LossTerm(name="depth", logits="depth_logits", heads=Heads.CODEBOOKS, axis=Axis.CODEBOOK)
AHEAD = LossTerm(name="ahead", logits="mtp_logits", heads=Heads.AHEAD)


def tensor_of(value):
    """Lists become tensors; codes are written [row][codebook][frame], and lie [B, S, K]."""
    if not isinstance(value, list):
        return value
    tensor = torch.tensor(value)
    tensor = tensor if tensor.numel() else tensor.long()
    return tensor.transpose(1, 2) if tensor.dim() == 3 else tensor


def batch_of(labels, terms=(NEXT,), *, extra=0, heads=1, classes=12, **arguments):
    """A batch with these labels and, for each of ``terms``, logits of the shape that it asks for: ``extra`` more than
    labels, ``heads`` where they look ahead."""
    arrays = {name: tensor_of(value) for name, value in {"labels": labels, **arguments}.items()}
    for term in terms:
        rows, length, *books = arrays[term.labels].shape
        match term.heads:
            case Heads.CODEBOOKS:
                books[0] -= term.shift if term.axis is Axis.CODEBOOK else 0
            case Heads.AHEAD:
                books = [heads]
            case _:
                books = []
        arrays[term.logits] = torch.zeros(rows, length + extra, *books, classes)
    return Batch(**arrays)


def pair_up(terms, labels, **arguments):
    terms = (terms,) if isinstance(terms, LossTerm) else terms
    return build_pairing(LossSpec("mine", terms, "", ""), batch_of(labels, terms, **arguments))


def grid(pairing, logits="logits"):
    """The target of every logit position: [row][position], or [row][codebook or head][position]."""
    rows, length, *books, _classes = pairing.shapes[logits]
    targets = [[[_] * length for _book in range(books[0] if books else 1)] for _row in range(rows)]
    for pair in pairing.of(logits):
        row, position, book = pair.logit if books else (*pair.logit, 0)
        assert targets[row][book][position] is None, "scored twice"
        targets[row][book][position] = pair.target
    return targets if books else [row[0] for row in targets]


def weights(pairing):
    return [pair.weight for pair in pairing.pairs]


def weights_by_book(pairing):
    """The weight of every codebook's or head's pairs, which are all of one weight."""
    found = {}
    for pair in pairing.pairs:
        assert found.setdefault(pair.logit[2], pair.weight) == pair.weight
    return found


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
    assert trimmed.pairs == ignored.pairs
    assert trimmed.denominators == ignored.denominators


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
    assert pairing.shapes == {"logits": (2, 6, 12)}


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
    by_lengths = pair_up(LossTerm(documents=Documents.CU_SEQLENS), EIGHT, cu_seqlens=[0, 4, 8])
    assert by_lengths.pairs == pair_up(NEXT, EIGHT).pairs


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


def test_text_that_is_not_packed_is_one_document():
    ids = document_ids(NEXT, batch_of(EIGHT))
    assert ids.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert ids.dtype == torch.long


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


def test_shift_labels_leave_every_position():
    term = LossTerm(accepts_shift_labels=True, tail=Tail.TRIM, denominator=Denominator.POSITIONS)
    assert pair_up(term, EIGHT, shift_labels=EIGHT).denominators == (8,)
    assert pair_up(term, EIGHT).denominators == (6,)


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


@pytest.mark.parametrize("shape", [(2, 1), (2, 0), (0, 4)], ids=["one frame a row", "no frames", "no rows"])
@pytest.mark.parametrize("combine", [Combine.FLAT, Combine.MEAN, Combine.MEAN_NONEMPTY, Combine.SUM])
def test_batches_without_a_next_frame(shape, combine):
    batch = Batch(torch.zeros(*shape, 3, 8), torch.zeros(*shape, 3, dtype=torch.long))
    term = LossTerm(heads=Heads.CODEBOOKS, combine=combine)
    pairing = build_pairing(LossSpec("mine", (term,), "", ""), batch)
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
        ({"loss_mask": True}, "this spec reads loss_mask, but the batch has none; give it one"),
        ({"token_weights": True}, "this spec reads token_weights, but the batch has none; give it one"),
        ({"documents": Documents.POSITION_IDS}, "this spec reads position_ids, but the batch has none; give it one"),
        ({"documents": Documents.CU_SEQLENS}, "this spec reads cu_seqlens, but the batch has none; give it one"),
        ({"documents": Documents.SEGMENT_IDS}, "this spec reads segment_ids, but the batch has none; give it one"),
        (
            {"denominator": Denominator.NUM_ITEMS},
            "this spec divides by num_items_in_batch, but the batch has none; give it one",
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
    assert group(term, batch, chosen) == [Group(chosen, 6, 1.0)]
    assert assemble(spec, batch, [group(term, batch, chosen)]) == build_pairing(spec, batch)


def test_the_pieces_of_several_codebooks_make_the_whole():
    term = replace(BOOKS, combine=Combine.WEIGHTED_MEAN, codebook_weights=(1.0, 3.0, 4.0))
    spec = LossSpec("mine", (term,), "", "")
    batch = batch_of([[[0, 1], [-100, 5], [8, 9]]], (term,))
    groups = group(term, batch, select(term, batch))
    assert [(len(each.pairs), each.denominator, each.share) for each in groups] == [
        (2, 2, 1 / 8),
        (1, 1, 3 / 8),
        (2, 2, 1 / 2),
    ]
    assert [pair.target for each in groups for pair in each.pairs] == [0, 1, 5, 8, 9]
    assert assemble(spec, batch, [groups]) == build_pairing(spec, batch)


def test_every_aligned_place_is_there_whether_its_label_counts_or_not():
    assert list(aligned(NEXT, batch_of(IGNORED))) == [((0, 0), (0, 1)), ((0, 1), (0, 2)), ((0, 2), (0, 3))]


def test_the_rule_tells_a_label_that_never_counts_from_one_that_these_logits_are_not_scored_on():
    term = LossTerm(loss_mask=True, documents=Documents.SEGMENT_IDS)
    rule = Rule(term, batch_of([[0, 1, 2, -100]], loss_mask=[[1, 0, 1, 1]], segment_ids=[[1, 1, 2, 2]]))
    assert [rule.target((0, at)) for at in range(4)] == [0, 1, 2, -100]
    assert [rule.trains((0, at)) for at in range(4)] == [True, False, True, False]
    assert not rule.counts((0, 1), (0, 2)), "across documents"
    assert rule.counts((0, 2), (0, 2))


def test_assembling_needs_the_groups_of_every_term():
    with pytest.raises(ValueError, match="shorter"):
        assemble(LossSpec("mine", (NEXT,), "", ""), batch_of(EIGHT), [])


def test_assembling_other_pairs_with_another_denominator():
    spec, batch = LossSpec("mine", (NEXT,), "", ""), batch_of(EIGHT)
    pairing = assemble(spec, batch, [[Group([Pair(0, (1, 3), (0, 0), 0, 1.0)], 4, 0.5)]])
    assert pairing.pairs == (Pair(0, (1, 3), (0, 0), 0, 1 / 8),)
    assert pairing.denominators == (4,)


# Codebooks: align


def test_codebooks_whose_inputs_were_shifted_meet_their_own_codes():
    pairing = pair_up(BOOKS, CODES)
    assert grid(pairing) == CODES
    assert pairing.shapes == {"logits": (1, 4, 3, 12)}
    assert pairing.denominators == (12,)


def test_codebooks_that_the_loss_shifts_meet_their_next_codes():
    pairing = pair_up(LossTerm(heads=Heads.CODEBOOKS), CODES)
    assert grid(pairing) == [[[1, 2, 3, _], [5, 6, 7, _], [9, 10, 11, _]]]


def test_every_field_of_every_pair_of_codebooks_in_reading_order():
    assert pair_up(LossTerm(heads=Heads.CODEBOOKS), [[[0, 1], [2, 3]], [[4, 5], [6, -100]]]).pairs == (
        Pair(term=0, logit=(0, 0, 0), label=(0, 1, 0), target=1, weight=1 / 3),
        Pair(term=0, logit=(0, 0, 1), label=(0, 1, 1), target=3, weight=1 / 3),
        Pair(term=0, logit=(1, 0, 0), label=(1, 1, 0), target=5, weight=1 / 3),
    )


@pytest.mark.parametrize("combine", [Combine.FLAT, Combine.MEAN, Combine.SUM])
def test_pairs_are_in_reading_order_however_they_are_grouped(combine):
    places = [pair.logit for pair in pair_up(replace(BOOKS, combine=combine), CODES * 2).pairs]
    assert places == sorted(places)
    assert len(places) == 24


def test_codes_under_a_delay_meet_their_own_codes_and_fill_does_not_count():
    delayed = [[[0, 1, 2, -100, -100], [-100, 3, 4, 5, -100], [-100, -100, 6, 7, 8]]]
    assert grid(pair_up(LossTerm(heads=Heads.CODEBOOKS), delayed)) == [
        [[1, 2, _, _, _], [3, 4, 5, _, _], [_, 6, 7, 8, _]],
    ]


def test_codebooks_behind_a_prefix():
    pairing = pair_up(replace(BOOKS, extra=Extra.PREFIX), CODES, extra=2)
    assert grid(pairing) == [[[_, _, 0, 1, 2, 3], [_, _, 4, 5, 6, 7], [_, _, 8, 9, 10, 11]]]
    assert pairing.pairs[1] == Pair(term=0, logit=(0, 2, 1), label=(0, 0, 1), target=4, weight=1 / 12)


def test_codebooks_before_a_suffix():
    pairing = pair_up(replace(BOOKS, extra=Extra.SUFFIX, shifted_by=ShiftedBy.DATA), CODES, extra=1)
    assert grid(pairing) == [[[0, 1, 2, 3, _], [4, 5, 6, 7, _], [8, 9, 10, 11, _]]]


def test_the_first_codebook_alone():
    pairing = pair_up(LossTerm(heads=Heads.FIRST), CODES * 2)
    assert grid(pairing) == [[1, 2, 3, _], [1, 2, 3, _]]
    assert pairing.pairs[0] == Pair(term=0, logit=(0, 0), label=(0, 1, 0), target=1, weight=1 / 6)


def test_the_first_codebook_counts_where_its_own_label_does():
    pairing = pair_up(LossTerm(heads=Heads.FIRST), [[[0, -100, 2], [-100, 4, -100]]])
    assert grid(pairing) == [[_, 2, _]]


def test_along_the_codebooks_every_head_predicts_the_next_code_of_its_own_frame():
    pairing = pair_up(DEPTH, CODES)
    assert grid(pairing, "depth_logits") == [[[4, 5, 6, 7], [8, 9, 10, 11]]]
    assert pairing.shapes == {"depth_logits": (1, 4, 2, 12)}
    assert pairing.pairs[:2] == (
        Pair(term=0, logit=(0, 0, 0), label=(0, 0, 1), target=4, weight=1 / 8),
        Pair(term=0, logit=(0, 0, 1), label=(0, 0, 2), target=8, weight=1 / 8),
    )


def test_two_steps_along_the_codebooks():
    assert grid(pair_up(replace(DEPTH, shift=2), CODES), "depth_logits") == [[[8, 9, 10, 11]]]


def test_a_frame_whose_first_code_alone_counts_trains_no_depth():
    """CSM: frames of which the backbone alone learns have −100 in every later codebook."""
    assert grid(pair_up(DEPTH, [[[0, 1], [-100, 5], [-100, 9]]]), "depth_logits") == [[[_, 5], [_, 9]]]


def test_the_only_frame_of_a_row_still_has_depth_but_nothing_ahead():
    backbone = LossTerm(heads=Heads.FIRST)
    pairing = pair_up((backbone, DEPTH), [[[0], [4], [8]]])
    assert grid(pairing) == [[_]]
    assert grid(pairing, "depth_logits") == [[[4], [8]]]
    assert math.isnan(pairing.empty)


def test_the_documents_of_codebooks():
    term = LossTerm(heads=Heads.CODEBOOKS, documents=Documents.SEGMENT_IDS)
    pairing = pair_up(term, CODES, segment_ids=[[1, 1, 2, 2]])
    assert grid(pairing) == [[[1, _, 3, _], [5, _, 7, _], [9, _, 11, _]]]


def test_the_documents_of_codebooks_by_cu_seqlens_are_counted_in_frames():
    term = LossTerm(heads=Heads.CODEBOOKS, documents=Documents.CU_SEQLENS)
    pairing = pair_up(term, CODES, cu_seqlens=[0, 2, 4])
    assert grid(pairing) == [[[1, _, 3, _], [5, _, 7, _], [9, _, 11, _]]]


# Codebooks: select


def test_a_mask_and_token_weights_are_those_of_a_frame():
    term = replace(BOOKS, loss_mask=True, token_weights=True)
    pairing = pair_up(term, [[[0, 1, 2], [4, 5, 6]]], loss_mask=[[1, 0, 1]], token_weights=[[1.0, 2.0, 3.0]])
    assert grid(pairing) == [[[0, _, 2], [4, _, 6]]]
    assert weights(pairing) == [1 / 4, 1 / 4, 3 / 4, 3 / 4]


def test_the_sentinel_is_one_past_the_last_class_of_its_own_logits():
    pairing = pair_up(replace(BOOKS, sentinel=True), [[[0, 7, 8, -100], [8, 7, 8, 0]]], classes=8)
    assert grid(pairing) == [[[0, 7, _, _], [_, 7, _, 0]]]
    assert pairing.denominators == (4,)


def test_without_a_sentinel_that_id_is_a_label_like_any_other():
    assert grid(pair_up(BOOKS, [[[0, 8]]], classes=8)) == [[[0, 8]]]


def test_bos_labels_do_not_count():
    pairing = pair_up(replace(BOOKS, ignores_bos=True), [[[9, 1, 2], [9, 9, 5]]], bos_token_id=9)
    assert grid(pairing) == [[[_, 1, 2], [_, _, 5]]]


def test_a_bos_that_no_spec_names_is_a_label_like_any_other():
    assert grid(pair_up(BOOKS, [[[9, 1]]], bos_token_id=9)) == [[[9, 1]]]


def test_what_follows_an_eos_at_the_input_does_not_count():
    """Parler: inputs are the labels moved right, so eos itself is learnt, and what comes after is not."""
    labels = [[[1, 2, 11, 11], [5, 11, 11, 11]]]
    inputs = [[[0, 1, 2, 11], [0, 5, 11, 11]]]
    pairing = pair_up(replace(BOOKS, stops_at_eos=True), labels, input_ids=inputs, eos_token_id=11)
    assert grid(pairing) == [[[1, 2, 11, _], [5, 11, _, _]]]


def test_the_input_that_stops_is_that_of_the_logits_behind_a_prefix():
    term = replace(BOOKS, stops_at_eos=True, extra=Extra.PREFIX)
    pairing = pair_up(term, [[[1, 2, 3]]], input_ids=[[[0, 11, 2]]], eos_token_id=11, extra=1)
    assert grid(pairing) == [[[_, 1, _, 3]]]


def test_the_input_that_stops_is_that_of_the_logits_under_a_shift():
    pairing = pair_up(LossTerm(stops_at_eos=True), [[1, 2, 3, 4]], input_ids=[[0, 11, 2, 11]], eos_token_id=11)
    assert grid(pairing) == [[2, _, 4, _]]


# Codebooks: reduce

UNEVEN = [[[0, 1, 2, 3], [4, 5, -100, -100], [8, -100, -100, -100]]]  # four codes, two, one
HOLLOW = [[[0, 1, 2, 3], [-100, -100, -100, -100], [8, -100, -100, -100]]]  # four codes, none, one
SILENT = [[[-100] * 4] * 3]


@pytest.mark.parametrize(
    ("fields", "arguments", "expected", "denominators"),
    [
        pytest.param({}, {}, [1 / 7, 1 / 7, 1 / 7], (7,), id="flat"),
        pytest.param({"combine": Combine.MEAN}, {}, [1 / 12, 1 / 6, 1 / 3], (4, 2, 1), id="mean"),
        pytest.param({"combine": Combine.MEAN_NONEMPTY}, {}, [1 / 12, 1 / 6, 1 / 3], (4, 2, 1), id="mean_nonempty"),
        pytest.param({"combine": Combine.SUM}, {}, [1 / 4, 1 / 2, 1], (4, 2, 1), id="sum"),
        pytest.param(
            {"combine": Combine.SUM, "codebook_weights": (2.0, 0.5, 0.0)},
            {},
            [2 / 4, 0.5 / 2, 0.0],
            (4, 2, 1),
            id="weighted sum",
        ),
        pytest.param(
            {"combine": Combine.WEIGHTED_MEAN, "codebook_weights": (1.0, 2.0, 5.0)},
            {},
            [1 / 32, 2 / 16, 5 / 8],
            (4, 2, 1),
            id="weighted mean",
        ),
        pytest.param(
            {"combine": Combine.WEIGHTED_MEAN, "codebook_weights": True},
            {"codebook_weights": [1.0, 2.0, 5.0]},
            [1 / 32, 2 / 16, 5 / 8],
            (4, 2, 1),
            id="weights of the batch",
        ),
        pytest.param(
            {"codebook_weights": (1.0, 2.0, 5.0)}, {}, [1 / 7, 2 / 7, 5 / 7], (7,), id="flat, weighted over the count"
        ),
        pytest.param(
            {"codebook_weights": True, "denominator": Denominator.WEIGHTS},
            {"codebook_weights": [1.0, 2.0, 5.0]},
            [1 / 13, 2 / 13, 5 / 13],
            (1 * 4 + 2 * 2 + 5 * 1,),
            id="flat, weighted over the weights",
        ),
        pytest.param(
            {"combine": Combine.SUM, "denominator": Denominator.NUM_ITEMS_OR_VALID},
            {"num_items_in_batch": 10},
            [1 / 10] * 3,
            (10, 10, 10),
            id="sum, each over the items given",
        ),
        pytest.param(
            {"combine": Combine.SUM, "denominator": Denominator.NUM_ITEMS_OR_VALID},
            {},
            [1 / 4, 1 / 2, 1],
            (4, 2, 1),
            id="sum, no items given",
        ),
        pytest.param(
            {"combine": Combine.MEAN, "denominator": Denominator.NUM_ITEMS},
            {"num_items_in_batch": 10},
            [1 / 30] * 3,
            (10, 10, 10),
            id="mean over the items given",
        ),
        pytest.param(
            {"denominator": Denominator.NUM_ITEMS}, {"num_items_in_batch": 10}, [1 / 10] * 3, (10,), id="flat, items"
        ),
        pytest.param({"denominator": Denominator.POSITIONS}, {}, [1 / 12] * 3, (12,), id="flat, positions"),
        pytest.param(
            {"denominator": Denominator.POSITIONS, "combine": Combine.MEAN},
            {},
            [1 / 12] * 3,
            (4, 4, 4),
            id="mean, positions of each codebook",
        ),
        pytest.param(
            {"combine": Combine.MEAN, "clamp": 2.0}, {}, [1 / 12, 1 / 6, 1 / 6], (4, 2, 2), id="mean, clamped"
        ),
        pytest.param({"combine": Combine.SUM, "epsilon": 1.0}, {}, [1 / 5, 1 / 3, 1 / 2], (5, 3, 2), id="sum, epsilon"),
        pytest.param(
            {"combine": Combine.MEAN, "weight": 0.3}, {}, [0.3 / 12, 0.3 / 6, 0.3 / 3], (4, 2, 1), id="lambda"
        ),
        pytest.param({"combine": Combine.MEAN, **SUM}, {}, [1 / 3] * 3, (1, 1, 1), id="mean of sums"),
        pytest.param({"combine": Combine.SUM, **SUM}, {}, [1, 1, 1], (1, 1, 1), id="sum of sums"),
    ],
)
def test_the_weight_of_each_codebook(fields, arguments, expected, denominators):
    pairing = pair_up(replace(BOOKS, **fields), UNEVEN, **arguments)
    assert grid(pairing) == [[[0, 1, 2, 3], [4, 5, _, _], [8, _, _, _]]]
    assert pairing.denominators == pytest.approx(denominators, rel=1e-15)
    assert weights_by_book(pairing) == pytest.approx(dict(enumerate(expected)), rel=1e-15)
    assert pairing.empty == 0.0
    assert pairing.output_shape == ()


def test_token_weights_within_codebooks_of_their_own():
    term = replace(BOOKS, combine=Combine.MEAN, token_weights=True, denominator=Denominator.WEIGHTS)
    pairing = pair_up(term, [[[0, 1], [-100, 5]]], token_weights=[[1.0, 3.0]])
    assert pairing.denominators == (4, 3)
    assert weights(pairing) == [1 / 8, 3 / 8, 1 / 2]


@pytest.mark.parametrize("empty", Empty)
@pytest.mark.parametrize(
    ("fields", "expected", "declared"),
    [
        pytest.param({}, {0: 1 / 5, 2: 1 / 5}, False, id="flat"),
        pytest.param({"combine": Combine.MEAN}, {0: 1 / 12, 2: 1 / 3}, True, id="mean"),
        pytest.param({"combine": Combine.MEAN_NONEMPTY}, {0: 1 / 8, 2: 1 / 2}, False, id="mean_nonempty"),
        pytest.param({"combine": Combine.SUM}, {0: 1 / 4, 2: 1}, True, id="sum"),
        pytest.param(
            {"combine": Combine.WEIGHTED_MEAN, "codebook_weights": (1.0, 2.0, 5.0)},
            {0: 1 / 32, 2: 5 / 8},
            True,
            id="weighted_mean",
        ),
        pytest.param({"combine": Combine.MEAN, "clamp": 1.0}, {0: 1 / 12, 2: 1 / 3}, False, id="mean, clamped"),
        pytest.param(
            {"combine": Combine.SUM, "denominator": Denominator.POSITIONS}, {0: 1 / 4, 2: 1 / 4}, False, id="positions"
        ),
    ],
)
def test_one_codebook_is_empty(fields, expected, declared, empty):
    pairing = pair_up(replace(BOOKS, empty=empty, **fields), HOLLOW)
    assert weights_by_book(pairing) == pytest.approx(expected, rel=1e-15)
    value = {Empty.NAN: math.nan, Empty.ZERO: 0.0, Empty.UNDEFINED: None}[empty] if declared else 0.0
    assert pairing.empty == pytest.approx(value, nan_ok=True)


def test_the_mean_over_codebooks_that_hold_anything_has_no_denominator_for_those_that_do_not():
    assert pair_up(replace(BOOKS, combine=Combine.MEAN_NONEMPTY), HOLLOW).denominators == (4, 1)
    assert pair_up(replace(BOOKS, combine=Combine.MEAN), HOLLOW).denominators == (4, 0, 1)


@pytest.mark.parametrize(("empty", "value"), [(Empty.NAN, math.nan), (Empty.ZERO, 0.0), (Empty.UNDEFINED, None)])
@pytest.mark.parametrize("combine", Combine)
def test_every_codebook_is_empty(combine, empty, value):
    by_weight = {"codebook_weights": True} if combine is Combine.WEIGHTED_MEAN else {}
    term = replace(BOOKS, combine=combine, empty=empty, **by_weight)
    pairing = pair_up(term, SILENT, codebook_weights=[1.0, 2.0, 5.0])
    assert pairing.pairs == ()
    assert pairing.empty == pytest.approx(value, nan_ok=True)


def test_codebook_weights_of_a_batch_that_are_all_zero_leave_nothing_to_divide_by():
    term = replace(BOOKS, combine=Combine.WEIGHTED_MEAN, codebook_weights=True)
    assert all(map(math.isnan, weights(pair_up(term, CODES, codebook_weights=[0.0, 0.0, 0.0]))))


def test_a_codebook_that_weighs_nothing_still_has_pairs():
    term = replace(BOOKS, combine=Combine.WEIGHTED_MEAN, codebook_weights=(1.0, 0.0, 1.0))
    assert weights_by_book(pair_up(term, CODES)) == {0: 1 / 8, 1: 0.0, 2: 1 / 8}


def test_the_class_weights_of_the_targets_of_each_codebook():
    term = replace(BOOKS, combine=Combine.SUM, denominator=Denominator.CLASS_WEIGHTS, score=Score(class_weights=True))
    pairing = pair_up(term, [[[0, 1, 1], [2, -100, 0]]], classes=3, class_weights=[1.0, 0.5, 4.0])
    assert pairing.denominators == (2.0, 5.0)
    assert weights_by_book(pairing) == {0: 1 / 2, 1: 1 / 5}


def test_the_class_weights_of_targets_are_not_those_of_ignored_labels():
    term = LossTerm(denominator=Denominator.CLASS_WEIGHTS, score=Score(class_weights=True))
    pairing = pair_up(term, [[2, 0, -100, 1]], classes=3, class_weights=[1.0, 0.5, 4.0])
    assert pairing.denominators == (1.5,)
    assert weights(pairing) == [1 / 1.5] * 2, "each pair's own class weight is part of its score"


# Several tokens ahead


def test_head_d_predicts_d_further_and_its_last_logits_nothing():
    pairing = pair_up(AHEAD, [[0, 1, 2, 3, 4]], heads=3)
    assert grid(pairing, "mtp_logits") == [[[1, 2, 3, 4, _], [2, 3, 4, _, _], [3, 4, _, _, _]]]
    assert pairing.shapes == {"mtp_logits": (1, 5, 3, 12)}
    assert pairing.denominators == (9,)


def test_every_field_of_every_pair_ahead_in_reading_order():
    assert pair_up(replace(AHEAD, combine=Combine.SUM), [[0, 1, 2]], heads=2).pairs == (
        Pair(term=0, logit=(0, 0, 0), label=(0, 1), target=1, weight=1 / 2),
        Pair(term=0, logit=(0, 0, 1), label=(0, 2), target=2, weight=1),
        Pair(term=0, logit=(0, 1, 0), label=(0, 2), target=2, weight=1 / 2),
    )


def test_medusa_heads_start_two_ahead():
    pairing = pair_up(replace(AHEAD, shift=2, tail=Tail.TRIM, combine=Combine.SUM), EIGHT, heads=2)
    assert grid(pairing, "mtp_logits") == [[[2, 3, _, _], [3, _, _, _]], [[6, 7, _, _], [7, _, _, _]]]
    assert pairing.denominators == (4, 2)
    assert weights_by_book(pairing) == {0: 1 / 4, 1: 1 / 2}


def test_heads_over_labels_that_the_data_shifted():
    main = LossTerm(**BY_DATA)
    ahead = replace(AHEAD, shifted_by=ShiftedBy.DATA)
    pairing = pair_up((main, ahead), [[1, 2, 3, 4]], heads=2)
    assert grid(pairing) == [[1, 2, 3, 4]]
    assert grid(pairing, "mtp_logits") == [[[2, 3, 4, _], [3, 4, _, _]]]


@pytest.mark.parametrize(("empty", "value"), [(Empty.NAN, math.nan), (Empty.ZERO, 0.0), (Empty.UNDEFINED, None)])
def test_a_head_that_looks_past_the_end_is_an_empty_group(empty, value):
    pairing = pair_up(replace(AHEAD, combine=Combine.MEAN, empty=empty), [[0, 1, 2]], heads=4)
    assert grid(pairing, "mtp_logits") == [[[1, 2, _], [2, _, _], [_, _, _], [_, _, _]]]
    assert pairing.denominators == (2, 1, 0, 0)
    assert weights_by_book(pairing) == {0: 1 / 8, 1: 1 / 4}
    assert pairing.empty == pytest.approx(value, nan_ok=True)


def test_a_head_that_looks_past_the_end_costs_a_flat_mean_nothing():
    pairing = pair_up(AHEAD, [[0, 1, 2]], heads=4)
    assert weights(pairing) == [1 / 3] * 3
    assert pairing.empty == 0.0


def test_the_mask_moves_with_the_labels_of_each_head():
    term = replace(AHEAD, ignore_index=None, loss_mask=True, combine=Combine.MEAN)
    pairing = pair_up(term, [[0, 1, 2, 3, 4]], heads=2, loss_mask=[[1, 1, 0, 1, 0]])
    assert grid(pairing, "mtp_logits") == [[[1, _, 3, _, _], [_, 3, _, _, _]]]
    assert pairing.denominators == (2, 1)
    assert weights_by_book(pairing) == {0: 1 / 4, 1: 1 / 2}


def test_heads_do_not_look_into_the_next_document():
    term = replace(AHEAD, documents=Documents.SEGMENT_IDS)
    pairing = pair_up(term, [[0, 1, 2, 3, 4, 5]], heads=2, segment_ids=[[1, 1, 1, 2, 2, 0]])
    assert grid(pairing, "mtp_logits") == [[[1, 2, _, 4, _, _], [2, _, _, _, _, _]]]


def test_heads_over_packed_labels_that_the_data_shifted_do_not_look_into_the_next_document():
    term = replace(AHEAD, shifted_by=ShiftedBy.DATA, documents=Documents.SEGMENT_IDS)
    # The labels at 2 and 5 are the first token of the next document, or of the next batch.
    pairing = pair_up(term, [[1, 2, 3, 4, 5, 6]], heads=2, segment_ids=[[1, 1, 1, 2, 2, 2]])
    assert grid(pairing, "mtp_logits") == [[[2, _, _, 5, 6, _], [_, _, _, 6, _, _]]]


def test_the_label_of_a_row_that_is_past_its_columns_goes_on_with_the_last_document():
    term = replace(AHEAD, shifted_by=ShiftedBy.DATA, documents=Documents.SEGMENT_IDS)
    # The label at 3 is a token of document 2, which document 1 must not look into, not even two ahead.
    pairing = pair_up(term, [[1, 2, 3, 4]], heads=2, segment_ids=[[1, 1, 1, 2]])
    assert grid(pairing, "mtp_logits") == [[[2, _, _, _], [_, _, _, _]]]


def test_weights_of_tokens_and_of_codebooks_multiply():
    term = replace(BOOKS, token_weights=True, codebook_weights=(1.0, 3.0))
    pairing = pair_up(term, [[[0, 1], [2, 3]]], token_weights=[[1.0, 2.0]])
    assert [(pair.target, pair.weight) for pair in pairing.pairs] == [(0, 1 / 4), (2, 3 / 4), (1, 2 / 4), (3, 6 / 4)]


def test_logits_of_as_many_classes_as_the_term_says():
    assert pair_up(LossTerm(classes=12), EIGHT).pairs == pair_up(NEXT, EIGHT).pairs


def test_one_loss_a_position_of_the_first_codebook():
    term = LossTerm(heads=Heads.FIRST, reduction=Reduction.NONE, denominator=Denominator.ONE)
    assert pair_up(term, [[[0, 1, 2], [3, 4, 5]]]).output_shape == (1, 3)


def test_one_head_ahead_is_the_next_token():
    ahead, plain = pair_up(AHEAD, EIGHT, heads=1), pair_up(NEXT, EIGHT)
    assert [(pair.logit[:2], *pair[2:]) for pair in ahead.pairs] == [pair[1:] for pair in plain.pairs]


# Several streams


def test_two_streams_of_their_own_sizes():
    pairing = pair_up((NEXT, replace(AUDIO, weight=0.5, combine=Combine.SUM)), EIGHT, audio_labels=[[[0, 1], [4, 5]]])
    assert grid(pairing) == [[1, 2, 3, _], [5, 6, 7, _]]
    assert grid(pairing, "audio_logits") == [[[1, _], [5, _]]]
    assert pairing.denominators == (6, 1, 1)
    assert pairing.of("audio_logits") == [
        Pair(term=1, logit=(0, 0, 0), label=(0, 1, 0), target=1, weight=0.5),
        Pair(term=1, logit=(0, 0, 1), label=(0, 1, 1), target=5, weight=0.5),
    ]
    assert pairing.of("logits") == list(pairing.pairs[:6])


@pytest.mark.parametrize(("empty", "value"), [(Empty.NAN, math.nan), (Empty.ZERO, 0.0), (Empty.UNDEFINED, None)])
def test_a_batch_without_sound_leaves_the_text(empty, value):
    pairing = pair_up((NEXT, replace(AUDIO, empty=empty)), EIGHT[:1], audio_labels=SILENT)
    assert grid(pairing) == [[1, 2, 3, _]]
    assert pairing.denominators == (3, 0)
    assert pairing.empty == pytest.approx(value, nan_ok=True)


def test_the_items_that_the_caller_counted_divide_every_term_that_asks_for_them():
    items = {"denominator": Denominator.NUM_ITEMS_OR_VALID}
    terms = (LossTerm(**items), replace(AUDIO, combine=Combine.SUM, **items))
    assert pair_up(terms, EIGHT, audio_labels=CODES, num_items_in_batch=20).denominators == (20, 20, 20, 20)
    assert pair_up(terms, EIGHT, audio_labels=CODES).denominators == (6, 3, 3, 3)
    alone = (LossTerm(**items), AUDIO)
    assert pair_up(alone, EIGHT, audio_labels=CODES, num_items_in_batch=20).denominators == (20, 9)


def test_a_backbone_and_a_depth_decoder_share_their_labels():
    terms = (LossTerm(heads=Heads.FIRST), replace(DEPTH, weight=0.5))
    pairing = pair_up(terms, [[[0, 1, 2], [4, -100, 6], [8, -100, 10]]])
    assert grid(pairing) == [[1, 2, _]]
    assert grid(pairing, "depth_logits") == [[[4, _, 6], [8, _, 10]]]
    assert weights(pairing) == [1 / 2, 1 / 2, *[0.5 / 4] * 4]


# Logits and labels that do not fit


@pytest.mark.parametrize(
    ("term", "logits", "labels", "message"),
    [
        (NEXT, (2, 4, 8), (3, 4), "labels are int64 [3, 4]; expected [B, S] with B = 2"),
        (NEXT, (2, 4, 3, 8), (2, 4), "logits are float32 [2, 4, 3, 8]; expected [B, L, V], as heads=one says"),
        (NEXT, (2, 4, 8), (2, 4, 3), "labels are int64 [2, 4, 3]; expected [B, S], as heads=one says"),
        (BOOKS, (2, 4, 8), (2, 4, 3), "logits are float32 [2, 4, 8]; expected [B, L, K, V], as heads=codebooks says"),
        (BOOKS, (2, 4, 3, 8), (2, 4), "labels are int64 [2, 4]; expected [B, S, K], as heads=codebooks says"),
        (BOOKS, (2, 4, 3, 8), (2, 5, 3), "logits have 4 positions and labels 5, which extra=none does not allow"),
        (BOOKS, (2, 5, 3, 8), (2, 4, 3), "logits have 5 positions and labels 4, which extra=none does not allow"),
        (
            BOOKS,
            (2, 4, 3, 8),
            (2, 4, 4),
            "[2, 4, 3, 8] and labels int64 [2, 4, 4]: the codebooks do not agree (axis=time, shift=0, codebooks=None)",
        ),
        (
            replace(BOOKS, codebooks=4),
            (2, 4, 3, 8),
            (2, 4, 3),
            "the codebooks do not agree (axis=time, shift=0, codebooks=4)",
        ),
        (LossTerm(heads=Heads.FIRST), (2, 4, 8), (2, 4), "labels are int64 [2, 4]; expected [B, S, K], as heads=first"),
        (LossTerm(heads=Heads.FIRST, codebooks=4), (2, 4, 8), (2, 4, 3), "the codebooks do not agree"),
        (
            replace(DEPTH, logits="logits"),
            (2, 4, 3, 8),
            (2, 4, 3),
            "the codebooks do not agree (axis=codebook, shift=1, codebooks=None)",
        ),
        (
            replace(AHEAD, logits="logits"),
            (2, 4, 3, 8),
            (2, 4, 3),
            "labels are int64 [2, 4, 3]; expected [B, S], as heads=ahead says",
        ),
        (replace(AHEAD, logits="logits", codebooks=2), (2, 4, 3, 8), (2, 4), "the codebooks do not agree"),
        (LossTerm(classes=9), (2, 4, 8), (2, 4), "logits are float32 [2, 4, 8]; expected V = 9, as classes says"),
    ],
)
def test_logits_and_labels_that_do_not_fit_the_spec(term, logits, labels, message):
    batch = Batch(logits=torch.zeros(logits), labels=torch.zeros(labels, dtype=torch.long))
    with pytest.raises(BatchError, match=re.escape(message)):
        build_pairing(LossSpec("mine", (term,), "", ""), batch)


def test_streams_that_do_not_fit_are_named():
    batch = Batch(audio_logits=torch.zeros(1, 9, 3, 8), audio_labels=torch.zeros(2, 9, 3, dtype=torch.long))
    with pytest.raises(BatchError, match=re.escape("audio_labels are int64 [2, 9, 3]; expected [B, S] with B = 1")):
        build_pairing(LossSpec("mine", (AUDIO,), "", ""), batch)


@pytest.mark.parametrize("given", [True, (1.0, 2.0)], ids=["in the batch", "in the spec"])
@pytest.mark.parametrize("combine", [Combine.FLAT, Combine.SUM, Combine.WEIGHTED_MEAN])
def test_a_weight_for_every_codebook(given, combine):
    term = replace(BOOKS, combine=combine, codebook_weights=given)
    with pytest.raises(BatchError, match="2 codebook_weights for 3 codebooks; give one per codebook"):
        pair_up(term, CODES, codebook_weights=[1.0, 2.0])


def test_a_weight_for_every_class():
    term = LossTerm(score=Score(class_weights=True))
    message = "class_weights are float32 [3]; expected [V] with V = 12"
    with pytest.raises(BatchError, match=re.escape(message)):
        pair_up(term, EIGHT, class_weights=[1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("term", "labels", "message"),
    [
        (replace(BOOKS, ignores_bos=True), CODES, "this spec reads bos_token_id, but the batch has none; give it one"),
        (
            LossTerm(score=Score(class_weights=True)),
            EIGHT,
            "this spec reads class_weights, but the batch has none; give it one",
        ),
        (replace(BOOKS, stops_at_eos=True), CODES, "this spec reads input_ids, but the batch has none; give it one"),
        (
            replace(BOOKS, codebook_weights=True),
            CODES,
            "this spec reads codebook_weights, but the batch has none; give it one",
        ),
    ],
)
def test_a_missing_argument_of_codebooks_is_named(term, labels, message):
    with pytest.raises(BatchError, match=message):
        pair_up(term, labels)


def test_a_missing_eos_is_named():
    with pytest.raises(BatchError, match="this spec reads eos_token_id, but the batch has none; give it one"):
        pair_up(replace(BOOKS, stops_at_eos=True), CODES, input_ids=CODES)


@pytest.mark.parametrize("name", ["audio_logits", "audio_labels"])
def test_a_missing_stream_is_named(name):
    arrays = {
        "audio_logits": torch.zeros(1, 4, 3, 12),
        "audio_labels": torch.zeros(1, 4, 3, dtype=torch.long),
    }
    del arrays[name]
    with pytest.raises(BatchError, match=f"this spec reads {name}, but the batch has none; give it one"):
        build_pairing(LossSpec("mine", (AUDIO,), "", ""), Batch(**arrays))


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


@settings(deadline=None, max_examples=40)
@given(rows=labels_with_holes(), shift=st.integers(0, 2), books=st.integers(1, 4))
def test_every_code_that_counts_is_met_exactly_once_by_its_own_head(rows, shift, books):
    labels = torch.tensor(rows, dtype=torch.long).reshape(len(rows), -1)
    labels = torch.stack([labels.roll(book, 1) for book in range(books)], 2)  # another grid in every codebook
    term = LossTerm(heads=Heads.CODEBOOKS, shift=shift, shifted_by=ShiftedBy.LOSS if shift else ShiftedBy.DATA)
    pairing = build_pairing(LossSpec("mine", (term,), "", ""), Batch(torch.zeros(*labels.shape, 6), labels))
    expected = [
        ((row, at - shift, book), (row, at, book), label)
        for row, frames in enumerate(labels.tolist())
        for at, codes in enumerate(frames)
        for book, label in enumerate(codes)
        if at >= shift and label != -100
    ]
    assert [(pair.logit, pair.label, pair.target) for pair in pairing.pairs] == expected


@settings(deadline=None, max_examples=40)
@given(labels=labels_with_holes(), heads=st.integers(1, 4), shift=st.integers(0, 2))
def test_each_head_ahead_is_a_plain_loss_of_its_own_shift(labels, heads, shift):
    labels = torch.tensor(labels, dtype=torch.long).reshape(len(labels), -1).tolist()
    by_data = {"shifted_by": ShiftedBy.DATA}
    term = replace(AHEAD, shift=shift, combine=Combine.SUM, empty=Empty.ZERO, **by_data)
    found = pair_up(term, labels, heads=heads).pairs
    for head in range(heads):
        alone = pair_up(LossTerm(shift=shift + head, **by_data), labels).pairs
        assert [(pair.logit[:2], *pair[2:]) for pair in found if pair.logit[2] == head] == [pair[1:] for pair in alone]
