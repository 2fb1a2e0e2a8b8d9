"""From a recipe to tensors: known bytes, and every part says the same thing about the same tokens."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shiftproof.harness.cases import build_batch, build_case, ignored_places, label_ids, pack, token_weights
from shiftproof.harness.recipe import Count, Ids, Mask, Recipe, Regime, ShiftLabels, Stride
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES

MIXED = (Mask.NONE, Mask.PROMPT, Mask.HOLES, Mask.PADDING)


def fingerprint(*tensors: Tensor | None) -> str:
    raw = b"|".join(b"" if t is None else t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors)
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


KNOWN: list[tuple[str, Recipe, str, str]] = [
    # profile, recipe, bytes of the logits, bytes of the labels and shift_labels
    ("torchtune", Recipe(2, 5, 11), "9512a913a0817a04", "940e523fac631d5c"),
    (
        "hf.causal_lm",
        Recipe(3, 7, 3, masks=MIXED, ids=Ids.SEEDED, shift_labels=ShiftLabels.SHARDED, count=Count.GLOBAL, seed=1),
        "d250f615d5878213",
        "9f05a5d297576459",
    ),
    (
        "hf.prefix_lm",
        Recipe(2, 4, 17, extra=3, ids=Ids.EDGES, regime=Regime.SHARP, seed=2),
        "9cf70c16d73a614d",
        "611f483ac71e05c5",
    ),
    (
        "packed.segment_ids",
        Recipe(4, 9, 101, masks=MIXED, documents=3, regime=Regime.TIES, dtype="bfloat16", seed=3),
        "d6bbbe5e952cdf35",
        "c40388458e408f10",
    ),
    (
        "nanogpt",
        Recipe(5, 8, 2, masks=MIXED, digit=2, label_dtype="int32", regime=Regime.MINUS_INF, seed=999),
        "6f47a904de1da659",
        "f6bdec4b4a750119",
    ),
    (
        "hf.seq2seq",
        Recipe(3, 5, 11, masks=(Mask.NONE, Mask.HOLES), stride=Stride.EXPANDED, dtype="bfloat16", seed=6),
        "2a78e0d77ba6a486",
        "9dd65c00e3e9cd81",
    ),
    ("megatron", Recipe(2, 3, 70001, ids=Ids.SEEDED, dtype="float16", seed=4), "b46a2b41f6d127d8", "82bc11acd9dd1ca5"),
]


@pytest.mark.parametrize(("profile", "recipe", "logits", "labels"), KNOWN)
def test_a_case_is_the_same_bytes_everywhere(profile: str, recipe: Recipe, logits: str, labels: str) -> None:
    """A change here changes what every stored case means: it must be on purpose."""
    for _ in range(2):
        batch = build_case(PROFILES[profile], recipe).batch
        assert (fingerprint(batch.logits), fingerprint(batch.labels, batch.shift_labels)) == (logits, labels)
        build_case.cache_clear()


@pytest.mark.parametrize(
    ("mask", "ignored", "padding"),
    [
        (Mask.NONE, "·······", "·······"),
        (Mask.FIRST, "x······", "·······"),
        (Mask.PROMPT, "xxxx···", "·······"),
        (Mask.PADDING, "·····xx", "·····xx"),
        (Mask.LEFT, "xx·····", "xx·····"),
        (Mask.HOLES, "·x··x··", "·······"),
        (Mask.LAST_ONLY, "xxxxxx·", "·······"),
        (Mask.ALL, "xxxxxxx", "·······"),
    ],
)
def test_each_mask_ignores_what_it_says(mask: Mask, ignored: str, padding: str) -> None:
    recipe = Recipe(length=7, masks=(mask,))
    assert "".join("·x"[x] for x in ignored_places(recipe, padding_only=False)[0].tolist()) == ignored
    assert "".join("·x"[x] for x in ignored_places(recipe, padding_only=True)[0].tolist()) == padding


def test_rows_take_the_masks_in_turn() -> None:
    recipe = Recipe(rows=5, length=6, masks=(Mask.FIRST, Mask.ALL))
    counts = ignored_places(recipe, padding_only=False).sum(1).tolist()
    assert counts == [1, 6, 1, 6, 1]


def test_counting_ids_name_the_place() -> None:
    assert label_ids(Recipe(rows=2, length=3, classes=6)).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(("rows", "length", "classes", "digits"), [(2, 9, 3, 3), (5, 17, 2, 7), (1, 5, 5, 1)])
def test_counting_digits_decode_to_the_place(rows: int, length: int, classes: int, digits: int) -> None:
    places = torch.zeros(rows, length, dtype=torch.long)
    for digit in range(digits):
        ids = label_ids(Recipe(rows, length, classes, digit=digit))
        assert int(ids.min()) >= 0
        assert int(ids.max()) < classes
        places += ids * classes**digit
    assert places.flatten().tolist() == list(range(rows * length))


@pytest.mark.parametrize("classes", [2, 7, 101, 70001])
def test_edges_hold_the_first_and_the_last_class(classes: int) -> None:
    ids = label_ids(Recipe(rows=2, length=5, classes=classes, ids=Ids.EDGES, seed=1)).flatten()
    assert ids[0::2].tolist() == [classes - 1, 0, classes - 1, 0, classes - 1]
    assert int(ids.min()) >= 0
    assert int(ids.max()) < classes


def test_seeded_ids_reach_past_16_bits() -> None:
    ids = label_ids(Recipe(rows=10, length=100, classes=100_000, ids=Ids.SEEDED))
    assert int(ids.max()) > 90_000
    assert len(set(ids.flatten().tolist())) > 950


def test_documents_are_unequal_and_odd_rows_are_packed_the_other_way_round() -> None:
    segments, positions, ends = pack(Recipe(rows=2, length=6, documents=2))
    assert segments.tolist() == [[1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 2, 2]]
    assert positions.tolist() == [[0, 1, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1]]
    assert ends.tolist() == [0, 2, 6, 10, 12]
    assert ends.dtype == torch.int32


@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("length", [0, 1, 2, 5, 8, 17])
@pytest.mark.parametrize("documents", [1, 2, 3])
def test_three_ways_to_mark_documents_agree(rows: int, length: int, documents: int) -> None:
    segments, positions, ends = pack(Recipe(rows=rows, length=length, documents=documents))
    starts = positions == 0
    assert torch.equal(starts.cumsum(1), segments)
    assert torch.equal(segments[:, :1], torch.ones_like(segments[:, :1]))
    flat = {int(end) for end in ends[:-1]} if length and rows else set()
    assert flat == set(starts.flatten().nonzero().flatten().tolist())
    assert int(ends[-1]) == rows * length
    if rows and length:
        assert set(segments.amax(1).tolist()) == {min(documents, length)}


@pytest.mark.parametrize("documents", [1, 2, 3])
def test_the_right_pairs_are_the_same_however_documents_are_marked(documents: int) -> None:
    recipe = Recipe(rows=3, length=9, classes=29, documents=documents, masks=(Mask.NONE, Mask.HOLES, Mask.PADDING))
    by = {
        name: build_case(PROFILES[name], recipe).pairing.pairs
        for name in ("packed.position_ids", "packed.cu_seqlens", "packed.segment_ids")
    }
    assert by["packed.position_ids"] == by["packed.cu_seqlens"] == by["packed.segment_ids"]
    unpacked = build_case(PROFILES["torchtune"], recipe).pairing.pairs
    assert (len(by["packed.position_ids"]) < len(unpacked)) == (documents > 1)


def test_boundaries_ignored_are_the_first_label_of_each_document() -> None:
    recipe = Recipe(rows=2, length=6, classes=20, documents=2, boundaries_ignored=True)
    labels = build_batch(PROFILES["torchtune"], recipe).labels
    assert labels.tolist() == [[-100, 1, -100, 3, 4, 5], [-100, 7, 8, 9, -100, 11]]


def test_boundaries_ignored_leave_no_pair_across_documents_in_preshifted_labels() -> None:
    # Documents of 2 and 4 tokens: label 1 is the first token of the second document, label 5 of whatever comes next.
    recipe = Recipe(rows=1, length=6, classes=20, documents=2, boundaries_ignored=True)
    assert build_batch(PROFILES["preshifted"], recipe).labels.tolist()[0][:5] == [0, -100, 2, 3, 4]


def test_one_document_has_no_boundaries_to_ignore() -> None:
    labels = build_batch(PROFILES["torchtune"], Recipe(length=4, classes=9, boundaries_ignored=True)).labels
    assert labels.tolist() == [[0, 1, 2, 3]]


SHIFTED = Recipe(rows=2, length=5, classes=11, masks=(Mask.NONE, Mask.PROMPT))


@pytest.mark.parametrize(
    ("how", "shift_labels"),
    [
        (ShiftLabels.PADDED, [[0, 1, 2, 3, -100], [-100, -100, 7, 8, -100]]),
        (ShiftLabels.SHARDED, [[0, 1, 2, 3, 4], [-100, -100, 7, 8, 9]]),
    ],
)
def test_shift_labels_are_the_labels_one_place_earlier(how: ShiftLabels, shift_labels: list[list[int]]) -> None:
    batch = build_batch(PROFILES["hf.causal_lm"], replace(SHIFTED, shift_labels=how))
    assert batch.labels.tolist() == [[4, 0, 1, 2, 3], [-100, -100, -100, 7, 8]]
    assert batch.shift_labels is not None
    assert batch.shift_labels.tolist() == shift_labels


@pytest.mark.parametrize("mask", Mask)
@pytest.mark.parametrize("how", [ShiftLabels.PADDED, ShiftLabels.SHARDED])
def test_shift_labels_agree_with_labels_under_every_mask(how: ShiftLabels, mask: Mask) -> None:
    recipe = Recipe(rows=2, length=6, classes=13, masks=(mask,), shift_labels=how)
    batch = build_batch(PROFILES["hf.causal_lm"], recipe)
    assert batch.shift_labels is not None
    assert torch.equal(batch.shift_labels[:, :-1], batch.labels[:, 1:])


def test_padded_shift_labels_leave_the_pairs_as_they_are() -> None:
    spec = PROFILES["hf.causal_lm"]
    recipe = Recipe(rows=3, length=7, classes=23, masks=(Mask.NONE, Mask.HOLES, Mask.LEFT))
    given = build_batch(spec, replace(recipe, shift_labels=ShiftLabels.PADDED))
    by_itself = build_pairing(spec, replace(given, shift_labels=None)).pairs
    handed_over = build_pairing(spec, given).pairs
    assert [(p.logit, p.target) for p in handed_over] == [(p.logit, p.target) for p in by_itself]


@pytest.mark.parametrize(("count", "given"), [(Count.ABSENT, None), (Count.VALID, 6), (Count.GLOBAL, 15)])
def test_num_items_count_what_is_trained(count: Count, given: int | None) -> None:
    # Row 0 trains its labels 1 to 4, row 1 its labels 3 and 4.
    assert build_batch(PROFILES["hf.causal_lm"], replace(SHIFTED, count=count)).num_items_in_batch == given


def test_num_items_count_the_shift_labels_where_they_are_given() -> None:
    recipe = replace(SHIFTED, count=Count.VALID, shift_labels=ShiftLabels.SHARDED)
    assert build_batch(PROFILES["hf.causal_lm"], recipe).num_items_in_batch == 8


def test_a_loss_with_a_mask_keeps_the_prompts_ids_and_loses_only_padding() -> None:
    batch = build_batch(PROFILES["masked"], Recipe(rows=2, length=6, classes=13, masks=(Mask.PROMPT, Mask.PADDING)))
    assert batch.labels.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, -100, -100]]
    assert batch.loss_mask is not None
    assert batch.loss_mask.int().tolist() == [[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize("profile", ["megatron", "eagle3"])
def test_a_loss_without_an_ignored_id_sees_ids_only(profile: str) -> None:
    batch = build_batch(PROFILES[profile], Recipe(rows=4, length=6, classes=31, masks=MIXED))
    assert batch.labels.flatten().tolist() == list(range(24))


def test_the_ignored_id_is_the_specs_own() -> None:
    labels = build_batch(PROFILES["nanogpt"], Recipe(length=6, classes=13, masks=(Mask.PROMPT,))).labels
    assert labels.tolist() == [[-1, -1, -1, 3, 4, 5]]


def test_input_ids_are_the_tokens_before_any_label_was_ignored() -> None:
    batch = build_batch(PROFILES["torchtune"], Recipe(rows=2, length=6, classes=13, masks=(Mask.PROMPT, Mask.PADDING)))
    assert batch.input_ids is not None
    assert batch.attention_mask is not None
    assert batch.segment_ids is not None
    assert batch.input_ids.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 1, 1]]
    assert batch.pad_token_id == 1
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]


def test_labels_that_the_data_shifted_are_the_inputs_of_the_next_place() -> None:
    batch = build_batch(PROFILES["nanogpt"], Recipe(rows=2, length=4, classes=13))
    assert batch.input_ids is not None
    assert torch.equal(batch.input_ids[:, 1:], batch.labels[:, :-1])


def test_token_weights_are_eighths_of_2_and_seldom_alike() -> None:
    weights = token_weights(Recipe(rows=4, length=50))
    assert set(weights.flatten().tolist()) == {0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}
    assert int((weights[:, 1:] == weights[:, :-1]).sum()) < 50


def test_extra_logits_have_no_labels() -> None:
    batch = build_case(PROFILES["hf.prefix_lm"], Recipe(rows=2, length=3, classes=5, extra=2)).batch
    assert batch.logits.shape == (2, 5, 5)
    assert batch.labels.shape == (2, 3)


def test_the_label_dtype_is_the_recipes() -> None:
    recipe = Recipe(length=4, classes=7, label_dtype="int32", shift_labels=ShiftLabels.PADDED)
    batch = build_batch(PROFILES["hf.causal_lm"], recipe)
    assert batch.shift_labels is not None
    assert (batch.labels.dtype, batch.shift_labels.dtype) == (torch.int32, torch.int32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_oracle_sees_the_logits_after_rounding(dtype: str) -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 5, 11, regime=Regime.HUGE, dtype=dtype, seed=1))
    assert case.batch.logits.dtype == getattr(torch, dtype)
    again = evaluate(case.pairing, case.batch.logits.double())
    assert case.oracle.value == again.value
    assert torch.equal(case.oracle.gradient, again.gradient)
    exact = build_case(PROFILES["torchtune"], replace(case.recipe, dtype="float64"))
    assert torch.equal(case.batch.logits, exact.batch.logits.to(case.batch.logits.dtype))
    assert case.oracle.value != exact.oracle.value


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("rows", "length"), [(0, 3), (2, 0), (1, 1)])
def test_empty_and_tiny_batches_can_be_built(profile: str, rows: int, length: int) -> None:
    recipe = Recipe(rows, length, 5, documents=2, boundaries_ignored=True, count=Count.VALID)
    case = build_case(PROFILES[profile], recipe)
    assert case.oracle.gradient.shape == (rows, length, 5)
