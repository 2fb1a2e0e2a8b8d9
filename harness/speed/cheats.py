"""Ways to look fast without being fast, and how to detect them.

Each cheat has a name, and a candidate in tests/candidates/cheats.py that uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from .bench import Sample

_MUCH_FASTER = 0.6  # times the least time on fresh inputs; for inputs that were used before
_SLOWED = 1.5  # times the time of the rival in its own process
_NOTICED = 0.05  # times the time of a call
_SPINS = 2  # times their work after the rival, which varies that much from run to run
_LEAST = 0.5e-3  # seconds; a thread can take this long to end


@dataclass(frozen=True)
class Cheat:
    """A detected cheat: its name, and the observation."""

    name: str
    told: str


@dataclass
class Evidence:
    """All calls of one trial except the races of the self-test.

    Attributes:
        warm_up, timed: calls of the candidate, in order.
        again: calls on inputs of an earlier timed call; ``warmed_again`` are calls on inputs of a warm-up call.
        rival: calls of the rival beside the candidate.
        alone, alone_at_first: calls of the rival in a process without the candidate; ``alone_at_first`` has the same
            pause after each call as the warm-up.
    """

    warm_up: list[Sample] = field(default_factory=list)
    timed: list[Sample] = field(default_factory=list)
    again: list[Sample] = field(default_factory=list)
    warmed_again: list[Sample] = field(default_factory=list)
    rival: list[Sample] = field(default_factory=list)
    alone: list[Sample] = field(default_factory=list)
    alone_at_first: list[Sample] = field(default_factory=list)

    @property
    def of_candidate(self) -> list[Sample]:
        return [*self.warm_up, *self.timed, *self.again, *self.warmed_again]


def wrong_from_the_start(evidence: Evidence) -> str | None:
    """Describe how the candidate's first answer is wrong. Then it is not a cheat, but a wrong loss."""
    return evidence.warm_up[0].wrong if evidence.warm_up else None


def find_cheats(evidence: Evidence) -> list[Cheat]:
    """Return every cheat that the evidence shows."""
    found = (
        _answers(evidence),
        _memory(evidence),
        _clocks(evidence),
        _unfinished(evidence.warm_up, evidence.alone_at_first) or _unfinished(evidence.of_candidate, evidence.alone),
        _elsewhere(evidence.of_candidate),
        _side_stream(evidence.of_candidate),
        _rival_slowed(evidence),
    )
    return [cheat for cheat in found if cheat is not None]


def _answers(evidence: Evidence) -> Cheat | None:
    wrong = [sample for sample in evidence.of_candidate if sample.wrong is not None]
    stale = [sample for sample in wrong if sample.stale]
    if stale:
        return Cheat(
            "stale-answer",
            f"{len(stale)} of {len(evidence.of_candidate)} answers belong to an earlier call's inputs: something is "
            "cached by address or by shape",
        )
    if wrong and wrong_from_the_start(evidence) is None:
        first = wrong[0]
        return Cheat("wrong-when-timed", f"right at first, then wrong in {len(wrong)} timed calls: {first.wrong}")
    return None


def _memory(evidence: Evidence) -> Cheat | None:
    """Compare the fastest calls: disturbances only make a call slower."""
    usual = _fastest(evidence.timed)
    for name, samples, which in (
        ("remembers-inputs", evidence.again, "a call on inputs that were timed before"),
        ("remembers-warm-up", evidence.warmed_again, "a call on inputs of the warm-up"),
    ):
        if usual is not None and (again := _fastest(samples)) is not None and again < _MUCH_FASTER * usual:
            return Cheat(name, f"{which} takes {again * 1e3:.3g} ms, but {usual * 1e3:.3g} ms on fresh inputs")
    return None


def _clocks(evidence: Evidence) -> Cheat | None:
    samples = evidence.of_candidate
    patched = sorted({name for sample in samples for name in sample.patched})
    if patched:
        return Cheat("patched-clock", f"it replaced {', '.join(patched)}")
    known = [(sample.busy, sample.seen) for sample in samples if sample.seen is not None]
    if len(known) > 1:
        reported = known[-1][0] - known[0][0]
        counted = (known[-1][1] or 0.0) - (known[0][1] or 0.0)
        if abs(reported - counted) > 0.1 * max(reported, counted) + 0.1:
            return Cheat(
                "patched-clock", f"its process reports {reported:.2f} s of work, but the kernel counted {counted:.2f} s"
            )
    return None


def _unfinished(samples: Sequence[Sample], rival: Sequence[Sample]) -> Cheat | None:
    moved = sum(not sample.settled for sample in samples)
    if moved:
        return Cheat("unfinished", f"the gradient still changed after {moved} of {len(samples)} calls had returned")
    lazy = sorted({name for sample in samples for name in sample.lazy})
    if lazy:
        return Cheat("unfinished", f"it returned {', '.join(lazy)}, which may compute only when they are read")
    # Idle torch threads spin for some milliseconds, after the rival as after other calls.
    late, usual = (median([sample.others for sample in each]) if each else 0.0 for each in (samples, rival))
    if late > _SPINS * usual + max(_LEAST, _NOTICED * (_time(samples) or 0.0)):
        return Cheat(
            "unfinished",
            f"other threads worked {late * 1e3:.3g} ms in the median after a call had returned, but "
            f"{usual * 1e3:.3g} ms after a call of the rival",
        )
    return None


def _elsewhere(samples: Sequence[Sample]) -> Cheat | None:
    """On the CPU, a thread that waits has work done elsewhere. Processor time alone would not show that."""
    idle = [sample.idle for sample in samples if sample.idle is not None and sample.stream is None]
    cpu = [sample.cpu.both for sample in samples]
    if not idle:
        return None
    waits, works = median(idle), median(cpu)
    if waits > 0.5 * works + 1e-3:
        return Cheat(
            "works-elsewhere",
            f"a call waits {waits * 1e3:.3g} ms in the median and works {works * 1e3:.3g} ms: another process does its "
            "work, or it sleeps",
        )
    return None


def _side_stream(samples: Sequence[Sample]) -> Cheat | None:
    gone = [sample.wall.both - sample.stream.both for sample in samples if sample.stream is not None]
    whole = [sample.wall.both for sample in samples]
    if gone and median(gone) > 0.25 * median(whole) + 0.1e-3:
        return Cheat(
            "side-stream",
            f"the current stream ended {median(gone) * 1e3:.3g} ms before the device, in calls of "
            f"{median(whole) * 1e3:.3g} ms: work is left on another stream",
        )
    return None


def _rival_slowed(evidence: Evidence) -> Cheat | None:
    beside, alone = _fastest(evidence.rival), _fastest(evidence.alone)
    if beside is not None and alone is not None and beside > _SLOWED * alone + _LEAST:
        return Cheat(
            "slows-its-rival",
            f"the rival takes at least {beside * 1e3:.3g} ms beside the candidate, but {alone * 1e3:.3g} ms in its own "
            "process",
        )
    return None


def _fastest(samples: Sequence[Sample]) -> float | None:
    return min((sample.charged.both for sample in samples), default=None)


def _time(samples: Sequence[Sample]) -> float | None:
    return median([sample.charged.both for sample in samples]) if samples else None
