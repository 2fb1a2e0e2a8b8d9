"""``shiftproof.replay``: ask a stored case again."""

from __future__ import annotations

from ..candidates.given import give
from ..judge.loading import Options
from ..judge.replay import Replayed
from ..judge.replay import replay as ask_again
from ..judge.store import load
from .candidates import Target


def replay(id: str, target: Target | None = None, *, deadline: float = 10.0, in_process: bool = False) -> Replayed:
    """Ask a stored case again, with the candidate as it is now.

    Args:
        id: the id below a counterexample, or ``result.counterexample.replay``. The case is read from ``.shiftproof/``
            in the working directory.
        target: the object as it is now, if the case was found in a Python object; None for a target with a name.

    Returns:
        ``outcome`` is FIXED, FAILS or ERROR, and ``message`` says what the law finds now.

    Raises:
        UsageError: there is no such case, or its candidate no longer exists.
    """
    given = None if target is None or isinstance(target, str) else give(target, stays=in_process)
    return ask_again(load(id, given=given), Options(in_process, deadline))
