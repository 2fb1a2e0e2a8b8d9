"""Recipes that Hypothesis draws: a seed determines them, and they shrink to the simplest."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import hypothesis
import pytest

from shiftproof.harness.cases.draw import drawn_by_hypothesis, fields_from, one_of
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.cases.space import recipes, space
from shiftproof.harness.label_builders import cases
from shiftproof.reference.profiles import PROFILES

CHOICES = space(PROFILES["higgs.boson"], frozenset())


def drawn(seed: int) -> list[Recipe]:
    return drawn_by_hypothesis(recipes(CHOICES), 60, seed)


def test_a_seed_determines_the_recipes() -> None:
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_a_module_that_is_loaded_does_not_change_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis takes numbers from the code of modules that do not come from a package."""
    before = drawn(7)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "full_of_numbers.py").write_text(f"NUMBERS = {list(range(1000))}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    try:
        importlib.import_module("full_of_numbers")
        assert drawn(7) == before
    finally:
        sys.modules.pop("full_of_numbers", None)


def test_every_value_is_drawn() -> None:
    found = drawn_by_hypothesis(fields_from({"one": "abcdefg", "two": (1, 2)}), 200, 0)
    assert {(each["one"], each["two"]) for each in found} == {(one, two) for one in "abcdefg" for two in (1, 2)}


def test_a_choice_shrinks_to_the_first_that_will_do() -> None:
    assert hypothesis.find(one_of("abcdef"), lambda _: True) == "a"
    assert hypothesis.find(one_of("abcdef"), lambda letter: letter > "c") == "d"


def test_label_builders_draw_from_the_same_lists() -> None:
    assert drawn_by_hypothesis(cases.recipes({"length": (3, 4)}), 20, 0)[0].length in (3, 4)
