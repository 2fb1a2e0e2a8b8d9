"""Cells: what is said of a recipe is true of its tensors, and costs next to nothing to say."""

from __future__ import annotations

from itertools import islice

import pytest

from shiftproof.harness.candidates.arguments import ARGUMENTS
from shiftproof.harness.cases.build import build_batch, classes_of
from shiftproof.harness.cases.cells import CellCounts, loss_cells
from shiftproof.harness.cases.recipe import Count, Delay, Hollow, Mask, Recipe, Regime, ShiftLabels, Streams
from shiftproof.harness.cases.space import random_recipes, space
from shiftproof.harness.label_builders.cases import BuilderRecipe, Pattern
from shiftproof.harness.label_builders.cells import builder_cells
from shiftproof.reference.builders import BUILDERS
from shiftproof.reference.profiles import PROFILES


def structures(profile: str, recipe: Recipe) -> set[str]:
    return {cell.structure for cell in loss_cells(PROFILES[profile])(recipe)}


def test_a_cell_says_how_the_case_is_asked() -> None:
    recipe = Recipe(regime=Regime.HUGE, dtype="bfloat16", count=Count.GLOBAL)
    cells = loss_cells(PROFILES["hf.causal_lm"])(recipe)
    assert {cell[1:] for cell in cells} == {("huge", "bfloat16", "mean, larger count given")}
    assert str(cells[0]) == "one row × huge × bfloat16 × mean, larger count given"
    assert loss_cells(PROFILES["sum"])(Recipe())[0].reduction == "sum"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"one row", "two positions", "two classes", "first label kept"}),
        ({"masks": (Mask.FIRST,)}, {"one row", "two positions", "two classes", "first label ignored"}),
        ({"rows": 0}, {"no rows", "two positions", "two classes"}),
        ({"length": 1}, {"one row", "one position", "two classes"}),
        ({"masks": (Mask.ALL,), "classes": 3}, {"one row", "two positions", "everything ignored"}),
        # A hole in two labels is none, and of two masks one row takes one.
        ({"masks": (Mask.HOLES, Mask.PADDING), "classes": 3}, {"one row", "two positions", "first label kept"}),
        (
            {"rows": 2, "length": 3, "classes": 70001, "masks": (Mask.ALL, Mask.HOLES)},
            {
                "several rows",
                "first label kept",
                "holes",
                "rows masked differently",
                "a row all ignored",
            },
        ),
        (
            {"length": 4099, "classes": 3, "documents": 2, "boundaries_ignored": True},
            {"one row", "documents, boundaries ignored"},
        ),
        (
            {"length": 3, "classes": 3, "shift_labels": ShiftLabels.SHARDED, "extra": 1},
            {"one row", "first label kept", "shift_labels of a shard", "extra logits"},
        ),
    ],
)
def test_structures_of_one_stream(fields: dict[str, object], expected: set[str]) -> None:
    assert structures("hf.causal_lm", Recipe(**fields)) == expected  # type: ignore[arg-type]


def test_structures_of_codebooks_and_streams() -> None:
    recipe = Recipe(length=4, classes=5, codebooks=4, delay=Delay.STEP, hollow=Hollow.LAST, streams=Streams.FIRST)
    assert structures("higgs.hf", recipe) == {
        "one row",
        "second stream empty",
        "as many codebooks as positions",
        "delays 0, 1, 2, …",
        "last codebook empty",
    }
    # Each codebook takes the masks from another one on.
    assert "rows masked differently" in structures("dia", Recipe(codebooks=2, masks=(Mask.NONE, Mask.PROMPT)))
    assert "rows masked differently" not in structures("torchtune", Recipe(masks=(Mask.NONE, Mask.PROMPT)))


@pytest.mark.parametrize("profile", ["hf.causal_lm", "torchtune", "dia", "moshi", "csm"])
def test_what_is_said_of_labels_is_true_of_the_tensors(profile: str) -> None:
    spec = PROFILES[profile]
    for recipe in islice(random_recipes(space(spec, frozenset(ARGUMENTS)), 3), 150):
        said = structures(profile, recipe)
        labels = {name: build_batch(spec, recipe).tensor(name) for name in spec.labels}
        # [rows and codebooks, S] of each array, True where a label is kept; id V marks ignored labels too
        kept = [
            ((of != -100) & (of < classes_of(spec, name, recipe))).movedim(1, -1).flatten(0, -2)
            for name, of in labels.items()
        ]
        if "first label kept" in said:
            assert any(bool(of[:, 0].any()) for of in kept)
        if "a row all ignored" in said:
            assert any(bool((~of).all(-1).any()) for of in kept)
        if said & {"holes", "prompt ignored", "right padding", "left padding", "first label ignored"}:
            assert not all(bool(of.all()) for of in kept)
        if "everything ignored" in said:
            assert not any(bool(of.any()) for of in kept)


def test_structures_of_builders() -> None:
    (first, *_) = cells = builder_cells(BUILDERS["delay.apply"])(BuilderRecipe(codebooks=2, pattern=Pattern.SEEDED))
    assert {cell.structure for cell in cells} == {
        "one row",
        "two positions",
        "seeded delays",
        "as many codebooks as positions",
    }
    assert first[1:] == ("counting", "int64", "none")


def test_a_tally_tells_apart_who_judged() -> None:
    cell_counts = CellCounts(loss_cells(PROFILES["sum"]))
    recipe = Recipe(rows=2, length=3, classes=3)
    cell_counts.note("EDGE-1", recipe, decides=False)
    assert not cell_counts.decided
    cell_counts.note("VALUE-1", recipe, decides=True)
    cell_counts.note("VALUE-1", recipe, decides=True)
    assert cell_counts.decided == set(cell_counts.sort(recipe))
    assert {law: set(counts.values()) for law, counts in cell_counts.by_law.items()} == {"EDGE-1": {1}, "VALUE-1": {2}}
