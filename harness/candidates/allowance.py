"""Exceptions that a user declares for a candidate.

They are a law that is known to fail, cases that it refuses, or a branch of its code that need not be judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..branches import UNREAD
from ..suggest import nearest

_KINDS = ("law", "refuses", "branch")


@dataclass(frozen=True)
class Allowance:
    """One declared exception, and the reason for it.

    Attributes:
        reason: shown in the report.
        law: the id of a law that may fail or stay unjudged.
        refuses: part of the message of the candidate's NotImplementedError. Cases refused with that message need not
            be judged.
        branch: a branch of which one way never runs, as ``function(condition)``, or "not read".

    Raises:
        ValueError: the reason is missing, or not exactly one of the others is given.
    """

    reason: str
    law: str = ""
    refuses: str = ""
    branch: str = ""

    def __post_init__(self) -> None:
        given = [value for value in (self.law, self.refuses, self.branch) if value]
        if len(given) != 1:
            raise ValueError("allow takes one of law, refuses and branch; write one entry for each")
        if not self.reason.strip():
            raise ValueError(f"allow {given[0]!r} has no reason; give the reason for the exception")
        if self.branch and self.branch != UNREAD and not ("(" in self.branch and self.branch.endswith(")")):
            raise ValueError(f"allow.branch is {self.branch!r}; expected function(condition), or {UNREAD!r}")

    def __str__(self) -> str:
        what = f"refusals with the message {self.refuses!r}" if self.refuses else ""
        what = what or self.law or f"the branch {self.branch}"
        return f"{what} ({self.reason})"


def read_allowances(entries: Iterable[Any]) -> tuple[Allowance, ...]:
    """Read tables such as ``{ law = "GRAD-5", reason = "called once a step" }``.

    Raises:
        ValueError: an entry is not such a table.
    """
    found = []
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise ValueError(f'allow holds {entry!r}; expected tables such as {{ law = "GRAD-5", reason = "…" }}')
        for key, value in entry.items():
            if key not in (*_KINDS, "reason"):
                raise ValueError(
                    f"allow has no key {key!r}{nearest(key, _KINDS)}; it takes {', '.join((*_KINDS, 'reason'))}"
                )
            if not isinstance(value, str):
                raise ValueError(f"allow.{key} is {value!r}; expected a string")
        found.append(Allowance(**{"reason": "", **entry}))
    return tuple(found)


def parse_allowance(text: str) -> dict[str, str]:
    """Parse an option of the command line into a table.

    Its forms are ``law=GRAD-5: reason``, ``refuses=words: reason`` and ``branch=function(condition): reason``.

    Raises:
        ValueError: the text has none of these forms.
    """
    kind, sign, rest = text.partition("=")
    end = "): " if kind.strip() == "branch" and "): " in rest else ": "  # a condition may have a colon in it
    name, _, reason = rest.partition(end)
    name += end[:-2]
    if not sign or kind.strip() not in _KINDS or not name.strip():
        raise ValueError(
            f"{text!r} cannot be read; write 'law=GRAD-5: reason', 'refuses=words of it: reason' or "
            "'branch=function(condition): reason'"
        )
    return {kind.strip(): name.strip(), "reason": reason.strip()}
