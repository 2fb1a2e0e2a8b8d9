"""Write the tables of docs/sizes.md: which pairs of size classes the cases of a law meet, by profile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

from page import fill_in, table

from shiftproof.harness.cases.sizes import (
    CLASSES,
    Pair,
    SizeClass,
    Sizes,
    cost,
    cover,
    every_pair,
    ordinary_pairs,
    pairs_of,
)
from shiftproof.harness.cases.space import Space, space
from shiftproof.harness.judge.pool import MOST_OF_ONE, OF_SIZES
from shiftproof.harness.judge.profile import PROFILES as EFFORTS
from shiftproof.harness.laws import LAWS
from shiftproof.reference.profiles import PROFILES

DOCS = Path(__file__).resolve().parents[1]
SEEDS = range(20)
LAW = LAWS["VALUE-1"]
SHOWN = {
    "text": space(PROFILES["hf.causal_lm"], frozenset()),
    "codebooks": space(PROFILES["musicgen"], frozenset()),
    "linear": space(PROFILES["hf.causal_lm"], frozenset({"hidden_states"})),
}
_SIZED = ("quick", "ci", "deep")
_PLACES = 100_000  # the most B·S of a case of a loss


def covering(choices: Space, effort: str, seed: int) -> list[Sizes]:
    """The sizes beyond the ordinary ones at which the widest laws are asked."""
    budget = round(LAW.budget * EFFORTS[effort].factor) * OF_SIZES
    return cover(choices, budget, seed, most=MOST_OF_ONE, most_places=_PLACES)


def met(choices: Space) -> dict[str, Counter[Pair]]:
    """For each profile, in how many seeds each pair of classes occurs."""
    always = ordinary_pairs(choices)
    return {
        effort: Counter(
            pair
            for seed in SEEDS
            for pair in always.union(*(pairs_of(sizes) for sizes in covering(choices, effort, seed)))
        )
        for effort in _SIZED
    }


def word(found: dict[str, Counter[Pair]], pair: Pair) -> str:
    """The first profile that always meets a pair, or that meets it in some seeds."""
    for effort in _SIZED:
        seeds = found[effort][pair]
        if seeds == len(SEEDS):
            return effort
        if seeds:
            return f"{effort} ({seeds} of {len(SEEDS)} seeds)"
    return "–"


def tables(choices: Space) -> Iterator[str]:
    """One table for each two axes, for each of the others and H if there is an H."""
    found, possible = met(choices), every_pair(choices)
    axes = [axis for axis in CLASSES if axis in choices]
    for one, other in combinations(axes, 2):
        if "hidden_size" in axes and other != "hidden_size":
            continue  # as in the tables of a loss that takes logits
        classes: list[SizeClass] = [of_axis for of_axis in CLASSES[other] if any(of_axis in pair for pair in possible)]
        rows = [
            [str(of_one), *(word(found, (of_one, of_other)) for of_other in classes)]
            for of_one in CLASSES[one]
            if any(of_one in pair for pair in possible)
        ]
        yield table(["", *map(str, classes)], rows)


def budgets() -> str:
    """What each profile spends: cases and elements of logits of VALUE-1, the mean over the seeds."""
    rows = []
    for name, choices in SHOWN.items():
        for effort in _SIZED:
            coverings = [covering(choices, effort, seed) for seed in SEEDS]
            cases = sum(map(len, coverings)) / len(coverings)
            spent = sum(cost(sizes) for sizes in (each for one in coverings for each in one)) / len(coverings)
            pairs = sum(min(seeds, 1) for seeds in met(choices)[effort].values())
            rows.append([name, effort, f"{cases:.0f}", f"{spent / 1e6:.1f}", f"{pairs} of {len(every_pair(choices))}"])
    return table(["", "profile", "cases", "million elements", "pairs met in some seed"], rows)


def filled() -> dict[str, str]:
    """Every table of the page, by its mark."""
    return {
        "budgets": budgets(),
        **{name: "\n\n".join(tables(choices)) for name, choices in SHOWN.items()},
    }


def main() -> None:
    fill_in(DOCS / "sizes.md", filled())


if __name__ == "__main__":
    main()
