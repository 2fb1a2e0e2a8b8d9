"""The kill table as data: which mutants were killed, by which law, how soon, and under which name."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class MutantOutcome(StrEnum):
    """The outcome of a mutant under a spec."""

    KILLED = "killed"
    SURVIVED = "survived"
    EQUIVALENT = "equivalent"  # shown to be the same loss on all inputs of that spec
    NOT_APPLICABLE = "needs"  # the bug is impossible under that spec


@dataclass(frozen=True)
class MutantResult:
    """One way to write one bug, under one spec.

    Attributes:
        mutant, detail: the name of the bug, and of the variant.
        reason: why it is equivalent or impossible, else "".
        law: the MUST law that needed the fewest cases, under the first seed.
        firsts: the number of cases of that law, one number per seed; empty unless killed.
        counterexample: the smallest recipe on which that law fails; ``size`` is its B·S·V (times K).
        easy: the number of easy inputs (easy_inputs.py) on which it gives the right value and gradient.
        named: the names that the diagnosis gives, the first one first. ``is_named`` is True if the right name is among
            them. roll-wrap and index-minus-one have the same pairs, so each comes with the other.
    """

    mutant: str
    detail: str
    spec: str
    dtype: str
    fate: MutantOutcome
    reason: str = ""
    law: str | None = None
    firsts: tuple[int, ...] = ()
    counterexample: Mapping[str, Any] | None = None
    size: int | None = None
    easy: int | None = None
    named: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def is_named(self) -> bool:
        return self.mutant in self.named

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["fate"] = str(self.fate)
        data["named"], data["firsts"] = list(self.named), list(self.firsts)
        median = statistics.median(self.firsts) if self.firsts else None
        worst = max(self.firsts, default=None)
        return {**data, "median": median, "worst": worst, "rightly_named": self.is_named if self.firsts else None}


@dataclass(frozen=True)
class KillTable:
    """A whole table and its summary."""

    version: str
    profile: str
    seeds: tuple[int, ...]
    hand_made: bool  # whether hand-made cases were used
    specs: tuple[str, ...]
    tried: tuple[MutantResult, ...]
    seconds: float

    def of(self, fate: MutantOutcome) -> list[MutantResult]:
        return [each for each in self.tried if each.fate is fate]

    def summary(self) -> dict[str, Any]:
        return summarise(self.tried)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "shiftproof": self.version,
            "profile": self.profile,
            "seeds": list(self.seeds),
            "hand_made": self.hand_made,
            "specs": list(self.specs),
            "seconds": round(self.seconds, 1),
            "summary": self.summary(),
            "mutants": [each.to_json() for each in self.tried],
        }


def summarise(tried: Iterable[MutantResult]) -> dict[str, Any]:
    """Return the counts, and the cases to first kill over all killed mutants and all seeds."""
    tried = list(tried)
    count = {fate: sum(each.fate is fate for each in tried) for fate in MutantOutcome}
    firsts = [first for each in tried for first in each.firsts]
    able = count[MutantOutcome.KILLED] + count[MutantOutcome.SURVIVED]
    return {
        "mutants": len(tried) - count[MutantOutcome.NOT_APPLICABLE],
        "killed": count[MutantOutcome.KILLED],
        "survived": count[MutantOutcome.SURVIVED],
        "equivalent": count[MutantOutcome.EQUIVALENT],
        "needs": count[MutantOutcome.NOT_APPLICABLE],
        "score": count[MutantOutcome.KILLED] / able if able else None,
        "median": statistics.median(firsts) if firsts else None,
        "worst": max(firsts, default=None),
        "wrongly_named": sum(each.fate is MutantOutcome.KILLED and not each.is_named for each in tried),
    }
