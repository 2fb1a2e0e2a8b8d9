"""From a recipe to tensors: known bytes, and every part says the same thing about the same tokens."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import Tensor

from shiftproof.harness.candidates.arguments import ARGUMENTS, lay_out
from shiftproof.harness.cases.build import (
    build_batch,
    build_case,
    classes_of,
    delays_of,
    forget_cases,
    ignored_places,
    label_ids,
    labels_shape,
    logits_shape,
    pack,
    token_weights,
)
from shiftproof.harness.cases.recipe import (
    AudioClasses,
    AudioLength,
    Count,
    Delay,
    Hollow,
    Ids,
    Mask,
    Recipe,
    Regime,
    ShiftLabels,
    Streams,
    Stride,
    Weights,
)
from shiftproof.harness.cases.space import hand_made, random_recipes, space
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LABELS, LOGITS, Extra, Heads

TEXT = PROFILES["torchtune"]
MIXED = (Mask.NONE, Mask.PROMPT, Mask.HOLES, Mask.PADDING)


def fingerprint(*tensors: Tensor | None) -> str:
    raw = b"|".join(b"" if t is None else t.contiguous().view(torch.uint8).numpy().tobytes() for t in tensors)
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


KNOWN: list[tuple[str, Recipe, str, str]] = [
    # profile, recipe, bytes of the logits, bytes of the labels and shift_labels
    ("torchtune", Recipe(2, 5, 11), "b459e0e3ebddaf41", "940e523fac631d5c"),
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
        "842e4b4023d92f9c",
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
        forget_cases()


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
    assert label_ids(TEXT, "labels", Recipe(rows=2, length=3, classes=6)).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(("rows", "length", "classes", "digits"), [(2, 9, 3, 3), (5, 17, 2, 7), (1, 5, 5, 1)])
def test_counting_digits_decode_to_the_place(rows: int, length: int, classes: int, digits: int) -> None:
    places = torch.zeros(rows, length, dtype=torch.long)
    for digit in range(digits):
        ids = label_ids(TEXT, "labels", Recipe(rows, length, classes, digit=digit))
        assert int(ids.min()) >= 0
        assert int(ids.max()) < classes
        places += ids * classes**digit
    assert places.flatten().tolist() == list(range(rows * length))


@pytest.mark.parametrize("classes", [2, 7, 101, 70001])
def test_edges_hold_the_first_and_the_last_class(classes: int) -> None:
    ids = label_ids(TEXT, "labels", Recipe(rows=2, length=5, classes=classes, ids=Ids.EDGES, seed=1)).flatten()
    assert ids[0::2].tolist() == [classes - 1, 0, classes - 1, 0, classes - 1]
    assert int(ids.min()) >= 0
    assert int(ids.max()) < classes


def test_seeded_ids_reach_past_16_bits() -> None:
    ids = label_ids(TEXT, "labels", Recipe(rows=10, length=100, classes=100_000, ids=Ids.SEEDED))
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
    again = evaluate(case.pairing, replace(case.batch, logits=case.batch.tensor("logits").double()))
    assert case.oracle.value == again.value
    assert torch.equal(case.oracle.gradients["logits"], again.gradients["logits"])
    exact = build_case(PROFILES["torchtune"], replace(case.recipe, dtype="float64"))
    assert torch.equal(case.batch.logits, exact.batch.logits.to(case.batch.logits.dtype))
    assert case.oracle.value != exact.oracle.value


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("rows", "length"), [(0, 3), (2, 0), (1, 1)])
@pytest.mark.parametrize("codebooks", [2, 5])
def test_empty_and_tiny_batches_can_be_built(profile: str, rows: int, length: int, codebooks: int) -> None:
    spec = PROFILES[profile]
    extra = int(any(term.extra is Extra.SUFFIX for term in spec.terms))
    recipe = Recipe(
        rows, length, 5, codebooks=codebooks, documents=2, boundaries_ignored=True, extra=extra, count=Count.VALID
    )
    case = build_case(spec, recipe)
    assert {name: tuple(of.shape) for name, of in case.oracle.gradients.items()} == {
        name: logits_shape(spec, name, recipe) for name in spec.logits
    }


# --- Codebooks, heads and streams -------------------------------------------------------------------------------------

BOOKS = [name for name, spec in PROFILES.items() if any(term.heads is not Heads.ONE for term in spec.terms)]
SHAPES = {
    # B = 2, S = 5, K = 3, V = 11, and 13 in a second stream
    "medusa": {"mtp_logits": (2, 5, 3, 11), "labels": (2, 5)},
    "megatron.mtp": {"mtp_logits": (2, 5, 3, 11), "labels": (2, 5)},
    "megatron.mtp.packed": {"mtp_logits": (2, 5, 3, 11), "labels": (2, 5)},
    "maxtext.mtp": {"mtp_logits": (2, 5, 3, 11), "labels": (2, 5)},
    "torchtitan.mtp": {"logits": (2, 5, 11), "mtp_logits": (2, 5, 3, 11), "labels": (2, 5)},
    "higgs.hf": {"logits": (2, 5, 11), "labels": (2, 5), "audio_logits": (2, 5, 3, 13), "audio_labels": (2, 5, 3)},
    "higgs.boson": {"logits": (2, 5, 11), "labels": (2, 5), "audio_logits": (1, 10, 3, 13), "audio_labels": (1, 10, 3)},
    "higgs.mean_nonempty": {
        "logits": (2, 5, 11),
        "labels": (2, 5),
        "audio_logits": (1, 10, 3, 13),
        "audio_labels": (1, 10, 3),
    },
    "csm": {"logits": (2, 5, 11), "depth_logits": (2, 5, 2, 11), "labels": (2, 5, 3)},
    "qwen3_tts": {"logits": (2, 5, 11), "depth_logits": (2, 5, 2, 11), "labels": (2, 5, 3)},
    "moshi": {"logits": (2, 5, 11), "labels": (2, 5), "audio_logits": (2, 5, 3, 13), "audio_labels": (2, 5, 3)},
    "moshi.finetune": {
        "logits": (2, 5, 11),
        "labels": (2, 5),
        "audio_logits": (2, 5, 3, 13),
        "audio_labels": (2, 5, 3),
    },
    "musicgen": {"logits": (2, 7, 3, 11), "labels": (2, 5, 3)},
    "parler": {"logits": (2, 5, 3, 11), "labels": (2, 5, 3)},
    "dia": {"logits": (2, 5, 3, 11), "labels": (2, 5, 3)},
    "moss_ttsd": {"logits": (2, 5, 3, 11), "labels": (2, 5, 3)},
}
SEVERAL = Recipe(rows=2, length=5, classes=11, codebooks=3)


def test_every_profile_of_several_heads_is_in_the_table() -> None:
    assert set(SHAPES) == set(BOOKS)


@pytest.mark.parametrize("profile", BOOKS)
def test_shapes_of_codebooks_heads_and_streams(profile: str) -> None:
    recipe = replace(SEVERAL, extra=2 if profile == "musicgen" else 0, count=Count.VALID)
    batch = build_case(PROFILES[profile], recipe).batch
    for name, shape in SHAPES[profile].items():
        assert tuple(batch.tensor(name).shape) == shape, name
    given = {name for name in (*LOGITS, *LABELS) if getattr(batch, name) is not None}
    assert given == set(SHAPES[profile])
    assert batch.tensor("input_ids").shape == batch.tensor("labels").shape
    assert batch.tensor("loss_mask").shape == (2, 5)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_builds_for_a_spread_of_recipes(profile: str) -> None:
    spec = PROFILES[profile]
    choices = space(spec, frozenset(ARGUMENTS))
    for recipe in [*hand_made(choices), *islice(random_recipes(choices, 5), 40)]:
        batch = build_batch(spec, recipe)
        pairing = build_pairing(spec, batch)
        for term in spec.terms:
            assert tuple(batch.tensor(term.logits).shape) == logits_shape(spec, term.logits, recipe)
            assert tuple(batch.tensor(term.labels).shape) == labels_shape(spec, term.labels, recipe)
        for pair in pairing.pairs:
            shape = pairing.shapes[spec.terms[pair.term].logits]
            assert all(0 <= at < extent for at, extent in zip((*pair.logit, pair.target), shape, strict=True))


KNOWN_STREAMS = [
    # profile, recipe, bytes of all logits, bytes of all labels
    (
        "higgs.boson",
        replace(SEVERAL, masks=MIXED, delay=Delay.STEP, hollow=Hollow.LAST, seed=1),
        "7e29a322e19771b2",
        "baa55405005470a2",
    ),
    (
        "csm",
        replace(SEVERAL, ids=Ids.SEEDED, streams=Streams.SECOND, dtype="bfloat16", seed=2),
        "b6cf0e7e32975314",
        "bf4e561af8b38abe",
    ),
    (
        "musicgen",
        replace(SEVERAL, ids=Ids.EDGES, masks=MIXED, extra=2, regime=Regime.SHARP, seed=3),
        "c951e5d637e2b77e",
        "08c4bb641b23c3e8",
    ),
    (
        "moshi",
        replace(SEVERAL, masks=MIXED, hollow=Hollow.ALTERNATE, delay=Delay.AFTER_FIRST, regime=Regime.MINUS_INF),
        "4f699cc1f4fc2d4b",
        "bc6d1479790d2c6d",
    ),
    (
        "torchtitan.mtp",
        replace(SEVERAL, masks=MIXED, count=Count.GLOBAL, regime=Regime.TIES),
        "f0e16fa9ad76d339",
        "37c327421da19ded",
    ),
]


@pytest.mark.parametrize(("profile", "recipe", "logits", "labels"), KNOWN_STREAMS)
def test_a_case_of_several_streams_is_the_same_bytes_everywhere(
    profile: str, recipe: Recipe, logits: str, labels: str
) -> None:
    """A change here changes what every stored case means: it must be on purpose."""
    spec = PROFILES[profile]
    batch = build_case(spec, recipe).batch
    found = [fingerprint(*(batch.tensor(name) for name in names)) for names in (spec.logits, spec.labels)]
    assert found == [logits, labels]


def test_the_streams_of_one_recipe_have_logits_of_their_own() -> None:
    batch = build_case(PROFILES["torchtitan.mtp"], replace(SEVERAL, count=Count.VALID)).batch
    assert not torch.equal(batch.tensor("logits"), batch.tensor("mtp_logits")[:, :, 0])


def test_vocabularies_differ_between_streams() -> None:
    batch = build_batch(PROFILES["higgs.hf"], replace(SEVERAL, rows=5, ids=Ids.EDGES))
    assert int(batch.tensor("labels").max()) == 10
    assert int(batch.tensor("audio_labels").max()) == 12
    assert classes_of(PROFILES["higgs.hf"], "labels", SEVERAL) == 11
    assert classes_of(PROFILES["higgs.hf"], "audio_labels", SEVERAL) == 13
    fixed = replace(PROFILES["higgs.hf"].terms[1], classes=1026)
    spec = replace(PROFILES["higgs.hf"], terms=(PROFILES["higgs.hf"].terms[0], fixed))
    assert logits_shape(spec, "audio_logits", SEVERAL) == (2, 5, 3, 1026)


def test_ids_are_drawn_for_each_stream_by_itself() -> None:
    spec = PROFILES["higgs.hf"]
    text, audio = (label_ids(spec, name, replace(SEVERAL, ids=Ids.SEEDED)) for name in ("labels", "audio_labels"))
    assert text.flatten().tolist() != audio.flatten()[:10].tolist()


def test_counting_ids_name_the_codebook_too() -> None:
    ids = label_ids(PROFILES["dia"], "labels", Recipe(rows=2, length=2, classes=20, codebooks=3))
    assert ids.tolist() == [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]


def test_each_codebook_takes_the_masks_from_another_one_on() -> None:
    recipe = Recipe(rows=1, length=4, classes=20, codebooks=3, masks=(Mask.NONE, Mask.FIRST, Mask.ALL))
    labels = build_batch(PROFILES["dia"], recipe).tensor("labels")[0]
    assert labels.T.tolist() == [[0, 3, 6, 9], [-100, 4, 7, 10], [-100] * 4]
    # A second stream starts one mask later, so that text and audio count unequally many labels.
    audio = build_batch(PROFILES["higgs.hf"], recipe).tensor("audio_labels")[0]
    assert (audio != -100).sum(0).tolist() == [3, 0, 4]


@pytest.mark.parametrize(
    ("delay", "ignored"),
    [
        (Delay.NONE, ["·····", "·····", "·····"]),
        (Delay.STEP, ["···xx", "x···x", "xx···"]),
        (Delay.AFTER_FIRST, ["····x", "x····", "x····"]),
    ],
)
def test_delays_leave_fill_before_late_codebooks_and_after_early_ones(delay: Delay, ignored: list[str]) -> None:
    labels = build_batch(PROFILES["dia"], Recipe(length=5, classes=20, codebooks=3, delay=delay)).tensor("labels")[0]
    assert ["".join("x" if y == -100 else "·" for y in book) for book in labels.T.tolist()] == ignored


def test_delays_are_those_of_the_real_patterns() -> None:
    delays = {delay: delays_of(Recipe(codebooks=4, delay=delay)) for delay in Delay}
    assert delays == {Delay.NONE: [0] * 4, Delay.STEP: [0, 1, 2, 3], Delay.AFTER_FIRST: [0, 1, 1, 1]}


@pytest.mark.parametrize("delay", Delay)
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("codebooks", [1, 2, 3, 8])
def test_delays_leave_every_codebook_a_label(delay: Delay, length: int, codebooks: int) -> None:
    recipe = Recipe(length=length, classes=100, codebooks=codebooks, delay=delay)
    labels = build_batch(PROFILES["dia"], recipe).tensor("labels")
    assert bool((labels != -100).any(1).all())


@pytest.mark.parametrize(
    ("hollow", "empty"),
    [
        (Hollow.NONE, []),
        (Hollow.FIRST, [0]),
        (Hollow.LAST, [3]),
        (Hollow.ALTERNATE, [1, 3]),
    ],
)
@pytest.mark.parametrize(("profile", "name"), [("dia", "labels"), ("higgs.boson", "audio_labels")])
def test_hollow_codebooks_train_nothing(profile: str, name: str, hollow: Hollow, empty: list[int]) -> None:
    batch = build_batch(PROFILES[profile], replace(SEVERAL, codebooks=4, hollow=hollow))
    counts = (batch.tensor(name) != -100).sum((0, 1)).tolist()
    assert [book for book, count in enumerate(counts) if not count] == empty
    assert name == "labels" or int((batch.tensor("labels") != -100).sum()) == 10, "the text keeps its labels"


@pytest.mark.parametrize("profile", ["higgs.hf", "higgs.boson", "csm", "qwen3_tts", "moshi", "moshi.finetune"])
@pytest.mark.parametrize(
    ("streams", "terms"),
    [(Streams.BOTH, {0, 1}), (Streams.FIRST, {0}), (Streams.SECOND, {1}), (Streams.NEITHER, set())],
)
def test_a_stream_that_is_absent_trains_nothing(profile: str, streams: Streams, terms: set[int]) -> None:
    pairing = build_case(PROFILES[profile], replace(SEVERAL, streams=streams)).pairing
    assert {pair.term for pair in pairing.pairs} == terms


@pytest.mark.parametrize("profile", ["torchtune", "dia", "medusa"])
def test_one_stream_alone_is_never_left_out(profile: str) -> None:
    right = build_case(PROFILES[profile], SEVERAL).pairing.pairs
    for streams in (Streams.FIRST, Streams.SECOND):
        changed = build_case(PROFILES[profile], replace(SEVERAL, streams=streams)).pairing.pairs
        assert bool(changed)
        assert profile == "dia" or changed == right


@pytest.mark.parametrize("profile", ["higgs.boson", "higgs.mean_nonempty"])
def test_concatenated_segments_begin_with_an_ignored_label(profile: str) -> None:
    spec = PROFILES[profile]
    recipe = Recipe(rows=3, length=4, classes=60, codebooks=2)
    case = build_case(spec, recipe)
    labels = case.batch.tensor("audio_labels")[0]  # [N, K]
    first = [t for t in range(12) if bool((labels[t] == -100).all())]
    assert first == [0, 4, 8]
    assert int((labels == -100).sum()) == 3 * 2
    audio = [pair for pair in case.pairing.pairs if pair.term == 1]
    assert len(audio) == 3 * 3 * 2
    assert all(pair.label == (0, pair.logit[1] + 1, pair.logit[2]) for pair in audio)
    assert all(pair.logit[1] // 4 == pair.label[1] // 4 for pair in audio), "no pair leaves its segment"
    # As a candidate is given them: [N, K, V] and [K, N].
    assert lay_out(spec, "audio_logits", case.batch.tensor("audio_logits")).shape == (12, 2, 62)
    assert torch.equal(lay_out(spec, "audio_labels", case.batch.tensor("audio_labels")), labels.T)


def test_rows_that_are_flattened_and_not_shifted_stay_rows() -> None:
    batch = build_batch(PROFILES["moshi"], SEVERAL)
    assert batch.tensor("audio_labels").shape == (2, 5, 3)
    assert int((batch.tensor("audio_labels") == -100).sum()) == 0


@pytest.mark.parametrize(("profile", "name", "sentinel"), [("musicgen", "labels", 11), ("moshi", "audio_labels", 13)])
def test_both_markers_are_used_where_there_are_two(profile: str, name: str, sentinel: int) -> None:
    recipe = replace(SEVERAL, rows=3, masks=(Mask.PADDING, Mask.PROMPT), delay=Delay.STEP)
    case = build_case(PROFILES[profile], recipe)
    labels = case.batch.tensor(name)
    marks = {mark: int((labels == mark).sum()) for mark in (-100, sentinel)}
    assert min(marks.values()) >= 5
    books = [pair for pair in case.pairing.pairs if len(pair.label) == 3]
    assert len(books) == labels.numel() - sum(marks.values())
    assert all(0 <= pair.target < sentinel for pair in books)
    if name == "audio_labels":
        assert sentinel not in case.batch.tensor("labels").tolist()[0], "the text has no such marker"


def test_the_other_profiles_have_one_marker() -> None:
    for profile in ("dia", "parler", "moss_ttsd", "higgs.hf"):
        batch = build_batch(PROFILES[profile], replace(SEVERAL, masks=MIXED, delay=Delay.STEP))
        for name in PROFILES[profile].labels:
            labels = batch.tensor(name)
            assert int(labels.max()) < 13
            assert set(labels[labels < 0].tolist()) == {-100}


@pytest.mark.parametrize(
    ("profile", "streams", "valid"),
    [
        ("higgs.hf", Streams.BOTH, 8),  # the text, shifted: 2 rows of 4
        ("higgs.hf", Streams.FIRST, 8),
        ("higgs.hf", Streams.SECOND, 24),  # no text, so the audio: 3 codebooks
        ("higgs.hf", Streams.NEITHER, 0),
        ("csm", Streams.BOTH, 8),
        ("csm", Streams.SECOND, 20),  # 10 frames, 2 heads
        ("dia", Streams.BOTH, 30),
        ("torchtitan.mtp", Streams.BOTH, 10),  # the main labels, none of those ahead
    ],
)
def test_num_items_count_the_first_stream_that_trains_anything(profile: str, streams: Streams, valid: int) -> None:
    for count, given in ((Count.VALID, valid), (Count.GLOBAL, 2 * valid + 3)):
        batch = build_batch(PROFILES[profile], replace(SEVERAL, streams=streams, count=count))
        assert batch.num_items_in_batch == given


def test_weights_are_given_where_the_spec_reads_them() -> None:
    quarters = {0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0}
    for profile in ("parler", "moss_ttsd", "moshi.finetune"):
        weights = build_batch(PROFILES[profile], SEVERAL).tensor("codebook_weights")
        assert (weights.shape, weights.dtype) == ((3,), torch.float32)
        assert set(weights.tolist()) <= quarters
    classes = build_batch(PROFILES["liger.weight"], SEVERAL).tensor("class_weights")
    assert (classes.shape, classes.dtype) == ((11,), torch.float32)
    assert set(classes.tolist()) <= quarters
    plain_batch = build_batch(PROFILES["higgs.hf"], SEVERAL)
    assert (plain_batch.codebook_weights, plain_batch.class_weights) == (None, None)


def test_padding_is_padding_in_every_codebook() -> None:
    batch = build_batch(PROFILES["parler"], replace(SEVERAL, length=6, masks=(Mask.PADDING,)))
    inputs, mask = batch.tensor("input_ids"), batch.tensor("attention_mask")
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0]] * 2
    assert set(inputs[mask == 0].flatten().tolist()) == {batch.pad_token_id}


def test_parler_stops_where_the_input_has_ended() -> None:
    case = build_case(PROFILES["parler"], replace(SEVERAL, rows=4, length=8, classes=5, ids=Ids.SEEDED))
    inputs, labels = case.batch.tensor("input_ids"), case.batch.tensor("labels")
    eos, bos = case.batch.eos_token_id, case.batch.bos_token_id
    scored = {pair.label for pair in case.pairing.pairs}
    counts = (inputs != eos) & (labels != bos)
    assert scored == {tuple(place) for place in counts.nonzero().tolist()}
    assert int((inputs == eos).sum()) > 5
    assert int((labels == bos).sum()) > 5


@pytest.mark.parametrize(("length", "frames"), [("same", 4), ("longer", 7), ("shorter", 3)])
@pytest.mark.parametrize(("classes", "of_audio"), [("more", 13), ("fewer", 6)])
def test_the_second_stream_has_sizes_of_its_own(length: str, frames: int, classes: str, of_audio: int) -> None:
    sizes = {"audio_length": AudioLength(length), "audio_classes": AudioClasses(classes)}
    recipe = Recipe(rows=2, length=4, classes=11, codebooks=3, ids=Ids.SEEDED, delay=Delay.STEP, **sizes)  # type: ignore[arg-type]
    for profile in ("higgs.hf", "higgs.boson"):
        case = build_case(PROFILES[profile], recipe)
        audio = case.batch.tensor("audio_logits")
        assert (*audio.shape[2:], audio.shape[:2].numel()) == (3, of_audio, 2 * frames)
        assert case.batch.labels.shape == (2, 4)
        assert case.batch.audio_labels is not None
        assert int(case.batch.audio_labels.max()) < of_audio
    if classes == "fewer":
        assert int(case.batch.labels.max()) >= of_audio


def test_the_only_label_of_a_codebook_may_be_the_one_that_the_shift_drops() -> None:
    recipe = Recipe(rows=2, length=5, classes=7, codebooks=3, hollow=Hollow.DROPPED)
    labels, case = build_batch(PROFILES["higgs.hf"], recipe).audio_labels, build_case(PROFILES["higgs.hf"], recipe)
    assert labels is not None
    assert [bool((labels[..., book] != -100)[:, 0].all()) for book in range(3)] == [True] * 3
    assert not bool((labels[:, 1:, 2] != -100).any())
    assert {pair.logit[2] for pair in case.pairing.of("audio_logits")} == {0, 1}


def test_a_count_may_be_smaller_than_the_labels_that_count() -> None:
    spec = PROFILES["torchtitan"]
    case = build_case(spec, Recipe(rows=2, length=5, classes=7, count=Count.FEWER))
    assert case.batch.num_items_in_batch == len(case.pairing.pairs) // 2 == 5
    nothing = build_case(spec, Recipe(length=3, classes=7, masks=(Mask.ALL,), count=Count.FEWER))
    assert nothing.batch.num_items_in_batch == 1
    assert {Count.VALID, Count.GLOBAL, Count.FEWER} == {*space(spec, frozenset())["count"]}


def test_weights_may_be_zero_or_such_as_no_bf16_is() -> None:
    plain, zeros, tenths = (
        build_batch(PROFILES["weighted"], Recipe(rows=3, length=9, classes=5, weights=weights)).tensor("token_weights")
        for weights in (Weights.QUARTERS, Weights.ZEROS, Weights.TENTHS)
    )
    assert float(zeros[0, 0]) > 0
    assert 0.1 < float((zeros == 0).double().mean()) < 0.6
    assert torch.equal(zeros[zeros > 0], plain[zeros > 0])
    assert torch.equal(plain.bfloat16().float(), plain)
    assert not torch.equal(tenths.bfloat16().float(), tenths)


def test_who_may_round_weights_gets_those_that_every_dtype_holds() -> None:
    weighted, native = PROFILES["weighted"], PROFILES["torch.cross_entropy.weight"]
    assert Weights.TENTHS in space(weighted, frozenset(), ("bfloat16",))["weights"]
    assert Weights.TENTHS in space(native, frozenset(), ("float32",))["weights"]
    assert Weights.TENTHS not in space(native, frozenset(), ("bfloat16",))["weights"]


def test_an_id_of_the_text_may_be_the_sentinel_of_audio() -> None:
    spec = PROFILES["moshi"]
    seen = [
        bool((build_batch(spec, recipe).labels == classes_of(spec, "audio_labels", recipe)).any())
        for recipe in islice(random_recipes(space(spec, frozenset()), 0), 200)
    ]
    assert sum(seen) > 10
