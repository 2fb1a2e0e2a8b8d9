"""Shrinking: the smallest recipe that still fails, and never one that does not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from shiftproof.harness.candidates.arguments import ARGUMENTS
from shiftproof.harness.cases import shrink as shrink_module
from shiftproof.harness.cases.recipe import (
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
)
from shiftproof.harness.cases.shrink import Effort, shrink, simplifications
from shiftproof.harness.cases.space import hand_made, random_recipes, space
from shiftproof.reference.profiles import PROFILES

BIG = Recipe(
    rows=5,
    length=17,
    classes=257,
    codebooks=8,
    masks=(Mask.HOLES, Mask.NONE, Mask.LAST_ONLY, Mask.PADDING),
    documents=3,
    boundaries_ignored=True,
    extra=5,
    streams=Streams.SECOND,
    delay=Delay.AFTER_FIRST,
    hollow=Hollow.ALTERNATE,
    ids=Ids.EDGES,
    count=Count.GLOBAL,
    shift_labels=ShiftLabels.SHARDED,
    regime=Regime.HUGE,
    stride=Stride.OFFSET,
    label_dtype="int32",
    seed=777,
)
PLENTY = Effort(attempts=10_000, seconds=60)


def shrunk(recipe: Recipe, predicate: Callable[[Recipe], bool], effort: Effort = PLENTY) -> Recipe:
    assert predicate(recipe)
    return shrink(recipe, predicate, effort, simplifications)


@pytest.mark.parametrize(
    ("predicate", "left"),
    [
        (lambda r: True, {}),
        (lambda r: r.rows >= 2 and r.length >= 3, {"rows": 2, "length": 3}),
        (lambda r: r.rows * r.length >= 12, {"rows": 1, "length": 12}),
        (lambda r: r.classes >= 100, {"classes": 100}),
        (lambda r: r.classes % 2 == 1, {"classes": 3}),
        (lambda r: r.length > 13, {"length": 14}),
        (lambda r: r.masks[-1] is Mask.PADDING, {"masks": (Mask.PADDING,)}),
        (lambda r: len(r.masks) > 1 and r.masks[0] is not Mask.NONE, {"masks": (Mask.FIRST, Mask.NONE), "rows": 2}),
        (lambda r: r.documents > 1, {"documents": 2}),
        (lambda r: r.boundaries_ignored, {"boundaries_ignored": True}),
        (lambda r: r.extra >= 2, {"extra": 2}),
        (lambda r: r.count is Count.GLOBAL, {"count": Count.GLOBAL}),
        (lambda r: r.count is not Count.ABSENT, {"count": Count.VALID}),
        (lambda r: r.shift_labels is not ShiftLabels.ABSENT, {"shift_labels": ShiftLabels.PADDED}),
        (lambda r: r.ids is Ids.EDGES, {"ids": Ids.EDGES}),
        (lambda r: r.regime is Regime.HUGE, {"regime": Regime.HUGE}),
        (lambda r: r.stride is not Stride.CONTIGUOUS, {"stride": Stride.TRANSPOSED}),
        (lambda r: r.label_dtype == "int32", {"label_dtype": "int32"}),
        (lambda r: r.seed >= 1, {"seed": 1}),
        (lambda r: r.codebooks >= 2, {"codebooks": 2}),
        (lambda r: r.codebooks >= 6, {"codebooks": 6}),
        (lambda r: 2 <= r.codebooks <= r.length, {"codebooks": 2, "length": 2}),
        (lambda r: r.codebooks >= 3 and r.length >= 3 and r.rows >= 2, {"codebooks": 3, "length": 3, "rows": 2}),
        (lambda r: r.streams is not Streams.BOTH, {"streams": Streams.FIRST}),
        (lambda r: r.streams is Streams.SECOND, {"streams": Streams.SECOND}),
        (lambda r: r.delay is not Delay.NONE, {"delay": Delay.STEP}),
        (lambda r: r.delay is Delay.AFTER_FIRST and r.codebooks > 1, {"delay": Delay.AFTER_FIRST, "codebooks": 2}),
        (lambda r: r.hollow is not Hollow.NONE, {"hollow": Hollow.LAST}),
        (lambda r: r.hollow is Hollow.ALTERNATE, {"hollow": Hollow.ALTERNATE}),
    ],
)
def test_everything_but_what_fails_becomes_simplest(predicate: Callable[[Recipe], bool], left: dict[str, Any]) -> None:
    simplest: dict[str, Any] = {"rows": 1, "length": 1, "classes": 2, "regime": Regime.CALM}
    found = shrunk(BIG, predicate)
    assert found == Recipe(**{**simplest, **left})


def test_a_recipe_that_nothing_simpler_fails_like_stays() -> None:
    assert shrunk(BIG, lambda r: r == BIG) == BIG


@pytest.mark.parametrize("profile", ["hf.causal_lm", "packed.cu_seqlens", "hf.prefix_lm", "moshi", "csm"])
def test_what_comes_back_fails(profile: str) -> None:
    choices = space(PROFILES[profile], frozenset(ARGUMENTS))
    for index, recipe in enumerate([*hand_made(choices), *islice(random_recipes(choices, 0), 20)]):

        def awkward(r: Recipe, salt: int = index, start: Recipe = recipe) -> bool:
            return r == start or sum(r.canonical().encode()) % 7 == salt % 7

        for attempts in (0, 3, 50):
            assert awkward(shrunk(recipe, awkward, Effort(attempts, seconds=60)))


def test_attempts_are_counted_and_no_recipe_is_tried_twice() -> None:
    for attempts in (0, 1, 17):
        asked: list[Recipe] = []

        def fails(recipe: Recipe, asked: list[Recipe] = asked) -> bool:
            asked.append(recipe)
            return recipe.rows >= 4

        shrink(BIG, fails, Effort(attempts, seconds=60), simplifications)
        assert len(asked) == attempts
        assert len(set(asked)) == len(asked)
        assert BIG not in asked


def test_the_usual_effort_reaches_the_usual_minimum() -> None:
    found = shrunk(BIG, lambda r: r.rows >= 2 and r.length >= 3, Effort(seconds=60))
    assert (found.rows, found.length, found.classes, found.masks) == (2, 3, 2, (Mask.NONE,))


@pytest.mark.parametrize(
    ("predicate", "expected"),
    [
        (lambda r: r.codebooks >= 2 and r.rows * r.length >= 2, (1, 2, 2)),
        (lambda r: r.codebooks >= 3 and r.length >= 2, (1, 2, 3)),
        (lambda r: r.codebooks >= 2 and r.rows >= 2 and r.length >= 3, (2, 3, 2)),
        (lambda r: r.codebooks >= 3 and r.rows >= 2 and r.length >= 3, (2, 3, 3)),
    ],
)
def test_a_failure_of_codebooks_gets_there_boldly(
    predicate: Callable[[Recipe], bool], expected: tuple[int, int, int]
) -> None:
    asked: list[Recipe] = []

    def fails(recipe: Recipe) -> bool:
        asked.append(recipe)
        # As laws ask that read places: with an id for each.
        return predicate(recipe) and recipe.classes >= min(recipe.rows * recipe.length * recipe.codebooks + 3, 257)

    found = shrunk(BIG, fails, Effort(seconds=60))
    assert (found.rows, found.length, found.codebooks) == expected
    assert found.classes <= 21
    assert (found.streams, found.delay, found.hollow) == (Streams.BOTH, Delay.NONE, Hollow.NONE)
    near = next(index for index, r in enumerate(asked) if predicate(r) and (r.rows, r.length, r.codebooks) == expected)
    assert near <= 26, "among the first that are tried"


def test_time_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(shrink_module.time, "monotonic", lambda: next(clock))
    asked: list[Recipe] = []
    shrink(BIG, lambda recipe: bool(asked.append(recipe)), Effort(attempts=1000, seconds=5), simplifications)
    assert len(asked) == 5


def test_nothing_is_simpler_than_the_simplest() -> None:
    simplest = Recipe(length=1, regime=Regime.CALM)
    assert shrunk(simplest, lambda _: True) == simplest


def test_every_simplification_is_a_recipe_that_can_be_written_down() -> None:
    for simpler in simplifications(BIG):
        assert Recipe.from_json(simpler.to_json()) == simpler
        assert simpler.rows >= 1
        assert simpler.length >= 1
        assert simpler.classes >= 2
        assert simpler.codebooks >= 1
        assert simpler.masks
