"""A speed trial, from its self-test to its grade."""

from __future__ import annotations

import itertools
import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median

import torch

from ..candidates.declaration import Candidate
from ..worker.target import LoadFailure
from .baseline import Contender
from .bench import CANDIDATE, RIVAL, TWIN, Bench, NotMeasured, Terms
from .cheats import Evidence, find_cheats, wrong_from_the_start
from .decision import Outcome
from .growth import SIZES, Growth, fit_exponent
from .inputs import make_inputs
from .race import PASSES, Race, run_race
from .recheck import wrong_untimed
from .result import Gate, Grade, Memory, Times, Traffic, Trial, grade
from .shapes import has_heads, recipe_of, smaller

_WARM_UPS = 3
_LINGER = 0.1  # seconds after a warm-up call, in which nothing should still work
_SELF_TEST = 0.3  # fraction of the deadline
_AGAIN_AFTER = (1, 4, 8)  # numbers of pairs after which earlier inputs are used once more
_SIZED_CALLS = 3
_COPIED = (64 << 20, 1 << 30)  # least and most bytes; in between as many as the logits; fewer would fit into caches
_COPIES = 7
_SMALL = 8  # T is divided by this for the call before a weighed call


@dataclass(frozen=True)
class SpeedOptions:
    """The options of a trial.

    Attributes:
        deadline: seconds for the self-test and the race together.
        all: whether to measure bandwidth, growth and memory too, and not only times.
    """

    gate: Gate
    deadline: float = 20.0
    all: bool = True


def try_speed(
    candidate: Candidate,
    rival: Contender,
    terms: Terms,
    options: SpeedOptions,
    tell: Callable[[str], None] = lambda stage: None,
) -> Trial:
    """Run one trial. ``tell`` gets the name of each stage.

    Raises:
        UsageError: if the candidate, its rival, or the shape does not fit the spec.
    """
    started = time.monotonic()
    trial = Trial(
        candidate=candidate.name,
        spec=terms.spec.name,
        device=terms.device,
        dtype=terms.dtype,
        shape=str(terms.shape),
        against=rival.name,
        gate=options.gate,
        grade=Grade.ERROR,
        clock=terms.clock,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(terms.threads)  # the judge's own threads would run on the processors that are timed
    try:
        trial = _measure(trial, Contender(candidate.name, candidate=candidate), rival, terms, options, tell)
    except (NotMeasured, LoadFailure) as error:
        trial = replace(trial, problem=str(error))
    finally:
        torch.set_num_threads(threads)
    return replace(trial, seconds=time.monotonic() - started)


def _measure(
    trial: Trial,
    candidate: Contender,
    rival: Contender,
    terms: Terms,
    options: SpeedOptions,
    tell: Callable[[str], None],
) -> Trial:
    seeds = itertools.count(secrets.randbits(48))
    python = candidate.candidate.python if candidate.candidate is not None else None
    evidence = Evidence()
    with Bench(terms, python) as bench:
        tell("self-test")
        bench.seat(RIVAL, rival)
        bench.seat(TWIN, rival)
        for part in (RIVAL, TWIN) * 2:
            evidence.alone_at_first.append(bench.call(part, next(seeds), linger=_LINGER))
        untroubled = run_race(
            bench, (TWIN, RIVAL), seeds, lambda race: _differs(race, options.gate.part), _SELF_TEST * options.deadline
        )
        evidence.alone += [sample for pair in untroubled.pairs for sample in pair]
        trial = replace(trial, device_name=bench.device_name, self_test=untroubled.ratio(options.gate.part))

        tell("warm-up")
        bench.seat(CANDIDATE, candidate)
        evidence.warm_up += [bench.call(CANDIDATE, next(seeds), linger=_LINGER) for _ in range(_WARM_UPS)]
        if wrong := wrong_from_the_start(evidence):
            return _wrong(trial, candidate, terms, evidence, wrong)
        tell("race")
        race = _race(bench, seeds, evidence, options)
        times = tuple(_times(race, part) for part in PASSES)
        cheats = tuple((cheat.name, cheat.told) for cheat in find_cheats(evidence))
        trial = replace(trial, times=times, cheats=cheats)
        if options.all:
            tell("bandwidth")
            trial = replace(trial, traffic=_traffic(bench, terms))
            tell("scaling")
            trial = replace(trial, growth=tuple(_growths(bench, seeds)))
    if options.all:
        tell("memory")
        mine, theirs = (_weigh(each, terms, python, seeds) for each in (candidate, rival))
        trial = replace(trial, memory=Memory(mine, theirs, _logits_bytes(terms)))
    return replace(trial, grade=grade(trial))


def _wrong(trial: Trial, candidate: Contender, terms: Terms, evidence: Evidence, wrong: str) -> Trial:
    """Return the trial of a candidate that is wrong: its loss is wrong everywhere, or only on the bench."""
    cheats = [(cheat.name, cheat.told) for cheat in find_cheats(evidence)]
    assert candidate.candidate is not None
    if not cheats:
        small = replace(terms, shape=smaller(terms.shape, "T", _SMALL))
        if wrong_untimed(candidate.candidate, small, 0) is None:
            cheats = [("wrong-when-timed", f"right in an ordinary call, but on the bench {wrong}")]
    problem = "" if cheats else f"it is wrong: {wrong}; run `shiftproof check` to see why"
    return replace(trial, grade=Grade.FAILS, problem=problem, cheats=tuple(cheats))


def _race(bench: Bench, seeds: Iterator[int], evidence: Evidence, options: SpeedOptions) -> Race:
    """Race the candidate against its rival, with calls on known inputs in between."""

    def settled(race: Race) -> bool:
        bound = options.gate.max_slowdown
        return race.ratio(options.gate.part).against(1.0 if bound is None else bound) is not Outcome.INCONCLUSIVE

    def between(race: Race) -> None:
        if len(race.pairs) in _AGAIN_AFTER:
            evidence.again.append(bench.call(CANDIDATE, race.pairs[-1][0].seed))
            evidence.warmed_again.append(bench.call(CANDIDATE, evidence.warm_up[-1].seed))

    seconds = (1 - _SELF_TEST) * options.deadline
    race = run_race(bench, (CANDIDATE, RIVAL), seeds, settled, seconds, between=between)
    evidence.timed += [mine for mine, _ in race.pairs]
    evidence.rival += [theirs for _, theirs in race.pairs]
    return race


def _times(race: Race, part: str) -> Times:
    mine, theirs = race.median(0), race.median(1)
    return Times(part, getattr(mine, part), getattr(theirs, part), race.ratio(part))


def _differs(race: Race, part: str) -> bool:
    return race.ratio(part).outcome is not Outcome.INCONCLUSIVE


def _traffic(bench: Bench, terms: Terms) -> Traffic:
    logits, (least, most) = _logits_bytes(terms), _COPIED
    copied = min(max(logits, least), most) if terms.device == "cpu" else most
    seconds = median(bench.copy_seconds(copied // 4, _COPIES))
    return Traffic(needed=2 * logits, copied=2 * copied / seconds if seconds > 0 else math.nan)


def _logits_bytes(terms: Terms) -> int:
    inputs = make_inputs(terms.spec, recipe_of(terms.spec, terms.shape, terms.dtype, 0))
    itemsize = torch.empty(0, dtype=getattr(torch, terms.dtype)).element_size()
    return itemsize * sum(math.prod(shape) for shape in inputs.shapes.values())


def _growths(bench: Bench, seeds: Iterator[int]) -> Iterator[Growth]:
    spec, shape = bench.terms.spec, bench.terms.shape
    for axis in ("T", "V", *("K" for _ in range(has_heads(spec)))):
        shapes = list(dict.fromkeys(smaller(shape, axis, by) for by in SIZES))
        if axis == "K":
            shapes = [each for each in shapes if each.codebooks > 1]
        sizes = tuple({"T": each.length, "V": each.classes, "K": each.codebooks}[axis] for each in shapes)
        seconds: dict[str, list[float]] = {CANDIDATE: [], RIVAL: []}
        for each in shapes:
            for part, found in seconds.items():
                calls = [bench.call(part, next(seeds), shape=each) for _ in range(_SIZED_CALLS)]
                found.append(min(sample.charged.both for sample in calls))
        yield Growth(axis, sizes, fit_exponent(sizes, seconds[CANDIDATE]), fit_exponent(sizes, seconds[RIVAL]))


def _weigh(contender: Contender, terms: Terms, python: str | None, seeds: Iterator[int]) -> int | None:
    """Return the peak bytes of one call in its own process, after a small call that triggers lazy loading."""
    with Bench(terms, python, keeps_pages=False) as bench:
        bench.seat(CANDIDATE, contender)
        bench.call(CANDIDATE, next(seeds), shape=smaller(terms.shape, "T", _SMALL))
        return bench.call(CANDIDATE, next(seeds), weigh=True).peak
