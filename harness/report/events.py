"""The events of a run, in the order in which they happen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ..results import CandidateResult, LawResult


@dataclass(frozen=True)
class Entry:
    """One candidate of the plan, before anything is known of it."""

    candidate: str
    spec: str | None
    device: str
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class RunStarted:
    """``planned`` is the approximate total number of cases to judge."""

    version: str
    seed: int
    profile: str
    candidates: tuple[Entry, ...]
    planned: int


@dataclass(frozen=True)
class CandidateStarted:
    candidate: str
    planned: int


@dataclass(frozen=True)
class LawStarted:
    candidate: str
    law: str


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
    """The last event, with all findings."""

    version: str
    seed: int
    profile: str
    seconds: float
    results: tuple[CandidateResult, ...]


Event = RunStarted | CandidateStarted | LawStarted | CaseJudged | LawJudged | CandidateJudged | RunFinished


class Reporter(Protocol):
    """One report format. It gets every event, and may ignore most of them."""

    def tell(self, event: Event) -> None: ...


class Reporters:
    """Several reporters as one. A reporter that cannot write gets no more events; the others and the run go on.

    Attributes:
        failures: why reporters could not write, in order of time.
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
