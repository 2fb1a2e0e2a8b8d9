"""What a candidate's processes report of its branches, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..branches import Branch, Branches, merged

_MOST = 100_000  # branches; a process that reports more is not telling of a loss


class BranchRecord:
    """Collects reports. Those of a process that was restarted add to those of the one before.

    Attributes:
        constants: the whole numbers in the code that ran.
        is_closed: whether that code reads nothing but its arguments, constants, modules, functions and numbers.
    """

    def __init__(self) -> None:
        self._functions: dict[tuple[str, int], list[Branch]] = {}
        self._unread = ""
        self._generated: dict[str, None] = {}
        self.constants: set[int] = set()
        self.is_closed = True

    def add(self, report: Any) -> None:
        """Add the field "branches" of one answer.

        Raises:
            KeyError, TypeError, ValueError: it does not follow the protocol.
        """
        if not isinstance(report, Mapping):
            raise TypeError(f"branches are {type(report).__name__}; expected an object")
        self._unread = str(report.get("unread", self._unread))
        self._generated.update(dict.fromkeys(map(str, report.get("generated", ()))))
        for told in report.get("functions", ()):
            key = str(told["file"]), int(told["number"])
            if "branches" in told:
                self._functions.setdefault(
                    key, [_branch(key[0], str(told["function"]), each) for each in told["branches"]]
                )
                self.constants.update(map(int, told["constants"]))
                self.is_closed = self.is_closed and bool(told["closed"])
            known, seen = self._functions[key], [int(bits) for bits in told["seen"]]
            if len(known) != len(seen) or sum(map(len, self._functions.values())) > _MOST:
                raise ValueError(f"{len(seen)} branches of {told['function']}; expected {len(known)}")
            self._functions[key] = [_went(branch, bits) for branch, bits in zip(known, seen, strict=True)]

    @property
    def asks_if_compiled(self) -> bool:
        """Whether the code that ran asks torch whether it is being compiled."""
        return any(branch.asks_if_compiled for function in self._functions.values() for branch in function)

    def result(self) -> Branches:
        """What is known so far."""
        found = tuple(merged(branch for function in self._functions.values() for branch in function))
        return Branches(found, self._unread or self._not_read())

    def _not_read(self) -> str:
        if self._generated:
            return f"code that was made at run time stands in the place of {', '.join(self._generated)}"
        return "" if self._functions else "none of its own Python code ran"


def _branch(file: str, function: str, told: Any) -> Branch:
    line, column, condition, (first, second), (one, other) = told
    ways, raises = (str(first), str(second)), (bool(one), bool(other))
    return Branch(file, int(line), int(column), function, str(condition), ways, (False, False), raises)


def _went(branch: Branch, bits: int) -> Branch:
    first, second = branch.ran
    return replace(branch, ran=(first or bool(bits & 1), second or bool(bits & 2)))
