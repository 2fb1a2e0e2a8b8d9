"""Losses that score too much or too little, worked by hand."""

from __future__ import annotations

import pytest

from shiftproof.harness.cases.build import build_batch
from shiftproof.harness.cases.recipe import Mask, Recipe, ShiftLabels
from shiftproof.harness.mutants import MUTANTS
from shiftproof.reference.pairing import Pairing, build_pairing
from shiftproof.reference.profiles import PROFILES

# Labels [[0, 1, 2, 3], [-100, -100, 6, 7]]; right is "1 2 3 – | – 6 7 –".
PROMPT = Recipe(rows=2, length=4, classes=11, masks=(Mask.NONE, Mask.PROMPT))
# Documents [0] [1 2 3] and [4 5 6] [7]; right is "– 2 3 – | 5 6 – –".
PACKED = Recipe(rows=2, length=4, classes=11, documents=2)


def wrong(name: str, detail: str = "", profile: str = "torchtune", recipe: Recipe = PROMPT) -> Pairing | None:
    spec = PROFILES[profile]
    variant = {variant.detail: variant for variant in MUTANTS[name].variants}[detail]
    return variant.wrong(spec, build_batch(spec, recipe))


def drawn(pairing: Pairing | None) -> str:
    assert pairing is not None
    rows, length, _ = pairing.shapes["logits"]
    targets = {pair.logit: str(pair.target) for pair in pairing.pairs}
    return " | ".join(" ".join(targets.get((row, at), "–") for at in range(length)) for row in range(rows))


def weights(pairing: Pairing | None) -> list[float]:
    assert pairing is not None
    return [pytest.approx(pair.weight) for pair in pairing.pairs]


@pytest.mark.parametrize(
    ("profile", "recipe", "pairs"),
    [
        ("torchtune", PROMPT, "1 2 3 – | – 6 7 –"),
        ("masked", PROMPT, "1 2 3 – | – 6 7 –"),
        ("packed.position_ids", PACKED, "– 2 3 – | 5 6 – –"),
    ],
)
def test_right_is_what_it_is_compared_with(profile: str, recipe: Recipe, pairs: str) -> None:
    spec = PROFILES[profile]
    assert drawn(build_pairing(spec, build_batch(spec, recipe))) == pairs


@pytest.mark.parametrize(("detail", "weight"), [("÷ all", 1 / 6), ("÷ valid", 1 / 5)])
def test_ignored_labels_scored_as_class_0(detail: str, weight: float) -> None:
    found = wrong("ignore-unused", detail)
    assert drawn(found) == "1 2 3 – | 0 6 7 –"
    assert weights(found) == [weight] * 6
    assert wrong("ignore-unused", detail, "megatron") is None


@pytest.mark.parametrize(("detail", "weight"), [("÷ all", 1 / 6), ("÷ valid", 1 / 5)])
def test_minus_100_wraps_to_class_v_minus_100(detail: str, weight: float) -> None:
    wide = Recipe(rows=2, length=4, classes=101, masks=(Mask.NONE, Mask.PROMPT))
    found = wrong("negative-label-wrap", detail, recipe=wide)
    assert drawn(found) == "1 2 3 – | 1 6 7 –"
    assert weights(found) == [weight] * 6
    assert wrong("negative-label-wrap", detail) is None, "99 classes cannot wrap by 100"
    assert drawn(wrong("negative-label-wrap", detail, "nanogpt", PROMPT)) == "0 1 2 3 | 10 10 6 7"


def test_the_end_of_sequence_is_never_trained() -> None:
    found = wrong("eos-masked")  # its id is 2
    assert drawn(found) == "1 – 3 – | – 6 7 –"
    assert weights(found) == [0.25] * 4


@pytest.mark.parametrize(
    ("detail", "pairs"),
    [
        ("0", "1 2 3 – | – 6 7 –"),
        ("1", "– 2 3 – | – 6 7 –"),
        ("2", "1 – 3 – | – 6 7 –"),
        ("3", "1 2 – – | – 6 7 –"),
        ("V−1", "1 2 3 – | – 6 – –"),
    ],
)
def test_a_legal_id_is_dropped(detail: str, pairs: str) -> None:
    eight = Recipe(rows=2, length=4, classes=8, masks=(Mask.NONE, Mask.PROMPT))
    assert drawn(wrong("hardcoded-ignore", detail, recipe=eight)) == pairs


@pytest.mark.parametrize("profile", ["torchtune", "masked"])
def test_the_prompt_is_scored(profile: str) -> None:
    found = wrong("prompt-included", profile=profile)
    assert drawn(found) == "1 2 3 – | 5 6 7 –"
    assert weights(found) == [pytest.approx(1 / 6)] * 6


def test_padding_is_no_prompt() -> None:
    padded = Recipe(rows=2, length=4, classes=11, masks=(Mask.PROMPT, Mask.PADDING))  # label 7 is padding
    assert drawn(wrong("prompt-included", recipe=padded)) == "1 2 3 – | 5 6 – –"


def test_without_the_tokens_there_is_no_prompt_to_score() -> None:
    assert wrong("prompt-included", profile="preshifted") is None
    given = Recipe(rows=2, length=4, classes=11, shift_labels=ShiftLabels.PADDED)
    assert wrong("prompt-included", profile="hf.causal_lm", recipe=given) is None


@pytest.mark.parametrize("detail", ["padding left out", "padding scored"])
@pytest.mark.parametrize("profile", ["packed.position_ids", "packed.cu_seqlens", "packed.segment_ids"])
def test_the_last_of_a_document_predicts_the_first_of_the_next(profile: str, detail: str) -> None:
    found = wrong("cross-document", detail, profile, PACKED)
    assert drawn(found) == "1 2 3 – | 5 6 7 –"
    assert weights(found) == [pytest.approx(1 / 6)] * 6
    assert wrong("cross-document", detail, "torchtune", PACKED) is None


@pytest.mark.parametrize(
    ("detail", "expected"),
    [("÷ Σ weights", [1 / 3, 1 / 3, 1 / 6, 1 / 6]), ("÷ count", [1 / 2, 1 / 2, 1 / 4, 1 / 4])],
)
def test_document_n_weighs_n_times_as_much(detail: str, expected: list[float]) -> None:
    found = wrong("segment-weight", detail, "packed.segment_ids", PACKED)
    assert drawn(found) == "– 2 3 – | 5 6 – –"
    assert weights(found) == expected
    assert wrong("segment-weight", detail, "packed.position_ids", PACKED) is None


@pytest.mark.parametrize("name", ["ignore-unused", "negative-label-wrap", "prompt-included"])
def test_token_weights_stay_what_they_were(name: str) -> None:
    spec = PROFILES["weighted"]
    recipe = Recipe(rows=2, length=4, classes=101, masks=(Mask.NONE, Mask.PROMPT))
    batch = build_batch(spec, recipe)
    assert batch.token_weights is not None
    found = MUTANTS[name].variants[0].wrong(spec, batch)
    assert found is not None
    ratios = {round(pair.weight / float(batch.token_weights[pair.label]), 6) for pair in found.pairs}
    assert len(ratios) == 1


@pytest.mark.parametrize("name", ["ignore-unused", "negative-label-wrap", "prompt-included"])
def test_documents_stay_apart_where_they_are_not_the_bug(name: str) -> None:
    packed = Recipe(rows=2, length=4, classes=101, documents=2)
    detail = MUTANTS[name].variants[0].detail
    assert drawn(wrong(name, detail, "packed.position_ids", packed)) == "– 2 3 – | 5 6 – –"


# Segments 1 1 2 2 0 0, labels [0, 1, 2, 3, 4, 5], those of padding ignored where the profile has an ignore_index.
PADDED = Recipe(rows=1, length=6, classes=11, masks=(Mask.PADDING,), documents=2)


@pytest.mark.parametrize("detail", ["padding left out", "padding scored"])
def test_a_document_crossed_does_not_bring_ignored_labels_back(detail: str) -> None:
    assert drawn(wrong("cross-document", detail, "packed.segment_ids", PADDED)) == "1 2 3 – – –"


def test_padding_that_segment_0_alone_masks_is_scored_with_the_documents() -> None:
    # MaxText's labels are aligned: no document can be crossed there, and segment 0 is all that is dropped.
    assert drawn(wrong("cross-document", "padding scored", "maxtext", PADDED)) == "0 1 2 3 4 5"


@pytest.mark.parametrize(("detail", "pairs"), [("padding left out", "– – 3 4 5 –"), ("padding scored", "– 2 3 4 5 –")])
def test_padding_before_a_document_predicts_its_first_token_or_not(detail: str, pairs: str) -> None:
    left = Recipe(rows=1, length=6, classes=11, masks=(Mask.LEFT,), documents=2)  # segments 0 0 2 2 2 2
    assert drawn(wrong("cross-document", detail, "packed.segment_ids", left)) == pairs
