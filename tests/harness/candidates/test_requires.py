"""Sizes that a candidate needs: how they are read, and that every case is in them."""

from __future__ import annotations

from typing import Any

import pytest

from shiftproof.harness.candidates.requires import Extent, Requires, parse_requires, read_requires
from shiftproof.harness.cases.recipe import Recipe


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"length": ">=128"}, {"length": Extent(128)}),
        ({"length": ">=128", "multiple_of": 16}, {"length": Extent(128, None, 16)}),
        ({"multiple_of": 16, "length": ">=100"}, {"length": Extent(100, None, 16)}),
        ({"length": [">=2", "<=64"]}, {"length": Extent(2, 64)}),
        ({"length": [">1", "<65"]}, {"length": Extent(2, 64)}),
        ({"rows": "==4"}, {"rows": Extent(4, 4)}),
        ({"classes": ">=64", "classes_multiple_of": 64}, {"classes": Extent(64, None, 64)}),
        ({"codebooks": "<=8", "rows_multiple_of": 2}, {"codebooks": Extent(0, 8), "rows": Extent(0, None, 2)}),
        ({"length": [">=8", ">=4"]}, {"length": Extent(8)}),
        ({"length": ["<=8", "<=4"]}, {"length": Extent(0, 4)}),
    ],
)
def test_reading(table: dict[str, Any], expected: dict[str, Extent]) -> None:
    assert read_requires(table) == Requires(expected)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"lenght": ">=3"}, "no key 'lenght' .did you mean 'length'"),
        ({"length": 128}, "requires.length is 128; expected a bound such as"),
        ({"length": "128"}, "requires.length is '128'; expected a bound such as"),
        ({"multiple_of": "16"}, "requires.multiple_of is '16'; expected a whole number"),
        ({"multiple_of": 0}, "requires.multiple_of is 0; expected a whole number"),
        ({"length": [">=65", "<=64"]}, "requires.length leaves no size"),
        ({"length": [">=65", "<=127"], "multiple_of": 64}, "requires.length leaves no size"),
        ({"reason": "because"}, "requires names no size"),
        ({"length": ">=2", "reason": 3}, "requires.reason is 3; expected a string"),
    ],
)
def test_what_cannot_be_read(table: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_requires(table)


def test_on_the_command_line() -> None:
    table = parse_requires("length>=128, multiple_of=16, classes<=4096: the kernel's tile: 16")
    assert table == {
        "length": [">=128"],
        "multiple_of": 16,
        "classes": ["<=4096"],
        "reason": "the kernel's tile: 16",
    }
    with pytest.raises(ValueError, match="'length of 128' cannot be read; write sizes as in"):
        parse_requires("length of 128")


EXTENTS = [Extent(128), Extent(128, None, 16), Extent(0, 8), Extent(0, None, 7), Extent(3, 5), Extent(4, 4)]


@pytest.mark.parametrize("extent", EXTENTS, ids=str)
def test_every_size_becomes_one_that_is_admitted_and_stays_it(extent: Extent) -> None:
    fitted = [extent.fit(size) for size in range(200)]
    assert all(map(extent.admits, fitted))
    assert fitted == [extent.fit(size) for size in fitted]
    assert [size for size in range(200) if extent.admits(size)] == [s for s in range(200) if fitted[s] == s]


def test_cases_still_differ_in_size() -> None:
    space = read_requires({"length": ">=128"}).restrict({"length": (2, 3, 4, 130), "rows": (1, 2)})
    assert space == {"length": (130, 128, 129), "rows": (1, 2)}


def test_a_recipe_is_changed_in_its_sizes_alone() -> None:
    recipe = Recipe(rows=2, length=3, classes=7, seed=5)
    fitted = read_requires({"length": ">=128", "multiple_of": 16}).fit(recipe)
    assert (fitted.rows, fitted.length, fitted.classes, fitted.seed) == (2, 128, 7, 5)
    assert Requires().fit(recipe) is recipe


def test_what_is_admitted() -> None:
    needs = read_requires({"length": ">=128", "reason": "a tile"})
    assert needs.admits({"length": 128, "rows": 1})
    assert not needs.admits({"length": 127, "rows": 1})
    assert Requires().admits({"length": 0})
    assert not Requires()
    assert str(needs) == "length ≥ 128 (a tile)"


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (["<=10", ">=3"], Extent(3, 10)),
        ([">=3", "<=10"], Extent(3, 10)),
        (["<=10", "<=7"], Extent(0, 7)),
        (["<=7", "<=10", ">=1", ">=0"], Extent(1, 7)),
    ],
)
def test_of_several_bounds_the_narrowest_holds(bounds: list[str], expected: Extent) -> None:
    assert read_requires({"length": bounds}).extents == {"length": expected}


def test_a_reason_may_stand_anywhere_and_one_is_a_multiple() -> None:
    found = read_requires({"reason": "a tile", "length": ">=8", "rows_multiple_of": 1})
    assert found.extents == {"length": Extent(8), "rows": Extent(multiple_of=1)}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"length": ">=128"}, "length ≥ 128"),
        ({"length": [">=8", "<=64"], "multiple_of": 2}, "length ≥ 8 and ≤ 64 and a multiple of 2"),
        ({"length": "<=9", "rows": ">=2", "reason": "a tile"}, "length ≤ 9, rows ≥ 2 (a tile)"),
    ],
)
def test_in_words(table: dict[str, Any], words: str) -> None:
    assert str(read_requires(table)) == words


def test_what_requires_nothing_is_none() -> None:
    assert not Requires()
    assert read_requires({"length": ">=1"})


def test_the_command_line_has_what_the_table_has() -> None:
    assert parse_requires("length=64, length<=128") == {"length": ["==64", "<=128"]}
    assert parse_requires("rows_multiple_of=2: a tile: two") == {"rows_multiple_of": 2, "reason": "a tile: two"}
