"""Mutants behind doors as data: which were killed, and which doors are named in place of that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class DoorOutcome(StrEnum):
    """The outcome of a mutant behind a door."""

    KILLED = "killed"
    NAMED = "named"  # no case opened the door, and the verdict names it
    SURVIVED = "survived"


class Shows(StrEnum):
    """What a wrong loss is wrong in."""

    ANYTHING = "anything"  # the value or the gradient, by more than rounding
    VALUE = "value"
    MUCH = "much"  # the value or the gradient, by more than the rounding of bf16


@dataclass(frozen=True)
class Door:
    """A condition under which a loss is wrong.

    Attributes:
        kind: what it asks about.
        condition: Python over the loss's arguments.
        shows: what a mutant must be wrong in, to be seen through this door.
        dtype: the dtype in which the loss is judged.
    """

    kind: str
    condition: str
    shows: Shows = Shows.ANYTHING
    dtype: str = "float32"


@dataclass(frozen=True)
class DoorResult:
    """One mutant behind one door.

    Attributes:
        mutant, detail: the name of the bug, and of the variant.
        law: the law that failed, or None.
        counterexample: the smallest recipe on which it fails.
        exceptions: what the verdict does not cover, in words.
    """

    spec: str
    mutant: str
    detail: str
    door: Door
    outcome: DoorOutcome
    law: str | None = None
    counterexample: dict[str, Any] | None = None
    exceptions: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "spec": self.spec,
            "mutant": self.mutant,
            "detail": self.detail,
            "door": self.door.kind,
            "condition": self.door.condition,
            "outcome": str(self.outcome),
            "law": self.law,
            "counterexample": self.counterexample,
            "exceptions": list(self.exceptions),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class DoorTable:
    """All pairs of one run."""

    version: str
    seed: int
    tried: tuple[DoorResult, ...]
    seconds: float

    def of(self, outcome: DoorOutcome) -> list[DoorResult]:
        return [each for each in self.tried if each.outcome is outcome]

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "shiftproof": self.version,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "summary": {str(outcome): len(self.of(outcome)) for outcome in DoorOutcome},
            "doors": [each.to_json() for each in self.tried],
        }
