"""Compare the judge's shrinker with Hypothesis's, on thirty known bugs, and write the table of docs/shrinking.md.

Run it with ``nox -s shrinking``. An argument is another folder to write to.

Both are given a law that fails and the way in which it fails, and look for the smallest case that fails in that way.
Ours starts from the first failing case of the law. Hypothesis starts from nothing: it shrinks only what it has drawn,
so it first has to draw a case that fails in that way.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase
from page import fill_in, table

from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.judge.ask import Failure, shrunk
from shiftproof.harness.judge.profile import PROFILES as EFFORTS
from shiftproof.harness.kill_table.run import first_kill
from shiftproof.harness.kill_table.subjects import Subject, subjects
from shiftproof.harness.kill_table.trial import Bench, MutantTrial
from shiftproof.harness.laws import Law, adapt_to
from shiftproof.reference.profiles import PROFILES

DOCS = Path(__file__).resolve().parents[1]
BUGS = {"hf.causal_lm": 20, "csm": 10}
_EXAMPLES = 2000


@dataclass(frozen=True)
class Shrunk:
    """What a shrinker found: the size B·S·V·K of its case, or None, the judgements that it took, and their seconds."""

    size: int | None
    judged: int
    seconds: float


@dataclass(frozen=True)
class Compared:
    spec: str
    bug: str
    law: str
    first: int
    ours: Shrunk
    theirs: Shrunk


def size_of(recipe: Recipe) -> int:
    return recipe.size * recipe.codebooks


class Counted:
    """A law whose judgements are counted."""

    def __init__(self, law: Law[Any, Any]) -> None:
        self.count = 0
        self.law = Law(**{name: getattr(law, name) for name in law.__dataclass_fields__} | {"check": self._check})
        self._inner = law.check

    def _check(self, trial: Any, recipe: Any) -> Any:
        self.count += 1
        return self._inner(trial, recipe)


def ours(law: Law[Any, Any], trial: MutantTrial, failure: Failure[Recipe]) -> Shrunk:
    counted, begun = Counted(law), time.process_time()
    smallest = shrunk(counted.law, trial, failure)
    return Shrunk(size_of(smallest.recipe), counted.count, time.process_time() - begun)


def theirs(law: Law[Any, Any], trial: MutantTrial, failure: Failure[Recipe]) -> Shrunk:
    counted, begun = Counted(law), time.process_time()
    strategy = trial.generators.recipes(law.restrict(trial.space))

    def fails_in_the_same_way(recipe: Recipe) -> bool:
        focused = adapt_to(law, trial, recipe)
        if focused is None:
            return False
        judgement = counted.law.check(trial, focused)
        wanted = failure.judgement
        return judgement.verdict is wanted.verdict and judgement.features == wanted.features

    settings = hypothesis.settings(
        max_examples=_EXAMPLES,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=tuple(HealthCheck),
    )
    try:
        found = hypothesis.find(strategy, fails_in_the_same_way, settings=settings, random=random.Random(0))
    except hypothesis.errors.NoSuchExample:
        return Shrunk(None, counted.count, time.process_time() - begun)
    smallest = adapt_to(law, trial, found)
    return Shrunk(size_of(smallest), counted.count, time.process_time() - begun)


def bugs(spec: str, count: int) -> Iterator[Subject]:
    """Every n-th bug of a spec, so that ``count`` remain, one variant of each."""
    first = {subject.name: subject for subject in reversed(subjects(PROFILES[spec])) if not subject.reason}
    names = sorted(first)
    yield from (first[names[index * len(names) // count]] for index in range(count))


def compare(spec: str, subject: Subject) -> Compared | None:
    """Shrink one bug in both ways. None if no law tells it."""
    bench = Bench(PROFILES[spec], subject.dtype, EFFORTS["quick"], drawn_only=True, linear=subject.linear)
    trial = MutantTrial(bench, subject.name, subject.act)
    kill = first_kill(trial, 0, {})
    if kill is None:
        return None
    law, _, failure = kill
    # Each starts with nothing remembered.
    found = [
        shrinker(law, MutantTrial(bench, subject.name, subject.act), failure)
        for shrinker in (ours, theirs, ours, theirs)
    ]
    best = [min(found[index::2], key=lambda shrunk: shrunk.seconds) for index in range(2)]
    return Compared(spec, subject.name, law.id, size_of(failure.recipe), *best)


def as_tables(found: list[Compared]) -> dict[str, str]:
    def show(size: int | None) -> str:
        return "none" if size is None else str(size)

    rows = [
        (
            *(each.spec, each.bug, each.law, str(each.first)),
            *(show(each.ours.size), str(each.ours.judged), f"{each.ours.seconds:.2f}"),
            *(show(each.theirs.size), str(each.theirs.judged), f"{each.theirs.seconds:.2f}"),
        )
        for each in found
    ]
    head = ("spec", "bug", "law", "first", "ours", "judged", "s", "Hypothesis", "judged", "s")
    far = 10**9
    smaller = sum((each.ours.size or far) < (each.theirs.size or far) for each in found)
    larger = sum((each.ours.size or far) > (each.theirs.size or far) for each in found)
    summary = [
        ("bugs", str(len(found)), str(len(found))),
        ("finds no such case", "0", str(sum(each.theirs.size is None for each in found))),
        ("its case is the smaller one", str(smaller), str(larger)),
        *(
            (f"median {what}", *(f"{median(read(of(each)) for each in found):{form}}" for of in (_ours, _theirs)))
            for what, form, read in (
                ("judgements", ".0f", lambda shrunk: shrunk.judged),
                ("seconds", ".2f", lambda shrunk: shrunk.seconds),
            )
        ),
    ]
    return {"summary": table(("", "ours", "Hypothesis"), summary), "bugs": table(head, rows)}


def _ours(each: Compared) -> Shrunk:
    return each.ours


def _theirs(each: Compared) -> Shrunk:
    return each.theirs


def main() -> None:
    torch.set_num_threads(1)
    found = [
        compared
        for spec, count in BUGS.items()
        for subject in bugs(spec, count)
        if (compared := compare(spec, subject)) is not None
    ]
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    fill_in(folder / "shrinking.md", as_tables(found))


if __name__ == "__main__":
    main()
