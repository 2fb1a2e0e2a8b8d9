"""Judge candidates one after the other in this process, without pytest: what ``shiftproof.check`` does."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from ..candidates.declaration import UsageError
from ..judge.conclusion import conclude, stale
from ..judge.laws_of import laws_of
from ..judge.loading import Job, LoadedCandidate
from ..judge.plan import Plan
from ..judge.regions import Tracers
from ..results import CandidateResult, Verdict
from .open_candidate import OpenCandidate


@dataclass(frozen=True)
class Finished:
    """The results of a run, one for each job of its plan."""

    plan: Plan
    seconds: float
    results: tuple[CandidateResult, ...]


def run(plan: Plan, tick: Callable[[], None] = lambda: None) -> Finished:
    """Judge every job of a plan. ``tick`` is called after each case.

    Raises:
        UsageError: a candidate does not exist, or its arguments do not fit its spec.
    """
    started = time.perf_counter()
    tracers = Tracers()
    try:
        with one_thread():
            results = [_judge(job, plan, tracers, tick) for job in plan.jobs]
    finally:
        tracers.close()
    for index, job in enumerate(plan.jobs):
        own = [each for each, of in zip(results, plan.jobs, strict=True) if of.candidate.name == job.candidate.name]
        unmatched = tuple(str(each) for each in job.candidate.allowances if stale(each, own))
        results[index] = replace(results[index], stale=(*results[index].stale, *unmatched))
    return Finished(plan, round(time.perf_counter() - started, 3), tuple(results))


def _judge(job: Job, plan: Plan, tracers: Tracers, tick: Callable[[], None]) -> CandidateResult:
    loaded = LoadedCandidate(job, plan.options)
    try:
        loaded.start()
        _check_arguments(loaded)
        candidate = OpenCandidate(job, loaded, plan, tracers)
        laws = [*laws_of(job.spec).values()]
        found = {law.id: candidate.ask(law, tick) for law in laws} if candidate.trial is not None else {}
        facts = candidate.facts()
    finally:
        loaded.close()
    return conclude(facts, laws, found, lambda _: (Verdict.UNJUDGED, facts.message or "it was never asked"))


def _check_arguments(loaded: LoadedCandidate) -> None:
    """Refuse a candidate that is misnamed or does not fit its spec. Any other failure becomes its verdict."""
    try:
        loaded.trial()
    except UsageError:
        raise
    except Exception:
        return


_OBJECTS = 10_000  # made between two collections; with Python's 700, they are a tenth of a check's processor time


@contextmanager
def one_thread() -> Iterator[None]:
    """Small cases are faster with one thread, and if garbage is collected less often. The cores are shared."""
    threads, thresholds = torch.get_num_threads(), gc.get_threshold()
    torch.set_num_threads(1)
    if 0 < thresholds[0] < _OBJECTS:
        gc.set_threshold(_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        gc.set_threshold(*thresholds)
