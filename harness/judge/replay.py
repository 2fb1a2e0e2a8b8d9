"""Judge one stored case again."""

from __future__ import annotations

from dataclasses import dataclass

from ..candidates.declaration import UsageError
from ..results import Verdict
from ..suggest import nearest
from ..worker.target import LoadFailure
from .laws_of import laws_of
from .loading import Job, LoadedCandidate, Options, find_spec
from .store import Stored


@dataclass(frozen=True)
class Replayed:
    """The result: ``outcome`` is FIXED, FAILS or ERROR, and ``message`` is the law's message now."""

    outcome: str
    message: str


def replay(stored: Stored, options: Options) -> Replayed:
    """Ask the law of the stored case again, with the candidate as it is now.

    Raises:
        UsageError: the candidate, its spec or the law no longer exists.
    """
    spec = find_spec(stored.spec)
    laws = laws_of(spec)
    if stored.law not in laws:
        raise UsageError(f"no law is called {stored.law!r}{nearest(stored.law, laws)}; run check again")
    job = Job(stored.candidate.name, stored.candidate, stored.device, (stored.recipe.dtype,))
    loaded = LoadedCandidate(job, options)
    try:
        loaded.start()
        judgement = laws[stored.law].check(loaded.trial(spec), stored.recipe)
    except LoadFailure as failure:
        return Replayed("ERROR", str(failure))
    finally:
        loaded.close()
    if judgement.verdict is Verdict.TIMEOUT:
        return Replayed("ERROR", f"{judgement.message}; allow more time with --deadline")
    if judgement.verdict.is_failure:
        return Replayed("FAILS", judgement.message)
    if judgement.verdict is Verdict.PASS:
        return Replayed("FIXED", f"the case passes {stored.law} now")
    return Replayed("ERROR", judgement.message or "the case no longer proves anything")
