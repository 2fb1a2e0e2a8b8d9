"""One call of a candidate, and the ways it may end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from .protocol import Scalar

Layout = Literal["contiguous", "transposed", "strided", "offset", "expanded"]
LAYOUTS: tuple[str, ...] = ("contiguous", "transposed", "strided", "offset", "expanded")

GradMode = Literal["enabled", "no_grad", "inference"]
GRAD_MODES: tuple[str, ...] = ("enabled", "no_grad", "inference")

ValueKind = Literal["tensor", "number", "none"]
Phase = Literal["call", "backward"]
Side = Literal["candidate", "judge"]


@dataclass(frozen=True, slots=True)
class Training:
    """That the candidate is a trainer, and what is made of its tensors: a model that holds ``logits``, and the rows of
    all the others, and of ids for the model, cut into micro-batches."""

    model: str
    """The argument that is given the model."""

    micro_batches: str
    """The argument that is given the list of micro-batches."""

    parts: int
    """Into how many the rows of a window are cut, as torch.chunk does."""

    shift: int
    """The model's loss scores the logits at t on the label at t + shift."""

    ignore_index: int
    """The label that it ignores."""

    logits: str = "logits"
    """The tensor of which the model is made."""

    windows: int = 1
    """How often the trainer is called, each time with the same model and with micro-batches of its own: the rows are
    cut into so many windows first, as torch.chunk does."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One invocation of a candidate. Compared by identity, since tensors have no truth value.

    Raises:
        ValueError: a name, a layout or a mode that does not fit; said at once, here, and not in the other process.
    """

    tensors: Mapping[str, torch.Tensor]
    """Argument name -> CPU tensor, of any shape and dtype."""

    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    """Argument name -> plain number, string, bool, list of integers or None."""

    layouts: Mapping[str, str] = field(default_factory=dict)
    """Argument name -> how the tensor lies in memory (`arguments.py` has the four ways); "contiguous" where not named.
    A tensor with too few dimensions for its layout is handed over contiguous."""

    gradients: tuple[str, ...] = ()
    """The floating-point tensor arguments whose gradient is wanted."""

    upstream: float | torch.Tensor = 1.0
    """The incoming gradient: one number for every element of the output, or a tensor of as many elements."""

    grad_mode: str = "enabled"
    """"enabled", "no_grad" or "inference"; only the first has a backward."""

    backwards: int = 1
    """How many times to go backward from the value; what comes of it is added up, as autograd does."""

    outputs: tuple[str, ...] = ()
    """What is wanted of the result besides the loss, by name (`.logits`, or `["logits"]` of a mapping), each with the
    gradient of the loss at it."""

    watch: bool = False
    """Whether the candidate is a model that is watched while it is called, for what its loss is really made of; its
    `outputs` then have its logits."""

    nudge: float = 0.0
    """How far, other than 0, the parameters of a model that is watched are moved to see how its logits move."""

    training: Training | None = None
    """How the candidate is called if it is a trainer; its gradient is then the one that its optimizer used."""

    def __post_init__(self) -> None:
        both = sorted(set(self.tensors) & set(self.scalars))
        if both:
            raise ValueError(f"given both as a tensor and as a scalar: {', '.join(both)}")
        for name, tensor in self.tensors.items():
            if tensor.device.type != "cpu":
                raise ValueError(f"tensor {name!r} must be on the cpu, got {tensor.device}")
        for name, layout in self.layouts.items():
            if name not in self.tensors:
                raise ValueError(f"layout given for {name!r}, which is no tensor of this call")
            if layout not in LAYOUTS:
                raise ValueError(f"layout of {name!r} must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        for name in self.gradients:
            if name not in self.tensors:
                raise ValueError(f"gradient wanted for {name!r}, which is no tensor of this call")
            if not self.tensors[name].is_floating_point():
                raise ValueError(f"gradient wanted for {name!r}, whose dtype {self.tensors[name].dtype} has none")
        if self.backwards < 1:
            raise ValueError(f"backwards must be at least 1, got {self.backwards}")
        if self.grad_mode not in GRAD_MODES:
            raise ValueError(f"grad_mode must be one of {', '.join(GRAD_MODES)}, got {self.grad_mode!r}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: one of the classes below, and nothing else."""

    def describe(self) -> str:
        """What happened, as the end of a sentence that begins with the candidate."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What one call of a trainer did with the model. The tensors are on the CPU, in the shape of the logits of the
    whole case, those of other windows included."""

    value: torch.Tensor
    kind: ValueKind

    steps: int
    """How often an optimizer stepped that has the model's table."""

    others: int
    """How often one stepped that does not have it."""

    backwards: int
    """How often a backward added to the table's gradient."""

    late: int
    """How many of these came after the last step."""

    before: torch.Tensor
    """The table when the window began."""

    after: torch.Tensor
    """The table when the trainer returned."""

    gradient: torch.Tensor | None = None
    """The gradient at the table as an optimizer last stepped; where none stepped, as a backward last left it."""


@dataclass(frozen=True, slots=True, eq=False)
class Returned(Outcome):
    """The candidate gave a value, and a backward where one was asked for and possible."""

    value: torch.Tensor
    """On the CPU, any shape, the dtype it came in; a plain number as a float64 scalar."""

    kind: ValueKind
    """Whether it came as a "tensor", as a plain "number", or, from a trainer alone, not at all: "none", and NaN."""

    requires_grad: bool
    """Whether a backward could have started from the value."""

    gradients: dict[str, torch.Tensor | None]
    """Each argument of `Call.gradients` -> its gradient on the CPU in the argument's shape and dtype; None where the
    value does not depend on it, and everywhere if there was no backward."""

    mutated: tuple[str, ...]
    """The tensors, compared bit by bit, and the lists among the arguments that the candidate or its backward wrote
    to."""

    seconds: float
    """Wall time of call and backward in the candidate's process, the device synchronised, transport excluded."""

    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Each of `Call.outputs` on the CPU, in its own shape and dtype."""

    output_gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The gradient of the loss at each of them that it flows through."""

    watched: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Of a model that is watched: `logits`, the tensor in its graph that the returned logits are a copy of; `hidden`,
    `weight` and `bias`, of which they are the product; each where it was found, and `X_gradient` where a gradient came
    to X; at a weight that is not frozen, zeros where none came. Of one whose parameters are nudged: `nudged`, its
    logits at +1, −1, +½, −½ of that length along a direction, and `slope`, what its gradients say that the loss rises
    by along it."""

    windows: tuple[Window, ...] = ()
    """What a trainer did in each of its windows; value, kind and gradients are those of the last one."""

    def describe(self) -> str:
        shape = (
            "a number" if self.kind == "number" else f"a {self.value.dtype} tensor of shape {list(self.value.shape)}"
        )
        return f"returned {shape}"


@dataclass(frozen=True, slots=True)
class Unusable(Outcome):
    """The candidate returned something that is no loss, or a loss that the incoming gradient does not fit."""

    description: str
    """What came, and what was expected."""

    def describe(self) -> str:
        return self.description


@dataclass(frozen=True, slots=True)
class Raised(Outcome):
    """The candidate, or its backward, raised an exception."""

    type: str
    """The exception's class, without its module."""

    message: str
    traceback: str
    """The candidate's own frames only."""

    during: Phase

    def describe(self) -> str:
        first = self.message.strip().partition("\n")[0]
        where = "" if self.during == "call" else " in its backward"
        return f"raised {self.type}{where}" + (f": {first}" if first else "")


@dataclass(frozen=True, slots=True)
class Died(Outcome):
    """The candidate's process ended."""

    exit_code: int | None
    """None if it was killed by a signal."""

    signal: str | None
    """Such as "SIGSEGV"; None if it exited."""

    stderr: str
    """The last of what it wrote to stdout and stderr, 64 KiB at most."""

    def describe(self) -> str:
        return f"was killed by {self.signal}" if self.signal is not None else f"exited with code {self.exit_code}"


@dataclass(frozen=True, slots=True)
class NotAnswered(Outcome):
    """The candidate could not be asked, or its answer could not be had. Of its loss nothing is known."""

    side: Side
    """Whose process failed: the one that the candidate runs in and may have spoilt, or the judge's own."""

    message: str
    """What failed there."""

    def describe(self) -> str:
        where = "its own process" if self.side == "candidate" else "the judge's process"
        return f"could not be judged, since {where} failed: {self.message}"


@dataclass(frozen=True, slots=True)
class TimedOut(Outcome):
    """The call was still running at its deadline, and was killed."""

    seconds: float

    def describe(self) -> str:
        return f"did not finish within {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class OutOfMemory(Outcome):
    """The candidate wanted more memory than it may have."""

    limit: int
    """Bytes: what it was allowed, or all that the GPU has; 0 where the limit was the machine's own."""

    message: str

    def describe(self) -> str:
        allowed = f" (limit {self.limit / 2**20:,.0f} MiB)" if self.limit else ""
        return f"ran out of memory{allowed}"
