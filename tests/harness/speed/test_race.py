"""When the answers of a race are looked at: never between two calls that are compared."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from shiftproof.harness.speed.bench import CANDIDATE, RIVAL, Unverified
from shiftproof.harness.speed.race import run_race


class Watched:
    """A bench whose calls take no time, and which writes down what happens."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def call_together(self, calls: list[tuple[str, int]]) -> list[Unverified]:
        return [self.call(*each) for each in calls]

    def call(self, part: str, seed: int) -> Unverified:
        self.events.append("call")
        sample: Any = SimpleNamespace(part=part, seed=seed, wrong=None)

        def verify() -> Any:
            self.events.append("verify")
            return SimpleNamespace(part=part, seed=seed, wrong="looked at")

        return Unverified(sample, verify)


@pytest.mark.parametrize("pairs", [1, 7, 8, 9, 16, 30])
def test_answers_are_verified_between_pairs_and_all_of_them(pairs: int) -> None:
    """Verifying slows down whoever is called next: within a pair that would always be the same one."""
    bench: Any = Watched()
    race = run_race(bench, (CANDIDATE, RIVAL), itertools.count(), lambda race: False, 60.0, most=pairs)
    assert [(one.part, two.part) for one, two in race.pairs] == [(CANDIDATE, RIVAL)] * pairs
    assert all(sample.wrong == "looked at" for pair in race.pairs for sample in pair)
    called = 0
    for event, run in itertools.groupby(bench.events):
        if event == "call":
            called += len(list(run))
        else:
            assert called % 2 == 0
    assert called == 2 * pairs


def test_a_race_that_is_settled_has_been_verified() -> None:
    bench: Any = Watched()
    race = run_race(bench, (CANDIDATE, RIVAL), itertools.count(), lambda race: True, 60.0)
    assert len(race.pairs) == 12
    assert all(sample.wrong == "looked at" for pair in race.pairs for sample in pair)


def test_each_is_first_in_one_of_two_pairs() -> None:
    bench: Any = Watched()
    race = run_race(bench, (CANDIDATE, RIVAL), itertools.count(), lambda race: False, 60.0, most=40)
    firsts = [mine.seed < theirs.seed for mine, theirs in race.pairs]
    assert all(one is not other for one, other in zip(firsts[::2], firsts[1::2], strict=True))
    assert set(firsts[::2]) == {True, False}  # and nobody knows in which
