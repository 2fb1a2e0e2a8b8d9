"""What is known of a candidate once it is loaded, and why it could not be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ParameterKind = Literal["positional", "keyword", "either"]

LoadReason = Literal[
    "no such file",
    "no such module",
    "no such attribute",
    "not callable",
    "no signature",
    "import failed",
    "not built",
    "died",
    "timed out",
    "broken",
    "interpreter",
]

USAGE_REASONS = frozenset({"no such file", "no such module", "no such attribute", "not callable", "no signature"})
"""The reasons that are a mistake in how the candidate was named, as opposed to something that went wrong in it."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One named parameter of a candidate. `*args` and `**kwargs` are none."""

    name: str
    required: bool
    kind: ParameterKind
    """How it may be passed: "positional" only, "keyword" only, or "either"."""


@dataclass(frozen=True, slots=True)
class TargetDescription:
    """A loaded candidate."""

    target: str
    """As it was named: `package.module:attribute` or `path/file.py:attribute`."""

    parameters: tuple[Parameter, ...]
    """In the order of the signature."""

    accepts_any_keyword: bool
    """Whether the signature has `**kwargs`."""

    file: str | None
    """The file that defines it, where that is known."""

    versions: dict[str, str]
    """Of "python", "torch", "platform", and of the candidate's own distribution where it has one."""

    documentation: str
    """What the candidate says of itself: its docstring, or that of a model's forward; empty where it has none."""

    device_name: str
    """The processor or GPU it runs on, as the machine calls it."""


class LoadFailure(Exception):
    """A candidate could not be loaded.

    Attributes:
        reason: one of `LoadReason`.
        message: one sentence for whoever named the candidate, with the nearest right spelling where there is one.
        traceback: the candidate's own traceback or last words on stderr; empty where there are none.
    """

    def __init__(self, reason: LoadReason, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.reason: LoadReason = reason
        self.message = message
        self.traceback = traceback

    def __reduce__(self) -> tuple[type[LoadFailure], tuple[LoadReason, str, str]]:
        # An exception is pickled by its `args`, which here are not the arguments of __init__.
        return LoadFailure, (self.reason, self.message, self.traceback)

    @property
    def is_usage(self) -> bool:
        """Whether the mistake lies in how the candidate was named."""
        return self.reason in USAGE_REASONS
