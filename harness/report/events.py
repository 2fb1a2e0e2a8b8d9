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


@dataclass(frozen=True)
class Reporters:
    """Several reporters as one."""

    members: tuple[Reporter, ...]

    def tell(self, event: Event) -> None:
        for member in self.members:
            member.tell(event)


def together(reporters: Iterable[Reporter]) -> Reporters:
    return Reporters(tuple(reporters))
