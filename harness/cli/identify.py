"""``shiftproof identify``: what a loss computes, or which bug it has."""

from __future__ import annotations

import sys
from typing import Any

import rich_click as click

from ..candidates.declaration import Candidate
from .exit_code import CONFORMS, UNJUDGED
from .options import DEADLINE, IN_PROCESS, candidates_from, on_candidates


@click.command()
@click.argument("target")
@on_candidates
@IN_PROCESS
@DEADLINE
def identify(target: str, in_process: bool, deadline: float, **chosen: Any) -> int:
    """Show what a loss computes or which bug it has, with a picture."""
    (candidate,) = candidates_from([target], command="identify", **chosen)
    return say_identity(candidate, in_process, deadline)


def say_identity(candidate: Candidate, in_process: bool, deadline: float) -> int:
    """Print what a candidate computes, and return the exit code."""
    from ..diagnosis.identify import describe, identify
    from ..judge.loading import LoadedCandidate, Options, jobs_of
    from ..worker.target import LoadFailure

    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process, deadline))
    try:
        loaded.start()
        found = identify(loaded)
    except LoadFailure as failure:
        print(f"shiftproof: {failure}", file=sys.stderr)
        return UNJUDGED
    finally:
        loaded.close()
    print(describe(candidate.name, found))
    is_open = found.conforms and found.conforms[0] in found.not_judged
    is_known = found.conforms or found.wrong or found.broken
    return CONFORMS if is_known and not is_open else UNJUDGED
