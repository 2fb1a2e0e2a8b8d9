"""``shiftproof.identify``: what a loss computes, or which bug it has."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Unpack

from ..diagnosis.identify import Identity, describe
from ..diagnosis.identify import identify as read
from ..judge.loading import LoadedCandidate, Options, jobs_of
from .candidates import Chosen, Target, candidate_for


@dataclass(frozen=True)
class Identified:
    """What a loss computes. Its text is the report.

    Attributes:
        name: the target's name.
        found: ``conforms`` (the profiles that it follows), ``wrong`` (profiles with the name of a bug), ``shown``, ….
    """

    name: str
    found: Identity

    def __str__(self) -> str:
        return describe(self.name, self.found)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def identify(
    target: Target, *, deadline: float = 10.0, in_process: bool = False, **chosen: Unpack[Chosen]
) -> Identified:
    """Read which label each logit is scored on, and name the profile that a loss follows, or its bug.

    Takes the arguments of :func:`check` but ``spec``, ``profile`` and ``seed``.

    Raises:
        UsageError: the target or an option cannot be used.
        LoadFailure: it could not be loaded.
    """
    candidate = candidate_for(target, None, chosen, in_process=in_process)
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process, deadline))
    try:
        loaded.start()
        return Identified(candidate.name, read(loaded))
    finally:
        loaded.close()
