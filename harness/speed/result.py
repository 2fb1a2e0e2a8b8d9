"""The result of a speed trial as data. It does not import torch, so that reports can read it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .decision import Interval, Outcome
from .growth import Growth


class Grade(StrEnum):
    """The result of a trial in one word."""

    PASSES = "passes"  # every question of the gate has the right answer; without a gate, the trial was measured
    FAILS = "fails"  # a question has the wrong answer, or the candidate is wrong or cheats
    INCONCLUSIVE = "inconclusive"  # a question has no answer
    ERROR = "error"  # it could not be measured


@dataclass(frozen=True)
class Gate:
    """The limits for a candidate: ratios of time and of peak memory, candidate over rival. None means no limit."""

    max_slowdown: float | None = None
    max_memory: float | None = None
    part: str = "both"

    @property
    def asks(self) -> bool:
        return self.max_slowdown is not None or self.max_memory is not None


@dataclass(frozen=True)
class Times:
    """Median seconds and the ratio for one of forward, backward and both."""

    part: str
    candidate: float
    rival: float
    ratio: Interval

    def to_json(self) -> dict[str, Any]:
        return {
            "part": self.part,
            "candidate": self.candidate,
            "rival": self.rival,
            **interval_json(self.ratio),
        }


@dataclass(frozen=True)
class Memory:
    """Peak bytes above the inputs; None if the system does not report them."""

    candidate: int | None
    rival: int | None
    logits: int

    @property
    def ratio(self) -> float | None:
        if self.candidate is None or self.rival is None:
            return None
        return self.candidate / self.rival if self.rival else math.inf


@dataclass(frozen=True)
class Traffic:
    """Bytes that must move (logits read once, their gradient written once), and bytes that a copy moves per second."""

    needed: int
    copied: float

    def share(self, seconds: float) -> float:
        """Return the fraction of the copying speed that a call of ``seconds`` reached on the needed bytes."""
        return self.needed / seconds / self.copied if seconds > 0 and self.copied > 0 else math.nan


@dataclass(frozen=True)
class Trial:
    """One candidate on one device, in one dtype and one shape.

    Attributes:
        problem: why nothing could be measured, or how the first answer is wrong; else "".
        clock: the clock by which calls were charged.
        self_test: the rival over itself.
        cheats: (name, observation).
    """

    candidate: str
    spec: str
    device: str
    dtype: str
    shape: str
    against: str
    gate: Gate
    grade: Grade
    problem: str = ""
    device_name: str = ""
    clock: str = ""
    times: tuple[Times, ...] = ()
    self_test: Interval | None = None
    memory: Memory | None = None
    traffic: Traffic | None = None
    growth: tuple[Growth, ...] = ()
    cheats: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0

    def of(self, part: str) -> Times | None:
        return next((each for each in self.times if each.part == part), None)

    def to_json(self) -> dict[str, Any]:
        gated = self.of(self.gate.part)
        return {
            "candidate": self.candidate,
            "spec": self.spec,
            "device": self.device,
            "device_name": self.device_name,
            "dtype": self.dtype,
            "shape": self.shape,
            "against": self.against,
            "grade": str(self.grade),
            "problem": self.problem,
            "outcome": None if gated is None else str(gated.ratio.outcome),
            "clock": self.clock,
            "gate": {
                "max_slowdown": self.gate.max_slowdown,
                "max_memory": self.gate.max_memory,
                "part": self.gate.part,
            },
            "self_test": None if self.self_test is None else interval_json(self.self_test),
            "times": [each.to_json() for each in self.times],
            "memory": None
            if self.memory is None
            else {
                "candidate": self.memory.candidate,
                "rival": self.memory.rival,
                "logits": self.memory.logits,
                "ratio": _finite(self.memory.ratio),
            },
            "bandwidth": None
            if self.traffic is None or gated is None
            else {
                "bytes": self.traffic.needed,
                "copied_per_second": _finite(self.traffic.copied),
                "candidate": _finite(self.traffic.share(gated.candidate)),
                "rival": _finite(self.traffic.share(gated.rival)),
            },
            "scaling": [
                {
                    "axis": each.axis,
                    "sizes": list(each.sizes),
                    "exponent": _finite(each.exponent),
                    "rival": _finite(each.rival),
                    "quadratic": each.is_quadratic,
                }
                for each in self.growth
            ],
            "cheats": [{"name": name, "told": told} for name, told in self.cheats],
            "seconds": round(self.seconds, 3),
        }


def grade(trial: Trial) -> Grade:
    """Return the grade of a measured trial. Inconclusive is not a pass.

    Without a gate, the trial passes if there is no cheat and the self-test shows no difference.
    """
    if trial.cheats or trial.problem:
        return Grade.FAILS
    gated = trial.of(trial.gate.part)
    if gated is None or not gated.ratio.pairs or trial.self_test is None:
        return Grade.INCONCLUSIVE
    if trial.self_test.outcome is not Outcome.INCONCLUSIVE:
        return Grade.INCONCLUSIVE
    answers = []
    if trial.gate.max_slowdown is not None:
        answers.append(gated.ratio.against(trial.gate.max_slowdown))
    if trial.gate.max_memory is not None:
        ratio = None if trial.memory is None else trial.memory.ratio
        if ratio is None:
            answers.append(Outcome.INCONCLUSIVE)
        else:
            answers.append(Outcome.SLOWER if ratio > trial.gate.max_memory else Outcome.FASTER)
    if Outcome.SLOWER in answers:
        return Grade.FAILS
    return Grade.INCONCLUSIVE if Outcome.INCONCLUSIVE in answers else Grade.PASSES


def overall(trials: Sequence[Trial]) -> Grade:
    """Return the worst grade, in the order fails, error, inconclusive, passes."""
    found = {trial.grade for trial in trials}
    worst = (Grade.FAILS, Grade.ERROR, Grade.INCONCLUSIVE, Grade.PASSES)
    return next((each for each in worst if each in found), Grade.ERROR)


def interval_json(found: Interval) -> dict[str, Any]:
    return {
        "ratio": _finite(found.ratio),
        "low": _finite(found.low),
        "high": _finite(found.high),
        "outcome": str(found.outcome),
        "pairs": found.pairs,
    }


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
