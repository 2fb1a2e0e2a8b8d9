"""docs/sizes.md says what the judge does: its budgets are made anew, and every pair of classes is in a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shiftproof.harness.cases.sizes import cost, every_pair
from shiftproof.harness.cases.space import space
from shiftproof.reference.profiles import PROFILES

PAGE = (Path(__file__).parents[2] / "docs" / "sizes.md").read_text(encoding="utf-8")


def test_the_budget_of_quick_is_what_the_page_says(scripts: Any) -> None:
    choices = space(PROFILES["hf.causal_lm"], frozenset())
    coverings = [scripts.sizes.covering(choices, "quick", seed) for seed in scripts.sizes.SEEDS]
    cases = sum(map(len, coverings)) / len(coverings)
    spent = sum(cost(sizes) for one in coverings for sizes in one) / len(coverings)
    assert f"| text | quick | {cases:.0f} | {spent / 1e6:.1f} |" in PAGE


def test_every_pair_of_classes_has_a_cell(scripts: Any) -> None:
    for name, choices in scripts.sizes.SHOWN.items():
        _, _, part = PAGE.partition(f"<!-- {name} -->")
        shown, _, _ = part.partition(f"<!-- end of {name} -->")
        for one, other in every_pair(choices):
            assert f"| {one} |" in shown or f"| {other} |" in shown, (one, other)
            assert str(one) in shown
            assert str(other) in shown


def test_a_pair_is_described_by_the_first_profile_that_meets_it(scripts: Any) -> None:
    pair = next(iter(every_pair(space(PROFILES["hf.causal_lm"], frozenset()))))
    found = {"quick": {pair: 0}, "ci": {pair: 3}, "deep": {pair: 20}}
    assert scripts.sizes.word(found, pair) == "ci (3 of 20 seeds)"
    assert scripts.sizes.word({**found, "ci": {pair: 0}}, pair) == "deep"
    assert scripts.sizes.word({effort: {pair: 0} for effort in found}, pair) == "–"
