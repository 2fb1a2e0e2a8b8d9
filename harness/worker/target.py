"""What is to be loaded, the description of what was, and the reasons why a candidate could not be loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

ParameterKind = Literal["positional", "keyword", "either"]

LoadReason = Literal[
    "no such file",
    "no such module",
    "no such attribute",
    "not callable",
    "no signature",
    "other code",
    "import failed",
    "not built",
    "no pairs",
    "died",
    "timed out",
    "broken",
    "interpreter",
]

USAGE_REASONS = frozenset(
    {"no such file", "no such module", "no such attribute", "not callable", "no signature", "other code"}
)
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
class Target:
    """What is to be loaded."""

    name: str
    """`package.module:attribute` or `path/file.py:attribute`. Of a Python object, only what reports call it."""

    init: Mapping[str, Any] | None = None
    """The arguments with which a class is instantiated, or a factory called. None: a class is, without arguments."""

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that every call gets, by name."""

    rename: Mapping[str, str] = field(default_factory=dict)
    """Our names of arguments -> the candidate's."""

    pickle: str | None = None
    """The file of a Python object, written by cloudpickle in a process of the same interpreter. None if named."""

    marks: Mapping[str, str] = field(default_factory=dict)
    """The `fingerprint.py` of that object where it was pickled."""

    path: tuple[str, ...] = ()
    """Folders that belong on `sys.path`, as where it was pickled."""

    object: Callable[..., Any] | None = None
    """The Python object itself, in the process that has it. Else None."""

    def message(self) -> dict[str, Any]:
        """The fields of the message "load" that say what to load, without those that say nothing."""
        fields: dict[str, Any] = {"target": self.name}
        fields |= {} if self.init is None else {"init": dict(self.init)}
        for name in ("kwargs", "rename", "marks"):
            fields |= {name: dict(getattr(self, name))} if getattr(self, name) else {}
        return fields | ({"pickle": self.pickle, "path": list(self.path)} if self.pickle else {})


def target_in(body: Mapping[str, Any]) -> Target:
    """Invert `Target.message`."""
    return Target(
        name=body["target"],
        init=body.get("init"),
        kwargs=body.get("kwargs", {}),
        rename=body.get("rename", {}),
        pickle=body.get("pickle"),
        marks=body.get("marks", {}),
        path=tuple(body.get("path", ())),
    )


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

    made: dict[str, str] = field(default_factory=dict)
    """Its own parameters that are made of the described ones -> what they are. See `call_shapes.py`."""

    stands_in: bool = False
    """Whether the worker gives it a model that returns the logits of the case."""

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
