"""A recipe's text: it survives a round trip, stays the same from release to release, and has no unknown field."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    digest,
)

# Every field is drawn from its own type, a field that is added tomorrow too; some hold only a part of their type.
LEGAL: dict[str, Any] = {
    **dict.fromkeys(("rows", "length", "extra", "hidden_size", "digit", "seed"), st.integers(0, 2**63 - 1)),
    **dict.fromkeys(("classes", "codebooks", "documents"), st.integers(1)),
    "masks": st.lists(st.sampled_from(Mask), min_size=1).map(tuple),
    "dtype": st.sampled_from(["float32", "bfloat16", "float16", "float64"]),
    "label_dtype": st.sampled_from(["int64", "int32"]),
}
any_recipe = st.builds(Recipe, **{field.name: LEGAL.get(field.name, ...) for field in fields(Recipe)})

OTHERWISE: dict[str, Any] = {
    "rows": 9,
    "length": 9,
    "classes": 9,
    "codebooks": 9,
    "masks": (Mask.NONE, Mask.ALL),
    "documents": 2,
    "boundaries_ignored": True,
    "extra": 1,
    "streams": Streams.NEITHER,
    "delay": Delay.STEP,
    "hollow": Hollow.ALTERNATE,
    "hidden_size": 32,
    "dense": True,
    "audio_classes": AudioClasses.FEWER,
    "audio_length": AudioLength.LONGER,
    "ids": Ids.EDGES,
    "digit": 1,
    "count": Count.GLOBAL,
    "weights": Weights.TENTHS,
    "shift_labels": ShiftLabels.SHARDED,
    "regime": Regime.CALM,
    "stride": Stride.OFFSET,
    "dtype": "bfloat16",
    "label_dtype": "int32",
    "seed": 9,
}
"""A value of every field that is not its simplest."""


@given(any_recipe)
@settings(deadline=None)
def test_every_recipe_survives_json(recipe: Recipe) -> None:
    back = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert back == recipe
    assert back.canonical() == recipe.canonical()
    for field in fields(Recipe):
        assert type(getattr(back, field.name)) is type(getattr(recipe, field.name)), field.name


@given(any_recipe, any_recipe)
@settings(deadline=None)
def test_equal_texts_are_equal_recipes(one: Recipe, other: Recipe) -> None:
    assert (one.canonical() == other.canonical()) == (one == other)


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
def test_every_field_shows_in_the_text(name: str) -> None:
    changed = replace(Recipe(), **{name: OTHERWISE[name]})
    assert name in changed.to_json()
    assert changed.canonical() != Recipe().canonical()
    assert Recipe.from_json(changed.to_json()) == changed


def test_the_simplest_recipe_is_short() -> None:
    assert Recipe().canonical() == '{"classes":2,"dtype":"float32","length":2,"rows":1,"seed":0}'


def test_the_canonical_text_is_the_one_that_stored_cases_are_named_by() -> None:
    recipe = Recipe(
        rows=2, length=3, classes=7, masks=(Mask.FIRST, Mask.ALL), count=Count.GLOBAL, regime=Regime.TIES, seed=5
    )
    assert recipe.canonical() == (
        '{"classes":7,"count":"global","dtype":"float32","length":3,"masks":["first","all"],"regime":"ties",'
        '"rows":2,"seed":5}'
    )
    assert digest("my.module:loss", recipe.canonical()) == "c61480fd"


def test_fields_that_differ_are_listed_in_field_order() -> None:
    recipe = Recipe(seed=1, stride=Stride.OFFSET, documents=2, masks=(Mask.HOLES,))
    assert list(recipe.to_json()) == ["rows", "length", "classes", "masks", "documents", "stride", "dtype", "seed"]


def test_codebooks_show_in_the_text_where_there_are_any() -> None:
    recipe = Recipe(
        codebooks=4, streams=Streams.SECOND, delay=Delay.AFTER_FIRST, hollow=Hollow.LAST, ids=Ids.SEEDED, seed=3
    )
    assert recipe.canonical() == (
        '{"classes":2,"codebooks":4,"delay":"after_first","dtype":"float32","hollow":"last","ids":"seeded","length":2,'
        '"rows":1,"seed":3,"streams":"second"}'
    )
    fields_in_order = ["rows", "length", "classes", "codebooks", "streams", "delay", "hollow", "ids", "dtype", "seed"]
    assert list(recipe.to_json()) == fields_in_order


def test_an_absent_field_is_the_simplest() -> None:
    assert Recipe.from_json({"rows": 3}) == Recipe(rows=3)
    assert Recipe.from_json({}) == Recipe()


def test_an_unknown_field_is_named_among_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no field 'row'; it has audio_classes, .*, rows, "):
        Recipe.from_json({"row": 3})


@pytest.mark.parametrize(
    "data",
    [
        {"ids": "counted"},
        {"regime": "loud"},
        {"masks": ["none", "some"]},
        {"streams": "audio"},
        {"delay": "late"},
        {"hollow": "middle"},
        {"audio_length": "endless"},
    ],
)
def test_an_unknown_value_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        Recipe.from_json(data)


@pytest.mark.parametrize(
    "data",
    [
        {"rows": "two"},
        {"rows": -1},
        {"length": 2.0},
        {"classes": 0},
        {"documents": 0},
        {"codebooks": 0},
        {"codebooks": 2.0},
        {"extra": None},
        {"digit": -1},
        {"seed": True},
        {"seed": 2**63},
        {"masks": "all"},
        {"masks": 3},
        {"boundaries_ignored": "yes"},
        {"masks": []},
        {"dtype": "float12"},
        {"label_dtype": "float32"},
    ],
)
def test_a_value_that_no_tensor_can_have_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(data))):
        Recipe.from_json(data)


def test_digests_are_fixed_and_part_by_part() -> None:
    assert digest("a", "b") == "f5ccd773"
    assert digest("ab") == "3ae897a7"
    assert digest("b", "a") not in ("f5ccd773", "3ae897a7")
