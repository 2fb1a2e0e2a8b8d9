"""Ways to look fast without being so, by what gives them away. Each has a name, and a candidate that does it in
tests/candidates/cheats.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from .bench import Sample

_MUCH_FASTER = 0.6  # of the least time that fresh inputs took, for inputs that were seen before
_SLOWED = 1.5  # times what the rival takes in a process of its own
_NOTICED = 0.05  # of a call's time
_SPINS = 2  # times what they do after the rival, which is as much again from one run to the next
_LEAST = 0.5e-3  # seconds; less is what a thread takes to end


@dataclass(frozen=True)
class Cheat:
    """One that was found: its name, and what was seen."""

    name: str
    told: str


@dataclass
class Evidence:
    """All calls of one trial but the races of the self-test.

    Attributes:
        warm_up, timed: of the candidate, in order.
        again: calls on inputs of an earlier timed call, and ``warmed_again`` on those of a warm-up call.
        rival: the rival's, beside the candidate.
        alone, alone_at_first: the rival's in a process that never saw the candidate; at first with the pause after each
            call that there is in the warm-up.
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
    """How the candidate's first answer differs from the right one: then it is no cheat, but a wrong loss."""
    return evidence.warm_up[0].wrong if evidence.warm_up else None


def find_cheats(evidence: Evidence) -> list[Cheat]:
    """Every cheat that the evidence shows."""
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
            f"{len(stale)} of {len(evidence.of_candidate)} answers are those to an earlier call's inputs: something is "
            "cached by address or by shape",
        )
    if wrong and wrong_from_the_start(evidence) is None:
        first = wrong[0]
        return Cheat("wrong-when-timed", f"right at first, then wrong in {len(wrong)} timed calls: {first.wrong}")
    return None


def _memory(evidence: Evidence) -> Cheat | None:
    """By the fastest calls: what disturbs one can only make it slower."""
    usual = _fastest(evidence.timed)
    for name, samples, which in (
        ("remembers-inputs", evidence.again, "a call on inputs that were timed before"),
        ("remembers-warm-up", evidence.warmed_again, "a call on inputs of the warm-up"),
    ):
        if usual is not None and (again := _fastest(samples)) is not None and again < _MUCH_FASTER * usual:
            return Cheat(name, f"{which} takes {again * 1e3:.3g} ms, on fresh ones {usual * 1e3:.3g} ms")
    return None


def _clocks(evidence: Evidence) -> Cheat | None:
    samples = evidence.of_candidate
    patched = sorted({name for sample in samples for name in sample.patched})
    if patched:
        return Cheat("patched-clock", f"it replaced {', '.join(patched)}")
    known = [(sample.busy, sample.seen) for sample in samples if sample.seen is not None]
    if len(known) > 1:
        said = known[-1][0] - known[0][0]
        seen = (known[-1][1] or 0.0) - (known[0][1] or 0.0)
        if abs(said - seen) > 0.1 * max(said, seen) + 0.1:
            return Cheat(
                "patched-clock", f"its process says it worked {said:.2f} s, and the kernel counted {seen:.2f} s"
            )
    return None


def _unfinished(samples: Sequence[Sample], rival: Sequence[Sample]) -> Cheat | None:
    moved = sum(not sample.settled for sample in samples)
    if moved:
        return Cheat("unfinished", f"the gradient still changed after {moved} of {len(samples)} calls had returned")
    lazy = sorted({name for sample in samples for name in sample.lazy})
    if lazy:
        return Cheat("unfinished", f"it returned {', '.join(lazy)}, which may compute when they are read")
    # Threads of torch that have nothing to do spin for some milliseconds, after the rival as after others.
    late, usual = (median([sample.others for sample in each]) if each else 0.0 for each in (samples, rival))
    if late > _SPINS * usual + max(_LEAST, _NOTICED * (_time(samples) or 0.0)):
        return Cheat(
            "unfinished",
            f"other threads worked {late * 1e3:.3g} ms in the median after a call had returned, after one of the rival "
            f"{usual * 1e3:.3g} ms",
        )
    return None


def _elsewhere(samples: Sequence[Sample]) -> Cheat | None:
    """On the CPU a thread that waits, waits for somebody; processor time alone would not show it."""
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
            f"the current stream was done {median(gone) * 1e3:.3g} ms before the device, in calls of "
            f"{median(whole) * 1e3:.3g} ms: work is left on another stream",
        )
    return None


def _rival_slowed(evidence: Evidence) -> Cheat | None:
    beside, alone = _fastest(evidence.rival), _fastest(evidence.alone)
    if beside is not None and alone is not None and beside > _SLOWED * alone + _LEAST:
        return Cheat(
            "slows-its-rival",
            f"the rival takes {beside * 1e3:.3g} ms at least beside it, and {alone * 1e3:.3g} ms in a process of its "
            "own",
        )
    return None


def _fastest(samples: Sequence[Sample]) -> float | None:
    return min((sample.charged.both for sample in samples), default=None)


def _time(samples: Sequence[Sample]) -> float | None:
    return median([sample.charged.both for sample in samples]) if samples else None
