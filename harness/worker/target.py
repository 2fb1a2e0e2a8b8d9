"""The description of a loaded candidate, and the reasons why one could not be loaded."""

from __future__ import annotations

from collections.abc import Mapping
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
    "no pairs",
    "died",
    "timed out",
    "broken",
    "interpreter",
]

USAGE_REASONS = frozenset({"no such file", "no such module", "no such attribute", "not callable", "no signature"})
"""The reasons that are a mistake of the user in naming the candidate, and not a failure inside it."""

ABILITIES: Mapping[str, str] = {
    "autocast": "torch.autocast",
    "compile": "torch.compile",
    "inference_mode": "torch.inference_mode",
    "no_grad": "a mode in which no gradient is recorded",
    "backward": "a backward pass of its own",
    "layouts": "tensors that are not contiguous",
    "settings": "a report of what a call changes in its process",
    "branches": "a report of the branches that ran",
}
"""What a worker in another language may lack, in words."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One named parameter of a candidate. `*args` and `**kwargs` do not count."""

    name: str
    required: bool
    kind: ParameterKind
    """How it can be passed: only "positional", only "keyword", or "either"."""


@dataclass(frozen=True, slots=True)
class TargetDescription:
    """A loaded candidate."""

    target: str
    """The name that the user gave: `package.module:attribute` or `path/file.py:attribute`."""

    parameters: tuple[Parameter, ...]
    """In the order of the signature."""

    accepts_any_keyword: bool
    """Whether the signature has `**kwargs`."""

    file: str | None
    """The file that defines it, or None if that is unknown."""

    versions: dict[str, str]
    """The versions of "python", "torch", "platform", and of the candidate's own distribution if it has one."""

    documentation: str
    """The candidate's docstring, or that of a model's forward. Empty if there is none."""

    device_name: str
    """The product name of the processor or GPU on which it runs."""

    is_module: bool = False
    """Whether it is a torch.nn.Module, or a method of one."""

    lacks: frozenset[str] = frozenset()
    """Those of `ABILITIES` that its worker does not have."""


class LoadFailure(Exception):
    """A candidate could not be loaded.

    Attributes:
        reason: one of `LoadReason`.
        message: one sentence for the user who named the candidate, with the most similar known name if there is one.
        traceback: the candidate's own traceback, or the end of its stderr. Empty if there is none.
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
        """Whether the user made a mistake in naming the candidate."""
        return self.reason in USAGE_REASONS
