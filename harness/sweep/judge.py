"""What a sweep asks of one class of a library, and the row that comes of it."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from ..candidate import Candidate, UsageError
from ..docket import Hearing, Options, enter
from ..judge import PROFILES
from ..verdict import Overall, Verdict
from ..worker.client import Worker
from ..worker.settings import WorkerSettings
from ..worker.target import LoadFailure
from .reading import CAUSAL, Reading, read_model
from .row import Documentation, Outcome, Row, not_judged
from .settings import Settings

_CALL_DEADLINE = 20.0  # seconds

_workers: dict[Settings, Worker] = {}
"""One a process of the sweep: it has the library imported, and is turned to one class after the other."""


def judge(target: str, settings: Settings) -> Row:
    """The row of the class that ``target`` names: built tiny, read, and judged under the spec that it is found to
    follow."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    name = target.rpartition(":")[2]
    candidate = Candidate(name, target, CAUSAL, (settings.dtype,), (settings.device,), python=settings.python)
    hearing = Hearing(enter([candidate])[0], Options(deadline=_CALL_DEADLINE), _worker(target, settings))
    row = Row(target, Outcome.NOT_JUDGED, "no answer came", seed=settings.seed)
    try:
        found = read_model(hearing, settings.seed, PROFILES[settings.profile])
        row = _row(row, found, hearing.describe().documentation)
        row = replace(row, environment=dict(hearing.environment()))
    except LoadFailure as failure:
        outcome = Outcome.NOT_BUILT if failure.reason == "not built" else Outcome.NOT_JUDGED
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
    """``row`` with what was found."""
    if found.verdict not in (Overall.CONFORMS, Overall.FAILS):
        undecided = (
            [found.doubt]
            if found.doubt
            else [f"{law.id} {law.verdict}: {law.message}" for law in found.laws if law.verdict is not Verdict.PASS]
        )
        return not_judged(row.target, next(iter(undecided), "no law had anything to ask"), seed=row.seed)
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
