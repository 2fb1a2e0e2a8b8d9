"""Easy inputs are easy, and what is wrong on them is found to be."""

from __future__ import annotations

import pytest

from shiftproof.harness.cases.build import build_batch
from shiftproof.harness.cases.recipe import Count
from shiftproof.harness.judge.profile import PROFILES as EFFORTS
from shiftproof.harness.kill_table.easy_inputs import easy_inputs, right_on
from shiftproof.harness.kill_table.subjects import subjects
from shiftproof.harness.kill_table.trial import Bench, MutantTrial
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES

BENCH = Bench(PROFILES["hf.causal_lm"], "float32", EFFORTS["quick"])


def on_easy(mutant: str) -> int:
    subject = next(subject for subject in subjects(BENCH.spec) if subject.name == mutant)
    return right_on(MutantTrial(BENCH, subject.name, subject.act), easy_inputs(BENCH.right.space))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_easy_inputs_that_train_something(profile: str) -> None:
    bench = Bench(PROFILES[profile], "float32", EFFORTS["quick"])
    recipes = easy_inputs(bench.right.space)
    assert len(recipes) == 5
    for recipe in recipes:
        assert recipe.documents == min(bench.right.space.get("documents", (1,)))
        assert recipe.count is not Count.GLOBAL
        assert build_pairing(bench.spec, build_batch(bench.spec, recipe)).pairs


def test_the_right_loss_is_right_on_all_of_them() -> None:
    assert right_on(BENCH.right, easy_inputs(BENCH.right.space)) == 5


@pytest.mark.parametrize(
    ("mutant", "times"),
    [
        ("double-shift", 0),
        ("inputs-mutated", 0),  # value and gradient are right
        ("length-mismatch", 0),  # raises
        ("roll-wrap", 2),  # where the first labels are ignored
        ("flatten-then-shift", 3),  # and with one row
        ("upstream-ignored", 5),
        ("row-mean", 5),
    ],
)
def test_on_how_many_a_bug_hides(mutant: str, times: int) -> None:
    assert on_easy(mutant) == times
