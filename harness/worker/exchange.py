"""One call of a candidate, and its possible outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch

from .protocol import Scalar

LAYOUTS: tuple[str, ...] = (
    "contiguous",
    "transposed",
    "strided",
    "offset",
    "expanded",
    "sliced",
    "sequence_first",
)
GRAD_MODES: tuple[str, ...] = ("enabled", "no_grad", "inference")
OTHER_AFTER, OTHER_AFTER_LAST_BACKWARD, OTHER_BEFORE = "after", "after, backward last", "before"
ORDERS: tuple[str, ...] = (OTHER_AFTER, OTHER_AFTER_LAST_BACKWARD, OTHER_BEFORE)
"""Where another call runs. "after": after this one; this one goes backward first. "after, backward last": after this
one, which goes backward last. "before": before this one, which goes backward first."""

AUTOCASTS: tuple[str, ...] = ("", "bfloat16", "float16")

ValueKind = Literal["tensor", "number", "none"]
Phase = Literal["call", "backward"]
Side = Literal["candidate", "judge"]


@dataclass(frozen=True, slots=True)
class Training:
    """How to call a trainer. The worker makes a model that holds ``logits``, and input ids for it. It cuts the rows of
    the ids and of all other tensors into micro-batches."""

    model: str
    """The name of the argument for the model."""

    micro_batches: str
    """The name of the argument for the list of micro-batches."""

    parts: int
    """The number of micro-batches that torch.chunk cuts the rows of a window into."""

    shift: int
    """The model's loss scores the logits at t on the label at t + shift."""

    ignore_index: int
    """The label that the model's loss ignores."""

    logits: str = "logits"
    """The tensor from which the model is made."""

    windows: int = 1
    """The number of calls of the trainer, each with the same model and with other micro-batches. First, torch.chunk
    cuts the rows into so many windows."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a candidate. Compared by identity, because the comparison of tensors has no truth value.

    Raises:
        ValueError: a name, a layout or a mode does not fit. Raised here, and not later in the other process.
    """

    tensors: Mapping[str, torch.Tensor]
    """Argument name -> CPU tensor, of any shape and dtype."""

    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    """Argument name -> plain number, string, bool, list of integers or None."""

    layouts: Mapping[str, str] = field(default_factory=dict)
    """Argument name -> memory layout (see `lay_out` in `arguments.py`). The default is "contiguous". A tensor with too
    few dimensions for its layout is passed contiguous."""

    gradients: tuple[str, ...] = ()
    """The floating-point tensor arguments whose gradient is wanted."""

    grad_output: float | torch.Tensor = 1.0
    """The incoming gradient: one number for every element of the output, or a tensor with as many elements."""

    grad_mode: str = "enabled"
    """"enabled", "no_grad" or "inference". Only the first has a backward."""

    n_backward: int = 1
    """How many times to run backward from the value. The gradients add up, as in autograd."""

    autocast: str = ""
    """The dtype of `torch.autocast` around the call, without its backward, or "" for none."""

    backend: str = ""
    """The backend of `torch.compile`, or "" to call the candidate as it is."""

    train_mode: bool | None = None
    """Whether a module is in train mode. None: as it is."""

    model_dtype: str = ""
    """The dtype that a copy of a module is cast to and called in, or "" for the module as it is."""

    other: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The tensors of another call that runs before the backward of this one. If empty, there is none. Its scalars are
    those of this call."""

    order: str = OTHER_AFTER
    """The order of both calls and both backward passes: one of ORDERS."""

    outputs: tuple[str, ...] = ()
    """The parts of the result that are wanted besides the loss, by name (`.logits`, or `["logits"]` of a mapping), each
    with the gradient of the loss at it."""

    outputs_apart: bool = False
    """Whether the outputs come from a further call in eval mode, without their gradients: in train mode, some models
    return only a loss."""

    watch: bool = False
    """Whether to watch the candidate, a model, to find the tensors from which its loss is computed. Then `outputs` must
    have its logits, or be apart."""

    nudge: float = 0.0
    """If not 0, how far to move the parameters of a watched model to see how its logits move."""

    training: Training | None = None
    """How to call the candidate if it is a trainer. Then its gradient is the one that its optimizer used."""

    def __post_init__(self) -> None:
        both = sorted(set(self.tensors) & set(self.scalars))
        if both:
            raise ValueError(f"given both as a tensor and as a scalar: {', '.join(both)}")
        for name, tensor in self.tensors.items():
            if tensor.device.type != "cpu":
                raise ValueError(f"tensor {name!r} must be on the cpu, got {tensor.device}")
        for name, layout in self.layouts.items():
            if name not in self.tensors:
                raise ValueError(f"layout given for {name!r}, which is not a tensor of this call")
            if layout not in LAYOUTS:
                raise ValueError(f"layout of {name!r} must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        for name in self.gradients:
            if name not in self.tensors:
                raise ValueError(f"gradient wanted for {name!r}, which is not a tensor of this call")
            if not self.tensors[name].is_floating_point():
                raise ValueError(f"gradient wanted for {name!r}, whose dtype {self.tensors[name].dtype} has none")
        if self.n_backward < 1:
            raise ValueError(f"n_backward must be at least 1, got {self.n_backward}")
        if self.grad_mode not in GRAD_MODES:
            raise ValueError(f"grad_mode must be one of {', '.join(GRAD_MODES)}, got {self.grad_mode!r}")
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got {self.order!r}")
        if self.autocast not in AUTOCASTS:
            raise ValueError(f"autocast must be one of {AUTOCASTS}, got {self.autocast!r}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a call: always one of the classes below."""

    def describe(self) -> str:
        """What happened, as the end of a sentence whose subject is the candidate."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The effect of one call of a trainer on the model. The tensors are on the CPU, in the shape of the logits of the
    whole case, including those of other windows."""

    value: torch.Tensor
    kind: ValueKind

    steps: int
    """The number of steps of optimizers that have the model's table."""

    others: int
    """The number of steps of optimizers that do not have it."""

    n_backward: int
    """How often a backward added to the table's gradient."""

    late: int
    """How many of these backwards came after the last step."""

    before: torch.Tensor
    """The table when the window began."""

    after: torch.Tensor
    """The table when the trainer returned."""

    gradient: torch.Tensor | None = None
    """The gradient at the table in the last step of an optimizer. If none stepped, the one that the last backward
    left."""


@dataclass(frozen=True, slots=True, eq=False)
class Returned(Outcome):
    """The candidate returned a value, and ran a backward if one was asked for and possible."""

    value: torch.Tensor
    """On the CPU, any shape, the dtype as returned. A plain number becomes a float64 scalar."""

    kind: ValueKind
    """Whether the value was a "tensor" or a plain "number". "none" if a trainer returned nothing; then it is NaN."""

    requires_grad: bool
    """Whether a backward could have started from the value."""

    gradients: dict[str, torch.Tensor | None]
    """Each argument of `Call.gradients` -> its gradient on the CPU, in the argument's shape and dtype. None if the
    value does not depend on the argument, or if there was no backward."""

    mutated: tuple[str, ...]
    """The arguments that the candidate or its backward changed: tensors, compared bit by bit, and lists."""

    seconds: float
    """Time of call and backward in the candidate's process, with the device synchronised, without transport.

    It is wall time, or the processor time if that is less, so that it does not count waits for a busy processor.
    """

    state: tuple[str, ...] = ()
    """The settings of the process that the call changed for the code after it, each with both values."""

    random: Mapping[str, str] = field(default_factory=dict)
    """Random number generator -> a digest of its state after the call, for those that the call moved."""

    outputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Each of `Call.outputs` on the CPU, in its own shape and dtype."""

    output_gradients: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The gradient of the loss at each of the outputs through which it flows."""

    watched: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Tensors found in a watched model. Each output, by its name, is the tensor in its graph that the returned one is a
    copy of. `hidden`, `weight` and `bias` are the head, whose product the logits are. Each is there only if it was
    found. `X_gradient` is there if X got a gradient; a weight that is not frozen has zeros if it got none. If
    parameters are nudged: `nudged` has the logits at +1, −1, +½, −½ of that length along a direction, and `slope` is
    the slope of the loss along it, by the gradients."""

    windows: tuple[Window, ...] = ()
    """The windows of a trainer. Value, kind and gradients are those of the last one."""

    def describe(self) -> str:
        shape = (
            "a number" if self.kind == "number" else f"a {self.value.dtype} tensor of shape {list(self.value.shape)}"
        )
        return f"returned {shape}"


@dataclass(frozen=True, slots=True)
class Unusable(Outcome):
    """The candidate returned something that is not a loss, or a loss that the incoming gradient does not fit."""

    description: str
    """What it returned, and what was expected."""

    def describe(self) -> str:
        return self.description


@dataclass(frozen=True, slots=True)
class Raised(Outcome):
    """The candidate, or its backward, raised an exception."""

    type: str
    """The exception's class, without its module."""

    message: str
    traceback: str
    """Only the candidate's own frames."""

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
    """For example "SIGSEGV". None if it exited."""

    stderr: str
    """The end of its stdout and stderr, at most 64 KiB."""

    def describe(self) -> str:
        return f"was killed by {self.signal}" if self.signal is not None else f"exited with code {self.exit_code}"


@dataclass(frozen=True, slots=True)
class NotAnswered(Outcome):
    """The candidate could not be asked, or its answer could not be obtained. Nothing is known of its loss."""

    side: Side
    """The process that failed: the candidate's, which the candidate may have broken, or the judge's."""

    message: str
    """What failed in that process."""

    def describe(self) -> str:
        where = "its own process" if self.side == "candidate" else "the judge's process"
        return f"could not be judged, because {where} failed: {self.message}"


@dataclass(frozen=True, slots=True)
class TimedOut(Outcome):
    """The call was still running at its deadline, and was killed."""

    seconds: float

    def describe(self) -> str:
        return f"did not finish within {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class OutOfMemory(Outcome):
    """The candidate needed more memory than is allowed."""

    limit: int
    """Bytes: the memory limit, or all memory of the GPU. 0 if the machine ran out of memory."""

    message: str

    def describe(self) -> str:
        allowed = f" (limit {self.limit / 2**20:,.0f} MiB)" if self.limit else ""
        return f"ran out of memory{allowed}"
