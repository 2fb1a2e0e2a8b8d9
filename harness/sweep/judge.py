"""The judge of one class of a library, and the row that it returns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import torch

from ..candidates.declaration import Candidate, UsageError
from ..isolation.client import Worker
from ..isolation.settings import WorkerSettings
from ..judge.loading import LoadedCandidate, Options, jobs_of
from ..judge.profile import PROFILES
from ..results import Overall, Verdict
from ..worker.target import LoadFailure
from .read_model import CAUSAL, Reading, read_model
from .result import Documentation, Outcome, Row, not_judged
from .settings import Settings

_CALL_DEADLINE = 20.0  # seconds

_OF_A_FAILURE: Mapping[str, Outcome] = {"not built": Outcome.NOT_BUILT, "no pairs": Outcome.NO_PAIRS}

_workers: dict[Settings, Worker] = {}
"""One worker per process of the sweep. It has the library imported, and gets one class after the other."""


def judge(target: str, settings: Settings) -> Row:
    """Return the row of the class ``target``: it is built tiny, read, and judged under the spec that it follows."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    name = target.rpartition(":")[2]
    candidate = Candidate(name, target, CAUSAL, (settings.dtype,), (settings.device,), python=settings.python)
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(deadline=_CALL_DEADLINE), _worker(target, settings))
    row = Row(target, Outcome.NOT_JUDGED, "no answer came", seed=settings.seed)
    try:
        found = read_model(loaded, settings.seed, PROFILES[settings.profile])
        row = _row(row, found, loaded.describe().documentation)
        row = replace(row, environment=dict(loaded.environment()))
    except LoadFailure as failure:
        outcome = _OF_A_FAILURE.get(failure.reason, Outcome.NOT_JUDGED)
        row = replace(row, outcome=outcome, reason=_line(failure.message))
    except UsageError as error:
        row = replace(row, reason=_line(str(error)))
    return replace(row, seconds=round(time.perf_counter() - started, 3))


def _worker(target: str, settings: Settings) -> Worker:
    if settings not in _workers:
        _workers[settings] = Worker(
            target,
            WorkerSettings(python=settings.python, device=settings.device, call_deadline=_CALL_DEADLINE),
        )
    return _workers[settings]


def _row(row: Row, found: Reading, documentation: str) -> Row:
    """Return ``row`` with the findings."""
    if found.no_pairs:
        return replace(row, outcome=Outcome.NO_PAIRS, reason=_line(found.no_pairs))
    if found.verdict not in (Overall.CONFORMS, Overall.FAILS):
        undecided = (
            [found.doubt]
            if found.doubt
            else [f"{law.id} {law.verdict}: {law.message}" for law in found.laws if law.verdict is not Verdict.PASS]
        )
        return not_judged(row.target, next(iter(undecided), "no law had a case to judge"), seed=row.seed)
    failed = found.failed
    reasons = [f"{failed[0].id}: {failed[0].message}"] if failed else []
    outcome, kept, sentence = Outcome(str(found.verdict)), Documentation.SILENT, ""
    if found.unshifted:
        outcome = Outcome.UNSHIFTED
        kept = Documentation.AGAINST if found.promise else Documentation.BY if documentation else Documentation.SILENT
        sentence = found.promise or _line(documentation)
        reasons.insert(0, f"each logit is scored on the label beside it{'' if found.causal else ', which it has seen'}")
    return replace(
        row,
        outcome=outcome,
        reason=_line("; ".join(reasons)),
        laws=tuple(law.id for law in failed),
        diagnosis=tuple(bug.mutant for bug in found.bugs),
        alignment=found.alignment,
        documentation=kept,
        sentence=sentence,
        prefix=found.extra,
        counterexample=failed[0].counterexample if failed else None,
    )


def _line(text: str) -> str:
    return " ".join(text.split())
