"""Bugs that leave the pairs alone."""

from __future__ import annotations

from shiftproof.harness.mutants import MUTANTS
from shiftproof.harness.mutants.symptoms import SYMPTOMS


def test_every_symptom_says_what_it_is() -> None:
    assert all(symptom.formula and symptom.seen for symptom in SYMPTOMS.values())


def test_no_symptom_has_the_name_of_a_mutant() -> None:
    assert not set(SYMPTOMS) & set(MUTANTS)
