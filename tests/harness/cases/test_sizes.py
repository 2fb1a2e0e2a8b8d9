"""The covering of size classes: which pairs meet, within which budget."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.cases.sizes import (
    CLASSES,
    SizeClass,
    affordable,
    class_of,
    cost,
    cover,
    every_pair,
    pairs_of,
    sizes_of,
)
from shiftproof.harness.cases.space import placed, space
from shiftproof.harness.label_builders.cases import BuilderRecipe
from shiftproof.reference.profiles import PROFILES

BASIC = frozenset({"logits", "labels"})
LINEAR = space(PROFILES["hf.causal_lm"], frozenset({"hidden_states", "lm_head_weight", "labels"}))
TEXT = space(PROFILES["hf.causal_lm"], BASIC)
AUDIO = space(PROFILES["musicgen"], BASIC)
EVERYTHING = {"most": 10**12, "most_places": 10**9}
SEEDS = range(20)


def test_a_case_has_the_pairs_of_its_classes() -> None:
    sizes = sizes_of(Recipe(rows=2, length=300, classes=20))
    assert sizes == {"rows": 2, "length": 300, "classes": 20, "codebooks": 1, "hidden_size": 0}
    assert {f"{one} × {other}" for one, other in pairs_of(sizes)} == {
        *("B 2 to 8 × S 127 to 513", "B 2 to 8 × V 15 to 257", "S 127 to 513 × V 15 to 257"),
        *("B 2 to 8 × K 1 to 4", "S 127 to 513 × K 1 to 4", "V 15 to 257 × K 1 to 4"),
    }
    assert pairs_of({"rows": 2, "length": 80}) == frozenset()  # 80 positions lie between two classes
    assert sizes_of(BuilderRecipe(length=5)) == {"rows": 1, "length": 5, "codebooks": 1}


@pytest.mark.parametrize("axis", CLASSES)
def test_classes_do_not_overlap(axis: str) -> None:
    assert all(one.most < other.least for one, other in pairwise(CLASSES[axis]))
    assert all(class_of(axis, size) == of_axis for of_axis in CLASSES[axis] for size in (of_axis.least, of_axis.most))


@pytest.mark.parametrize("choices", [TEXT, AUDIO, LINEAR])
def test_without_a_budget_every_pair_is_met(choices: dict[str, tuple[int, ...]]) -> None:
    met = {pair for sizes in cover(choices, 10**15, 0, **EVERYTHING) for pair in pairs_of(sizes)}
    ordinary = {(one, other) for one, other in every_pair(choices) - met}
    drawn = [class_of(axis, size) for axis in CLASSES if axis in choices for size in choices[axis]]
    assert all(one in drawn and other in drawn for one, other in ordinary)  # other cases have these


def test_nearly_every_seed_meets_every_class_within_the_budget_of_the_widest_law() -> None:
    beyond = [of_axis for axis in ("rows", "length", "classes") for of_axis in CLASSES[axis][1:]]
    met: Counter[SizeClass] = Counter()
    for seed in SEEDS:
        covering = cover(TEXT, 3_250_000, seed, **EVERYTHING)
        assert sum(map(cost, covering)) <= 3_250_000
        met.update({of_axis for sizes in covering for pair in pairs_of(sizes) for of_axis in pair})
    assert min(met[of_axis] for of_axis in beyond) >= 0.9 * len(SEEDS)


def test_batches_as_people_train_on_come_before_other_pairs() -> None:
    found = [
        {pair for sizes in cover(TEXT, 3_250_000, seed, **EVERYTHING) for pair in pairs_of(sizes)} for seed in SEEDS
    ]
    batch = SizeClass("rows", 2, 8)
    for length in (SizeClass("length", 127, 513), SizeClass("length", 1023, 4097)):
        assert sum((batch, length) in pairs for pairs in found) >= 0.9 * len(found)


@pytest.mark.parametrize("seed", SEEDS)
def test_codebooks_are_as_many_as_real_codecs_have(seed: int) -> None:
    met = {sizes["codebooks"] for sizes in cover(AUDIO, 3_250_000, seed, **EVERYTHING)}
    assert any(9 <= books <= 17 for books in met)
    assert any(31 <= books <= 33 for books in met)


def test_lengths_and_vocabularies_are_round_or_one_off() -> None:
    sizes = [sizes for seed in SEEDS for sizes in cover(TEXT, 5_000_000, seed, **EVERYTHING)]
    long = [each for each in sizes if each["length"] > 17]
    numbers = [
        {(times * (each["length"] - dropped) + off) % 16 for times in (1, each["rows"]) for dropped in (0, 1)}
        for off in (0,)
        for each in long
    ]
    assert len(long) > 50
    assert all({0, 1, 15} & found for found in numbers)
    for dropped in (0, 1):
        for rest in (0, 1, 15):
            assert any((each["length"] - dropped) % 16 == rest for each in long), (dropped, rest)
            assert any(each["rows"] > 1 and each["rows"] * (each["length"] - dropped) % 16 == rest for each in long)
    wide = [each["classes"] for each in sizes if each["classes"] > 1000]
    assert {classes % 16 for classes in wide} >= {0, 1, 15}


def test_other_seeds_have_other_sizes() -> None:
    first, again, other = (cover(TEXT, 3_250_000, seed, **EVERYTHING) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_no_case_is_larger_than_there_is_room_for() -> None:
    covering = cover(TEXT, 10**12, 0, most=1_000_000, most_places=600)
    assert covering
    assert all(cost(sizes) <= 1_000_000 and sizes["rows"] * sizes["length"] <= 600 for sizes in covering)


def test_a_size_that_the_spec_fixes_is_kept() -> None:
    fixed = {**TEXT, "classes": (64,)}
    covering = cover(fixed, 3_250_000, 0, **EVERYTHING)
    assert {sizes["classes"] for sizes in covering} == {64}
    assert {pair for pair in every_pair(fixed) if SizeClass("classes", 128000, 262145) in pair} == set()
    between = {**TEXT, "classes": (300,)}  # in no class
    assert {sizes["classes"] for sizes in cover(between, 3_250_000, 0, **EVERYTHING)} == {300}


def test_a_class_without_a_size_for_the_spec_is_left_out() -> None:
    several = {**TEXT, "rows": (2, 3)}
    assert all(sizes["rows"] > 1 for sizes in cover(several, 3_250_000, 0, **EVERYTHING))
    assert not any(SizeClass("rows", 1, 1) in pair for pair in every_pair(several))


def test_a_smaller_budget_takes_what_it_can() -> None:
    cases = list(placed(TEXT, cover(TEXT, 3_250_000, 0, **EVERYTHING), 0))
    few = list(affordable(cases, 400_000))
    assert 0 < len(few) < len(cases)
    assert sum(cost(sizes_of(case)) for case in few) <= 400_000
    assert [case for case in cases if case in few] == few
    assert list(affordable(cases, 3_250_000)) == cases


@pytest.mark.parametrize("seed", SEEDS)
def test_hidden_states_are_as_wide_as_those_of_models(seed: int) -> None:
    widths = [sizes["hidden_size"] for sizes in cover(LINEAR, 3_250_000, seed, **EVERYTHING)]
    assert all(width % 32 == 0 for width in widths)
    assert any(768 <= width <= 1280 for width in widths)
    assert any(2048 <= width <= 4128 for width in widths)
