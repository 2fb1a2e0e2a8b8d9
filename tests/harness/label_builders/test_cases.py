"""Recipes of builders: they survive JSON, their inputs are what they say, and they shrink to the simplest."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from itertools import islice

import hypothesis
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shiftproof.harness.cases.recipe import Ids
from shiftproof.harness.label_builders.cases import (
    BuilderRecipe,
    Padding,
    Pattern,
    build_builder_case,
    build_inputs,
    delays_of,
    hand_made,
    random_recipes,
    recipes,
    simplifications,
    space,
)
from shiftproof.reference.builders import BUILDERS, BuilderBatch, BuilderSpec

QUICK = settings(deadline=None, max_examples=60, derandomize=True)
each_spec = pytest.mark.parametrize("spec", BUILDERS.values(), ids=BUILDERS)
any_recipe = st.builds(
    BuilderRecipe,
    **{name: st.integers(1, 2**40) for name in ("rows", "length", "vocab", "codebooks", "turns", "documents")},
    ids=st.sampled_from([Ids.COUNTING, Ids.SEEDED]),
    pattern=st.sampled_from(Pattern),
    padding=st.sampled_from(Padding),
    eos_is_pad=st.booleans(),
    ignore_index=st.integers(-(2**31), 2**31),
    seed=st.integers(0, 2**63 - 1),
)


def same(one: BuilderBatch, other: BuilderBatch) -> bool:
    def equal(a: object, b: object) -> bool:
        return a.equal(b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b

    return all(equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(BuilderBatch))


@given(any_recipe, any_recipe)
@QUICK
def test_every_recipe_survives_json(recipe: BuilderRecipe, other: BuilderRecipe) -> None:
    back = BuilderRecipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert back == recipe
    assert (recipe.canonical() == other.canonical()) == (recipe == other)
    assert all(type(getattr(back, field.name)) is type(getattr(recipe, field.name)) for field in fields(BuilderRecipe))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"colour": 1}, "no field 'colour'; it has codebooks, "),
        ({"rows": 0}, "rows is 0; expected an integer from 1 up"),
        ({"length": True}, "length is True"),
        ({"seed": 2**63}, "less than"),
        ({"eos_is_pad": 1}, "expected true or false"),
        ({"ids": "edges"}, "expected counting or seeded"),
        ({"pattern": "zigzag"}, "'zigzag' is not a valid Pattern"),
        ({"ignore_index": "x"}, "ignore_index is 'x'; expected an integer"),
    ],
)
def test_what_is_no_recipe(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BuilderRecipe.from_json(data)


@each_spec
def test_inputs_are_a_pure_function_of_the_recipe(spec: BuilderSpec) -> None:
    for recipe in islice(random_recipes(space(spec), 7), 20):
        assert same(build_inputs(spec, recipe), build_inputs(spec, recipe))


def test_the_same_bytes_everywhere() -> None:
    batch = build_inputs(
        BUILDERS["mask.turns"], BuilderRecipe(rows=2, length=6, vocab=50, turns=2, padding=Padding.RIGHT, seed=4)
    )
    assert batch.input_ids is not None
    assert batch.assistant_turns is not None
    assert batch.input_ids.tolist() == [[0, 51, 2, 51, 52, 52], [6, 7, 51, 52, 52, 52]]
    assert batch.assistant_turns.tolist() == [[[1, 1], [3, 3]], [[1, 2], [-1, -1]]]
    codes = build_inputs(
        BUILDERS["delay.apply"], BuilderRecipe(length=4, codebooks=2, vocab=50, ids=Ids.SEEDED)
    ).audio_codes
    assert codes is not None
    assert codes.tolist() == [[[9, 40, 14, 40], [9, 39, 3, 26]]]


@each_spec
@given(data=st.data())
@QUICK
def test_what_is_drawn_is_in_the_space_and_can_be_built(spec: BuilderSpec, data: st.DataObject) -> None:
    choices = space(spec)
    recipe = data.draw(recipes(choices))
    for field in fields(BuilderRecipe):
        assert getattr(recipe, field.name) in choices.get(field.name, (field.default,))
    case = build_builder_case(spec, recipe)
    assert not case.expected.is_floating_point()


@each_spec
def test_hand_made_cases_are_in_the_space_and_the_first_is_small(spec: BuilderSpec) -> None:
    choices = space(spec)
    cases = hand_made(choices)
    assert len(set(cases)) == len(cases) >= 5
    for recipe in cases:
        for field in fields(BuilderRecipe):
            assert getattr(recipe, field.name) in choices.get(field.name, (field.default,)), field.name
    assert (cases[0].length, cases[0].seed) == (4, 0)


@pytest.mark.representatives(3)
@each_spec
def test_hypothesis_shrinks_to_the_simplest(spec: BuilderSpec) -> None:
    choices = space(spec)
    found = hypothesis.find(
        recipes(choices), lambda recipe: recipe.length >= 4, settings=settings(QUICK, database=None)
    )
    assert found == BuilderRecipe(**{**{name: values[0] for name, values in choices.items()}, "length": 4})


@each_spec
def test_simplifications_end_and_reach_the_simplest(spec: BuilderSpec) -> None:
    choices = space(spec)
    for recipe in hand_made(choices)[:4]:
        seen = [recipe]
        while simpler := [each for each in simplifications(seen[-1], choices) if each.length >= 3]:
            seen.append(simpler[len(seen) % len(simpler)])
            assert seen[-1] not in seen[:-1]
        sizes = {"length": 3, **{name: 1 for name in ("rows", "codebooks", "documents", "turns") if name in choices}}
        assert seen[-1] == BuilderRecipe(**{**{name: values[0] for name, values in choices.items()}, **sizes})


@each_spec
def test_text_and_codes_are_what_a_batch_says(spec: BuilderSpec) -> None:
    for recipe in islice(random_recipes(space(spec), 3), 60):
        batch = build_inputs(spec, recipe)
        assert batch.eos_token_id not in range(recipe.vocab)
        assert batch.bos_token_id != batch.eos_token_id
        if batch.audio_codes is not None:
            assert int(batch.audio_codes.max()) < recipe.vocab
        if batch.attention_mask is None or batch.input_ids is None or spec.name.startswith("shift"):
            continue
        assert batch.prompt_lengths is not None
        assert batch.assistant_mask is not None
        assert batch.assistant_turns is not None
        real = batch.attention_mask.sum(1)
        assert bool((real >= 1).all())
        assert bool((batch.prompt_lengths <= real).all())
        assert bool((batch.input_ids[batch.attention_mask == 0] == batch.pad_token_id).all())
        assert (batch.pad_token_id == batch.eos_token_id) == recipe.eos_is_pad
        spoken = torch.zeros_like(batch.assistant_mask)
        for row, turns in enumerate(batch.assistant_turns.tolist()):
            for first, last in turns:
                if first >= 0:
                    assert 0 < first <= last
                    assert batch.input_ids[row, last] == batch.eos_token_id
                    spoken[row, first : last + 1] = 1
        assert spoken.equal(batch.assistant_mask)
        assert bool((batch.assistant_mask <= batch.attention_mask).all())


def test_the_answer_is_not_among_the_inputs() -> None:
    assert build_inputs(BUILDERS["delay.undo"], BuilderRecipe(codebooks=3)).audio_codes is None


def test_patterns() -> None:
    recipe = BuilderRecipe(codebooks=4)
    drawn = {pattern: delays_of(replace(recipe, pattern=pattern)) for pattern in Pattern}
    assert drawn[Pattern.STAIRCASE] == (0, 1, 2, 3)
    assert drawn[Pattern.ONE_LATE] == (0, 1, 1, 1)
    assert drawn[Pattern.DIA] == (0, 8, 9, 10)
    assert drawn[Pattern.UNDELAYED] == (0, 0, 0, 0)
    assert all(0 <= delay <= 8 for delay in drawn[Pattern.SEEDED])


def test_a_builder_with_a_pattern_of_its_own_is_shown_that_one() -> None:
    apply = BUILDERS["delay.apply"]
    assert set(space(apply)["pattern"]) == set(Pattern)
    assert space(apply, frozenset({"audio_codes"}))["pattern"] == (Pattern.STAIRCASE,)
    assert space(BUILDERS["delay.dia"], frozenset({"audio_codes"}))["pattern"] == (Pattern.DIA,)
    assert "ignore_index" not in space(BUILDERS["shift.pad"], frozenset({"input_ids"}))
