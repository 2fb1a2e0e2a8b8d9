"""What is known about the branches of a candidate's own code: which of their ways ran while it was judged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

_NAMED = 3  # branches on the verdict line


@dataclass(frozen=True)
class Branch:
    """One branch: an ``if``, an ``and``, a conditional expression, or a loop.

    Attributes:
        file, line, column: where it is. Columns count bytes.
        function: the qualified name of the function that it is in.
        condition: the text of what it tests.
        ways: its two ways, as in "true" and "false".
        ran: for each way, whether it ran.
        only_raises: for each way, whether all that follows on it is an exception. Such a way need not run.
    """

    file: str
    line: int
    column: int
    function: str
    condition: str
    ways: tuple[str, str]
    ran: tuple[bool, bool]
    only_raises: tuple[bool, bool]

    @property
    def key(self) -> str:
        """The name of this branch in a declaration. It has no line number, so that an edit cannot excuse another."""
        return f"{self.function}({self.condition})"

    @property
    def asks_if_compiled(self) -> bool:
        """Whether it asks torch whether the code is being compiled."""
        return "compiling" in self.condition

    @property
    def never(self) -> str:
        """The way that never ran although the other did, or ""."""
        if not any(self.ran):
            return ""  # the branch that leads here is named
        missing = [way for index, way in enumerate(self.ways) if not self.ran[index] and not self.only_raises[index]]
        return missing[0] if missing else ""

    @property
    def place(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"

    def __str__(self) -> str:
        return f"{self.place} ({self.condition} never {self.never})"


@dataclass(frozen=True)
class Branches:
    """The branches of one candidate.

    Attributes:
        found: every branch of the functions that ran.
        unread: why its branches, or some of them, could not be read, or "".
        not_reached: conditions on sizes whose other side needs too much memory, in words.
        left_out: shapes that the user named and that were not judged, in words.
        sizes_unread: why the questions that it asks of sizes were not read, or not all of them, or "".
        regions: the number of sizes and ids at which its code takes another way, and at which it was judged.
        traces, trace_seconds: how many calls on symbolic sizes that took, and how long all of them took.
        allowed: keys of branches that are declared not to be judged.
        is_due: whether a way that never ran makes the judgement incomplete. If not, the verdict names it.
        is_named: whether the verdict names it at all. A model's code is too large for that.
    """

    found: tuple[Branch, ...] = ()
    unread: str = ""
    not_reached: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    sizes_unread: str = ""
    regions: int = 0
    traces: int = 0
    trace_seconds: float = 0.0
    allowed: tuple[str, ...] = ()
    is_due: bool = False
    is_named: bool = True

    @property
    def never(self) -> tuple[Branch, ...]:
        """The branches of which a way never ran, without those that are declared."""
        return tuple(branch for branch in self.found if branch.never and branch.key not in self.allowed)

    @property
    def both(self) -> int:
        """How many branches ran both ways, or need not."""
        return sum(any(branch.ran) and not branch.never for branch in self.found)

    @property
    def exceptions(self) -> tuple[str, ...]:
        """What the verdict does not cover, in words."""
        if not self.is_named:
            return self.left_out
        unread = (
            (f"its branches, which were not read: {self.unread}",) if self.unread and UNREAD not in self.allowed else ()
        )
        return (*unread, *map(str, self.never), *self.not_reached, *self.left_out)

    @property
    def in_short(self) -> str:
        """The exceptions on one line, or ""."""
        named = self.exceptions
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        return "; ".join(named[:_NAMED]) + more

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "exceptions": list(self.exceptions)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Branches:
        """Read Branches from the output of ``to_json``."""
        found = tuple(
            Branch(**{**each, **{name: tuple(each[name]) for name in ("ways", "ran", "only_raises")}})
            for each in data["found"]
        )
        given = {name: value for name, value in data.items() if name != "exceptions"}
        lists = {name: tuple(data[name]) for name in ("not_reached", "left_out", "allowed")}
        return cls(**{**given, **lists, "found": found})

    def with_those_of(self, other: Branches) -> Branches:
        """Add what ran in another process of the same run. What either could not judge stays said."""
        return replace(
            self,
            found=tuple(merged((*self.found, *other.found))),
            unread=self.unread or other.unread,
            not_reached=tuple(dict.fromkeys((*self.not_reached, *other.not_reached))),
            left_out=tuple(dict.fromkeys((*self.left_out, *other.left_out))),
            sizes_unread=self.sizes_unread or other.sizes_unread,
            regions=max(self.regions, other.regions),
            traces=self.traces + other.traces,
            trace_seconds=self.trace_seconds + other.trace_seconds,
            is_due=self.is_due or other.is_due,
        )


UNREAD = "not read"
"""The key that declares that a candidate's branches need not be read."""


def merged(branches: Iterable[Branch]) -> Iterable[Branch]:
    """Each branch once. A way ran if it ran in any of them."""
    found: dict[tuple[str, int, int, str], Branch] = {}
    for branch in branches:
        place = branch.file, branch.line, branch.column, branch.key
        known = found.get(place)
        ran = branch.ran if known is None else (known.ran[0] or branch.ran[0], known.ran[1] or branch.ran[1])
        found[place] = replace(branch, ran=ran)
    return found.values()
