"""What a diagnosis says of one bug: its name, the case's details, and what the catalogue says of it."""

from __future__ import annotations

from ..mutants import MUTANTS
from ..mutants.symptoms import SYMPTOMS
from ..results import NamedBug


def mutant_bug(name: str, detail: str, also: tuple[str, ...]) -> NamedBug:
    """Return a mutant that predicts what was seen, with the others that predict the same."""
    mutant = MUTANTS[name]
    return NamedBug(name, 1.0, detail, mutant.formula, mutant.seen, also)


def symptom(name: str, detail: str) -> NamedBug:
    """Return a bug that is told by a symptom."""
    bug = SYMPTOMS.get(name) or MUTANTS[name]
    return NamedBug(name, 1.0, detail, bug.formula, bug.seen)
