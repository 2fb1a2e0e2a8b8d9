"""Bugs of codebooks and streams, worked by hand. Codebook k of frame t has the id K·t + k."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shiftproof.harness.cases.build import build_batch
from shiftproof.harness.cases.recipe import Count, Delay, Hollow, Ids, Mask, Recipe
from shiftproof.harness.mutants import MUTANTS
from shiftproof.harness.mutants.codebooks import CODEBOOKS
from shiftproof.reference.pairing import Pairing, build_pairing
from shiftproof.reference.profiles import PROFILES

NINE = Recipe(rows=1, length=3, classes=20, codebooks=3)  # ids [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
UNEQUAL = Recipe(rows=1, length=3, classes=20, codebooks=2, masks=(Mask.NONE, Mask.FIRST))  # counts 3 and 2
EMPTY = Recipe(rows=1, length=3, classes=20, codebooks=2, hollow=Hollow.LAST)  # counts 3 and 0
FRAMES = Recipe(rows=1, length=4, classes=20, codebooks=3)


def wrong(profile: str, name: str, detail: str = "", recipe: Recipe = NINE) -> Pairing | None:
    spec = PROFILES[profile]
    variant = {variant.detail: variant for variant in MUTANTS[name].variants}[detail]
    return variant.wrong(spec, build_batch(spec, recipe))


def right(profile: str, recipe: Recipe = NINE) -> Pairing:
    return build_pairing(PROFILES[profile], build_batch(PROFILES[profile], recipe))


def drawn(pairing: Pairing | None, logits: str = "logits") -> list[str]:
    """The targets of each codebook of row 0: ["0 3 6", "1 4 7", "2 5 8"]."""
    assert pairing is not None
    _, length, books, _ = pairing.shapes[logits]
    targets = {pair.logit: str(pair.target) for pair in pairing.of(logits)}
    return [" ".join(targets.get((0, at, book), "–") for at in range(length)) for book in range(books)]


def weights(pairing: Pairing | None, logits: str = "logits") -> list[set[float]]:
    """The weights within each codebook, or, where there are none, of all."""
    assert pairing is not None
    books = pairing.shapes[logits][2] if len(pairing.shapes[logits]) == 4 else 1
    of = pairing.of(logits)
    return [{round(pair.weight, 9) for pair in of if books == 1 or pair.logit[2] == book} for book in range(books)]


def each(*expected: float | None) -> list[set[float]]:
    return [set() if weight is None else {round(weight, 9)} for weight in expected]


def test_right_is_what_it_is_compared_with() -> None:
    assert drawn(right("dia")) == ["0 3 6", "1 4 7", "2 5 8"]
    assert weights(right("dia")) == each(1 / 9, 1 / 9, 1 / 9)
    assert drawn(right("moss_ttsd")) == ["3 6 –", "4 7 –", "5 8 –"]
    assert drawn(right("csm"), "depth_logits") == ["1 4 7", "2 5 8"]


@pytest.mark.parametrize(
    ("name", "detail", "of_each"),
    [
        ("codebook-axis-shift", "+1", ["1 4 7", "2 5 8", "– – –"]),
        ("codebook-axis-shift", "−1", ["– – –", "0 3 6", "1 4 7"]),
        ("codebook-axis-shift", "+1, round", ["1 4 7", "2 5 8", "0 3 6"]),
        ("codebook-axis-shift", "−1, round", ["2 5 8", "0 3 6", "1 4 7"]),
        ("delay-off-by-one", "late", ["0 3 6", "4 7 –", "5 8 –"]),
        ("delay-off-by-one", "early", ["0 3 6", "– 1 4", "– 2 5"]),
        ("delay-off-by-one", "codebook k by k", ["0 3 6", "4 7 –", "8 – –"]),
        ("delay-off-by-one", "codebook k by −k", ["0 3 6", "– 1 4", "– – 2"]),
        ("layout-swap", "transposed", ["0 1 2", "3 4 5", "6 7 8"]),
        ("codebook-missing", "the first", ["– – –", "1 4 7", "2 5 8"]),
        ("codebook-missing", "the last", ["0 3 6", "1 4 7", "– – –"]),
        ("codebook-missing", "all but the first", ["0 3 6", "– – –", "– – –"]),
    ],
)
def test_pairs_by_hand(name: str, detail: str, of_each: list[str]) -> None:
    found = wrong("dia", name, detail)
    assert drawn(found) == of_each
    count = sum(target.isdigit() for targets in of_each for target in targets.split())
    assert {weight for book in weights(found) for weight in book} == {round(1 / count, 9)}


@pytest.mark.parametrize(
    ("detail", "of_each"),
    [("+1", ["2 5 8", "– – –"]), ("−1", ["0 3 6", "1 4 7"])],
)
def test_heads_along_the_codebooks_read_another_one(detail: str, of_each: list[str]) -> None:
    found = wrong("csm", "codebook-axis-shift", detail)
    assert drawn(found, "depth_logits") == of_each
    assert found is not None
    assert found.of("logits") == right("csm").of("logits")


@pytest.mark.parametrize(
    ("detail", "of_each"),
    [
        ("+1", ["4 7 –", "5 8 –", "– – –"]),
        ("−1", ["– – –", "3 6 –", "4 7 –"]),
    ],
)
def test_a_codebook_off_is_shifted_in_time_all_the_same(detail: str, of_each: list[str]) -> None:
    assert drawn(wrong("moss_ttsd", "codebook-axis-shift", detail)) == of_each


def test_labels_of_k_by_s_are_viewed_as_s_by_k() -> None:
    two = Recipe(rows=1, length=2, classes=20, codebooks=3)  # [[0, 1, 2], [3, 4, 5]] in memory
    assert drawn(wrong("musicgen", "layout-swap", "viewed", two)) == ["0 1", "2 3", "4 5"]
    assert wrong("musicgen", "layout-swap", "transposed", two) is None, "it needs S = K"
    # Dia's lie as [B·K, S]: [[0, 3], [1, 4], [2, 5]], read as [B, S, K].
    assert drawn(wrong("dia", "layout-swap", "viewed", two)) == ["0 4", "3 2", "1 5"]


def test_what_ends_one_codebook_predicts_what_begins_the_next() -> None:
    two = Recipe(rows=1, length=2, classes=20, codebooks=2)  # [[0, 1], [2, 3]]
    assert drawn(right("moss_ttsd", two)) == ["2 –", "3 –"]
    assert drawn(wrong("moss_ttsd", "codebook-leak", "k b s", two)) == ["2 1", "3 –"]
    assert drawn(wrong("moss_ttsd", "codebook-leak", "b s k", two)) == ["1 3", "2 –"]


@pytest.mark.parametrize(
    ("profile", "name", "detail", "recipe", "expected"),
    [
        ("dia", "codebook-macro", "over all codebooks", UNEQUAL, (1 / 6, 1 / 4)),
        ("dia", "codebook-macro", "over those that are not empty", UNEQUAL, (1 / 6, 1 / 4)),
        ("dia", "codebook-macro", "over all codebooks", EMPTY, (1 / 6, None)),
        ("dia", "codebook-macro", "over those that are not empty", EMPTY, (1 / 3, None)),
        ("musicgen", "codebook-micro", "", UNEQUAL, (1 / 5, 1 / 5)),
        ("musicgen", "codebook-sum", "", UNEQUAL, (1 / 3, 1 / 2)),
        ("musicgen", "empty-codebook-skipped", "", EMPTY, (1 / 3, None)),
        ("musicgen", "empty-codebook-skipped", "", UNEQUAL, (1 / 6, 1 / 4)),  # none is empty
        ("musicgen", "codebook-missing", "the first", UNEQUAL, (None, 1 / 4)),
        ("musicgen", "codebook-missing", "the first, ÷ the rest", UNEQUAL, (None, 1 / 2)),
        ("musicgen", "codebook-missing", "the last", UNEQUAL, (1 / 6, None)),
        ("musicgen", "codebook-missing", "all but one", UNEQUAL, (1 / 3, None)),
        ("musicgen", "count-axis", "K times", UNEQUAL, (1 / 12, 1 / 8)),
        ("musicgen", "count-axis", "1/K", UNEQUAL, (1 / 3, 1 / 2)),
        ("musicgen", "count-axis", "frames", UNEQUAL, (1 / 6, 1 / 6)),
        ("musicgen", "count-axis", "labels[..., 1:]", UNEQUAL, (1 / 4, 1 / 4)),
    ],
)
def test_weights_by_hand(
    profile: str, name: str, detail: str, recipe: Recipe, expected: tuple[float | None, ...]
) -> None:
    found = wrong(profile, name, detail, recipe)
    assert weights(found) == each(*expected)
    if name != "codebook-missing":
        assert drawn(found) == drawn(right(profile, recipe))


def test_a_mean_over_codebooks_where_their_sum_was_promised() -> None:
    # Shifted, a text of 2 and codebooks of 1 and 2 (the audio takes its masks from the second one on).
    assert weights(right("higgs.hf", UNEQUAL), "audio_logits") == each(1 / 2, 1 / 2)
    assert weights(wrong("higgs.hf", "codebook-mean", "", UNEQUAL), "audio_logits") == each(1 / 4, 1 / 4)
    assert weights(wrong("higgs.hf", "codebook-micro", "", UNEQUAL), "audio_logits") == each(1 / 4, 1 / 4)


def test_empty_codebooks_are_counted_where_only_others_were_promised() -> None:
    assert weights(right("higgs.mean_nonempty", EMPTY), "audio_logits") == each(1 / 2, None)
    found = wrong("higgs.mean_nonempty", "empty-codebook-counted", "", EMPTY)
    assert weights(found, "audio_logits") == each(1 / 4, None)
    assert weights(found, "logits") == each(1 / 2)


@pytest.mark.parametrize(
    ("detail", "backbone", "depth"),
    [
        ("labels[..., 1:]", 1 / 8, 1 / 8),  # for the depth decoder that is right
        ("K times", 1 / 9, 1 / 24),
        ("1/K", 1, 3 / 8),
        ("frames", 1 / 4, 1 / 4),
    ],
)
def test_tokens_counted_along_the_wrong_axis(detail: str, backbone: float, depth: float) -> None:
    assert weights(right("csm", FRAMES)) == each(1 / 3)
    found = wrong("csm", "count-axis", detail, FRAMES)
    assert weights(found) == each(backbone)
    assert weights(found, "depth_logits") == each(depth, depth)


def test_a_count_that_is_given_is_on_no_axis() -> None:
    given = replace(FRAMES, count=Count.GLOBAL)
    assert weights(wrong("csm", "count-axis", "frames", given)) == weights(right("csm", given))
    assert weights(wrong("dia", "codebook-macro", "over all codebooks", given)) == weights(right("dia", given))


@pytest.mark.parametrize(
    ("detail", "talker", "depth"),
    [("1", 1 / 3, 1 / 8), ("mean", 1 / 6, 0.15 / 8), ("×K", 1 / 3, 0.6 / 8), ("÷K", 1 / 3, 0.15 / 8)],
)
def test_terms_mixed_with_other_weights(detail: str, talker: float, depth: float) -> None:
    assert weights(right("qwen3_tts", FRAMES), "depth_logits") == each(0.3 / 8, 0.3 / 8)
    found = wrong("qwen3_tts", "term-weight", detail, FRAMES)
    assert weights(found) == each(talker)
    assert weights(found, "depth_logits") == each(depth, depth)


def test_a_term_is_left_out() -> None:
    text, audio = (wrong("higgs.boson", "term-missing", detail, FRAMES) for detail in ("1", "0"))
    assert text is not None
    assert audio is not None
    assert (text.of("audio_logits"), text.of("logits")) == ([], right("higgs.boson", FRAMES).of("logits"))
    assert (audio.of("logits"), audio.of("audio_logits")) == ([], right("higgs.boson", FRAMES).of("audio_logits"))
    assert wrong("dia", "term-missing", "0") is None


def test_the_texts_count_divides_the_audio() -> None:
    assert weights(right("higgs.boson", FRAMES), "audio_logits") == each(1 / 9, 1 / 9, 1 / 9)
    found = wrong("higgs.boson", "term-denominator", "", FRAMES)
    assert weights(found, "audio_logits") == each(1 / 3, 1 / 3, 1 / 3)
    assert weights(found) == each(1 / 3)


def test_the_sentinel_is_scored_as_the_last_class() -> None:
    # Fill is marked −100 at even places and V at odd ones, in memory's order.
    late = Recipe(rows=1, length=3, classes=20, codebooks=2, delay=Delay.STEP)  # [[0, V], [2, 3], [-100, 5]]
    assert drawn(right("musicgen", late)) == ["0 2 –", "– 3 5"]
    assert drawn(wrong("musicgen", "sentinel-scored", "", late)) == ["0 2 –", "19 3 5"]
    assert wrong("dia", "sentinel-scored", "", late) is None


def test_parlers_two_masks() -> None:
    # bos is id 3 and eos id 2; what stands at the input is the label before, the last one at the first.
    ids = Recipe(rows=1, length=4, classes=5, codebooks=1, ids=Ids.COUNTING)  # labels 0 1 2 3, inputs 3 0 1 2
    assert drawn(right("parler", ids)) == ["0 1 2 –"]
    assert drawn(wrong("parler", "bos-scored", "", ids)) == ["0 1 2 –"], "its input has ended, too"
    longer = replace(ids, length=5)  # labels 0 1 2 3 4, inputs 4 0 1 2 3
    assert drawn(right("parler", longer)) == ["0 1 2 – 4"]
    assert drawn(wrong("parler", "mask-by-labels", "", longer)) == ["0 1 2 – 4"], "and so is its label bos"
    both = replace(ids, rows=1, length=3, codebooks=2, ids=Ids.SEEDED, seed=1)
    batch = build_batch(PROFILES["parler"], both)
    labels, inputs = batch.tensor("labels")[0].T.tolist(), batch.tensor("input_ids")[0].T.tolist()

    def kept(bos: bool, eos: bool) -> list[str]:
        return [
            " ".join(
                "–" if (y == 3 and not bos) or (x == 2 and not eos) else str(y) for y, x in zip(*book, strict=True)
            )
            for book in zip(labels, inputs, strict=True)
        ]

    assert drawn(right("parler", both)) == kept(False, False)
    assert drawn(wrong("parler", "bos-scored", "", both)) == kept(True, False)
    assert drawn(wrong("parler", "mask-by-labels", "", both)) == kept(False, True)


def test_weights_of_codebooks_unused_or_over_their_count() -> None:
    batch = build_batch(PROFILES["moss_ttsd"], UNEQUAL)
    w = batch.tensor("codebook_weights").tolist()
    assert w[0] != w[1]
    counts = (2, 2)  # what is left of 3 and 2 labels, shifted
    assert weights(right("moss_ttsd", UNEQUAL)) == each(*(w[k] / sum(w) / counts[k] for k in (0, 1)))
    assert weights(wrong("moss_ttsd", "codebook-weights-unused", "", UNEQUAL)) == each(1 / 4, 1 / 4)
    over = wrong("moss_ttsd", "weights-over-count", "None", UNEQUAL)
    assert weights(over) == each(*(w[k] / 2 / counts[k] for k in (0, 1)))
    weighted = wrong("moss_ttsd", "codebook-micro", "weighted", UNEQUAL)
    assert weights(weighted) == each(*(w[k] / (2 * w[0] + 2 * w[1]) for k in (0, 1)))
    assert wrong("dia", "codebook-weights-unused", "", UNEQUAL) is None


@pytest.mark.parametrize("profile", ["torchtune", "packed.position_ids", "liger.smoothing"])
def test_a_text_loss_has_no_codebooks_to_get_wrong(profile: str) -> None:
    for one in CODEBOOKS:
        for variant in one.variants:
            assert variant.wrong(PROFILES[profile], build_batch(PROFILES[profile], NINE)) is None, one.name
