"""One stored case, asked again."""

from __future__ import annotations

from dataclasses import dataclass

from .candidate import UsageError
from .docket import Entry, Hearing, Options, find_spec
from .laws import laws_of
from .spelling import nearest
from .store import Stored
from .verdict import Verdict
from .worker.target import LoadFailure


@dataclass(frozen=True)
class Replayed:
    """``said`` is FIXED, FAILS or ERROR; ``message`` is what the law says now."""

    said: str
    message: str


def replay(stored: Stored, options: Options) -> Replayed:
    """Ask the law of the stored case again, of the candidate as it is now.

    Raises:
        UsageError: when the candidate, its spec or the law is no longer where it was.
    """
    spec = find_spec(stored.spec)
    laws = laws_of(spec)
    if stored.law not in laws:
        raise UsageError(f"no law is called {stored.law!r}{nearest(stored.law, laws)}; run check again")
    hearing = Hearing(Entry(stored.candidate.name, stored.candidate, stored.device, stored.recipe.dtype), options)
    try:
        hearing.start()
        judgement = laws[stored.law].check(hearing.trial(spec), stored.recipe)
    except LoadFailure as failure:
        return Replayed("ERROR", str(failure))
    finally:
        hearing.close()
    if judgement.verdict is Verdict.TIMEOUT:
        return Replayed("ERROR", f"{judgement.message}; allow more time with --deadline")
    if judgement.verdict.is_failure:
        return Replayed("FAILS", judgement.message)
    if judgement.verdict is Verdict.PASS:
        return Replayed("FIXED", f"the case passes {stored.law} now")
    return Replayed("ERROR", judgement.message or "the case proves nothing any more")
