"""Right pairs over a wrong denominator, worked by hand."""

from __future__ import annotations

import math

import pytest

from shiftproof.harness.cases.build import build_batch
from shiftproof.harness.cases.recipe import Count, Mask, Recipe
from shiftproof.harness.mutants import MUTANTS
from shiftproof.harness.mutants.normalisation import NORMALISATION
from shiftproof.reference.pairing import Pairing, build_pairing
from shiftproof.reference.profiles import PROFILES

# Labels [[0, 1, 2, 3], [-100, -100, 6, 7]]: three pairs in the first row and two in the second.
UNEQUAL = Recipe(rows=2, length=4, classes=11, masks=(Mask.NONE, Mask.PROMPT))
GLOBAL = Recipe(rows=2, length=4, classes=11, masks=(Mask.NONE, Mask.PROMPT), count=Count.GLOBAL)  # 2·5 + 3


def wrong(name: str, detail: str = "", profile: str = "torchtune", recipe: Recipe = UNEQUAL) -> Pairing | None:
    spec = PROFILES[profile]
    variant = {variant.detail: variant for variant in MUTANTS[name].variants}[detail]
    return variant.wrong(spec, build_batch(spec, recipe))


def weights(pairing: Pairing | None) -> dict[int, float]:
    """Target -> weight."""
    assert pairing is not None
    return {pair.target: pair.weight for pair in pairing.pairs}


def each(*five: float) -> dict[int, object]:
    return {target: pytest.approx(weight) for target, weight in zip((1, 2, 3, 6, 7), five, strict=True)}


def test_right_is_what_it_is_compared_with() -> None:
    for profile, recipe, weight in (("torchtune", UNEQUAL, 1 / 5), ("hf.causal_lm", GLOBAL, 1 / 13)):
        spec = PROFILES[profile]
        assert weights(build_pairing(spec, build_batch(spec, recipe))) == each(*[weight] * 5)


@pytest.mark.parametrize(
    ("name", "detail", "expected"),
    [
        ("denominator-all", "kept tail", [1 / 8] * 5),
        ("denominator-all", "trimmed tail", [1 / 6] * 5),
        ("overcount-rows", "", [1 / 6] * 5),  # the first row's y_0 is counted, the second's is ignored
        ("row-mean", "", [1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4]),
        ("mean-of-means", "2", [1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4]),
        ("mean-of-means", "8", [1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4]),  # two rows make two micro-batches at most
        ("sum-of-means", "2", [1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2]),
        ("rank-mean-of-means", "2", [1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4]),
        ("rank-mean-of-means", "4", [1 / 12, 1 / 12, 1 / 12, 1 / 8, 1 / 8]),  # two ranks have nothing
        ("double-divide", "2", [1 / 10] * 5),
        ("world-size-missing", "4", [1 / 20] * 5),
        ("cp-undercount", "2", [2 / 5] * 5),
        ("tail-accumulation", "4", [2 / 20] * 5),  # two rows in a window of four
        ("tail-accumulation", "3", [2 / 15] * 5),
        ("tail-accumulation", "2", [1 / 5] * 5),  # the window is full
        # The six kept places in pairs: (1, 2) (3, –) (6, 7), the second row's first place ignored.
        ("chunk-mean-sum", "2", [1 / 2, 1 / 2, 1, 1 / 2, 1 / 2]),
        ("chunk-mean-mean", "2", [1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6]),
        ("chunk-mean-sum", "4", [1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 2]),
        ("chunk-mean-mean", "8", [1 / 5] * 5),  # one chunk
    ],
)
def test_weights_by_hand(name: str, detail: str, expected: list[float]) -> None:
    assert weights(wrong(name, detail)) == each(*expected)


def test_a_count_that_is_given_and_not_used() -> None:
    assert weights(wrong("count-ignored", profile="hf.causal_lm", recipe=GLOBAL)) == each(*[1 / 5] * 5)
    assert wrong("count-ignored", profile="torchtune", recipe=GLOBAL) is None


def test_a_count_that_is_given_is_scaled_too() -> None:
    assert weights(wrong("double-divide", "2", "hf.causal_lm", GLOBAL)) == each(*[1 / 26] * 5)


def test_aligned_labels_are_counted_from_the_second_on() -> None:
    found = wrong("undercount-aligned", profile="preshifted")  # six labels count, one of them the first of its row
    assert found is not None
    assert [pair.weight for pair in found.pairs] == [pytest.approx(1 / 5)] * 6
    assert wrong("undercount-aligned", profile="torchtune") is None
    assert wrong("overcount-rows", profile="preshifted") is None


def test_counts_see_an_explicit_mask() -> None:
    assert weights(wrong("overcount-rows", profile="masked")) == each(*[1 / 6] * 5)


@pytest.mark.parametrize(("detail", "weight"), [("1", 1 / 2), ("2", math.inf)])
def test_boundaries_that_are_ignored_already_are_subtracted_again(detail: str, weight: float) -> None:
    # Documents [0] [1 2 3] and [4 5 6] [7], the first label of each ignored: 4 pairs, 2 boundaries.
    packed = Recipe(rows=2, length=4, classes=11, documents=2, boundaries_ignored=True)
    found = weights(wrong("packed-double-subtract", detail, recipe=packed))
    assert found == {target: pytest.approx(weight) for target in (2, 3, 5, 6)}
    assert wrong("packed-double-subtract", detail) is None, "one document has no boundary"


def test_token_weights_are_summed_within_each_group() -> None:
    spec = PROFILES["weighted"]
    batch = build_batch(spec, UNEQUAL)
    found = wrong("row-mean", profile="weighted")
    assert found is not None
    assert batch.token_weights is not None
    for row in range(2):
        of_row = [pair for pair in found.pairs if pair.logit[0] == row]
        assert math.fsum(pair.weight for pair in of_row) == pytest.approx(1 / 2)
        assert len({round(pair.weight / float(batch.token_weights[pair.label]), 9) for pair in of_row}) == 1


@pytest.mark.parametrize("profile", ["sum", "per_token", "per_token.trimmed"])
def test_what_divides_by_nothing_cannot_divide_wrongly(profile: str) -> None:
    spec = PROFILES[profile]
    batch = build_batch(spec, UNEQUAL)
    assert [v.wrong(spec, batch) for one in NORMALISATION for v in one.variants] == [None] * sum(
        len(one.variants) for one in NORMALISATION
    )


def test_pairs_are_never_touched() -> None:
    spec = PROFILES["torchtune"]
    batch = build_batch(spec, UNEQUAL)
    right = {(pair.logit, pair.label, pair.target) for pair in build_pairing(spec, batch).pairs}
    for one in NORMALISATION:
        for variant in one.variants:
            found = variant.wrong(spec, batch)
            if found is not None:
                assert {(pair.logit, pair.label, pair.target) for pair in found.pairs} == right, one.name
