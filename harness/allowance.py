"""What a user declares that a candidate need not do: a law that is known to fail, or cases that it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .spelling import nearest

_KINDS = ("law", "refuses")


@dataclass(frozen=True)
class Allowance:
    """One thing that is declared away, and why.

    Attributes:
        reason: told in the report.
        law: the id of a law that may fail or be left unjudged.
        refuses: part of what the candidate's NotImplementedError says; such cases need not be judged.

    Raises:
        ValueError: without a reason, or with anything but one of law and refuses.
    """

    reason: str
    law: str = ""
    refuses: str = ""

    def __post_init__(self) -> None:
        if bool(self.law) == bool(self.refuses):
            raise ValueError("allow takes either law or refuses; write one entry for each")
        if not self.reason.strip():
            raise ValueError(f"allow {self.law or self.refuses!r} has no reason; say why it need not hold")

    def __str__(self) -> str:
        what = self.law or f"refusals that say {self.refuses!r}"
        return f"{what} ({self.reason})"


def read_allowances(entries: Iterable[Any]) -> tuple[Allowance, ...]:
    """Read tables such as ``{ law = "GRAD-5", reason = "called once a step" }``.

    Raises:
        ValueError: for what is no such table.
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
    """The table of ``law=GRAD-5: reason`` or ``refuses=words: reason``, as the command line has it.

    Raises:
        ValueError: for anything else.
    """
    what, _, reason = text.partition(": ")
    kind, sign, name = what.partition("=")
    if not sign or kind.strip() not in _KINDS or not name.strip():
        raise ValueError(f"{text!r} cannot be read; write 'law=GRAD-5: reason' or 'refuses=words of it: reason'")
    return {kind.strip(): name.strip(), "reason": reason.strip()}
