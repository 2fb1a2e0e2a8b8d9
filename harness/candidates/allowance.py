"""Exceptions that a user declares for a candidate: a law that is known to fail, or cases that it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..suggest import nearest

_KINDS = ("law", "refuses")


@dataclass(frozen=True)
class Allowance:
    """One declared exception, and the reason for it.

    Attributes:
        reason: shown in the report.
        law: the id of a law that may fail or stay unjudged.
        refuses: part of the message of the candidate's NotImplementedError. Cases refused with that message need not
            be judged.

    Raises:
        ValueError: the reason is missing, or not exactly one of ``law`` and ``refuses`` is given.
    """

    reason: str
    law: str = ""
    refuses: str = ""

    def __post_init__(self) -> None:
        if bool(self.law) == bool(self.refuses):
            raise ValueError("allow takes either law or refuses; write one entry for each")
        if not self.reason.strip():
            raise ValueError(f"allow {self.law or self.refuses!r} has no reason; give the reason for the exception")

    def __str__(self) -> str:
        what = self.law or f"refusals with the message {self.refuses!r}"
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
                raise ValueError(f"allow has no key {key!r}{nearest(key, _KINDS)}; it takes law, refuses, reason")
            if not isinstance(value, str):
                raise ValueError(f"allow.{key} is {value!r}; expected a string")
        found.append(Allowance(**{"reason": "", **entry}))
    return tuple(found)


def parse_allowance(text: str) -> dict[str, str]:
    """Parse an option of the command line, ``law=GRAD-5: reason`` or ``refuses=words: reason``, into a table.

    Raises:
        ValueError: the text has neither form.
    """
    what, _, reason = text.partition(": ")
    kind, sign, name = what.partition("=")
    if not sign or kind.strip() not in _KINDS or not name.strip():
        raise ValueError(f"{text!r} cannot be read; write 'law=GRAD-5: reason' or 'refuses=words of it: reason'")
    return {kind.strip(): name.strip(), "reason": reason.strip()}
