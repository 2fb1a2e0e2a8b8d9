"""What the kill table says, as data: which mutants were killed, by what, how soon, and under which name."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Fate(StrEnum):
    """What became of a mutant under a spec."""

    KILLED = "killed"
    SURVIVED = "survived"
    EQUIVALENT = "equivalent"  # the same loss on all inputs of that spec, and shown to be
    NOT_HAD = "needs"  # the bug cannot be had under that spec


@dataclass(frozen=True)
class Tried:
    """One way of writing one bug, under one spec.

    Attributes:
        mutant, detail: the bug's name, and what tells this way of writing it from the others.
        reason: why it is equivalent or cannot be had, else "".
        law: the MUST law that needed the fewest cases, under the first seed.
        firsts: how many cases of that law it took, one number a seed; empty unless killed.
        counterexample: the smallest recipe on which that law fails, and ``size`` its B·S·V (times K).
        easy: on how many of the easy inputs (easy.py) it gives the right value and gradient.
        named: the names that the diagnosis gives, the first one first; ``is_named`` whether the right one is among
            them (roll-wrap and index-minus-one are the same pairs, so each comes with the other).
    """

    mutant: str
    detail: str
    spec: str
    dtype: str
    fate: Fate
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
    """A whole table, and what it comes to."""

    version: str
    profile: str
    seeds: tuple[int, ...]
    hand_made: bool  # whether the hand-made cases were among those asked
    specs: tuple[str, ...]
    tried: tuple[Tried, ...]
    seconds: float

    def of(self, fate: Fate) -> list[Tried]:
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


def summarise(tried: Iterable[Tried]) -> dict[str, Any]:
    """Counts, and the cases to first kill over all killed and all seeds."""
    tried = list(tried)
    count = {fate: sum(each.fate is fate for each in tried) for fate in Fate}
    firsts = [first for each in tried for first in each.firsts]
    able = count[Fate.KILLED] + count[Fate.SURVIVED]
    return {
        "mutants": len(tried) - count[Fate.NOT_HAD],
        "killed": count[Fate.KILLED],
        "survived": count[Fate.SURVIVED],
        "equivalent": count[Fate.EQUIVALENT],
        "needs": count[Fate.NOT_HAD],
        "score": count[Fate.KILLED] / able if able else None,
        "median": statistics.median(firsts) if firsts else None,
        "worst": max(firsts, default=None),
        "wrongly_named": sum(each.fate is Fate.KILLED and not each.is_named for each in tried),
    }
