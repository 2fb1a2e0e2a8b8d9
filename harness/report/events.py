"""The events of a run, in the order in which they happen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ..verdict import CandidateResult, LawResult


@dataclass(frozen=True)
class RunStarted:
    """``planned`` is about how many cases will be judged in all."""

    version: str
    seed: int
    profile: str
    candidates: tuple[str, ...]
    planned: int


@dataclass(frozen=True)
class CandidateStarted:
    candidate: str
    planned: int


@dataclass(frozen=True)
class CaseJudged:
    candidate: str


@dataclass(frozen=True)
class LawJudged:
    candidate: str
    result: LawResult
    planned: int


@dataclass(frozen=True)
class CandidateJudged:
    result: CandidateResult


@dataclass(frozen=True)
class RunFinished:
    """The last event: everything that was found."""

    version: str
    seed: int
    profile: str
    seconds: float
    results: tuple[CandidateResult, ...]


Event = RunStarted | CandidateStarted | CaseJudged | LawJudged | CandidateJudged | RunFinished


class Reporter(Protocol):
    """One format. It is told every event and may ignore most."""

    def tell(self, event: Event) -> None: ...


class Reporters:
    """Several reporters as one. One that cannot write is told no more, and costs neither the others nor the run.

    Attributes:
        failures: why reporters could not write, in the order in which it happened.
    """

    def __init__(self, members: Iterable[Reporter]) -> None:
        self._members = list(members)
        self.failures: list[OSError] = []

    def tell(self, event: Event) -> None:
        for member in list(self._members):
            try:
                member.tell(event)
            except OSError as failure:
                self._members.remove(member)
                self.failures.append(failure)
