"""Time two losses in one process, in turn, on inputs that neither has seen before. Runs in the candidate's process.

In one process, because two processes differ in memory layout and in neighbours. That alone makes several percent.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from . import clock
from .arguments import bind
from .call import loss_in
from .device import device_of
from .fresh import fill, sketch
from .load import Loaded
from .peak import Peak
from .shield import shielded
from .tensors import write_tensors
from .wire import decode_call

_REFERENCE = "_shiftproof_reference"
_EARLY = 256  # elements of each gradient that are read as soon as the clock has stopped

Function = Callable[..., Any]


class _Handed(torch.autograd.Function):
    """The leaf as a non-leaf, without a copy: real logits are not leaves, and can be written to."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor) -> torch.Tensor:
        return leaf.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    """The times and the results of one call.

    Attributes:
        fields: the fields of the message: windows in nanoseconds, and signs of cheating.
        tensors: `value`, and for each array of logits `sketch.NAME` [rows] float32.
    """

    fields: dict[str, Any]
    tensors: dict[str, torch.Tensor]


class Bench:
    """The losses by part, and the memory that they use in turn."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._clock = clock.Clock(device)
        self._seated: dict[str, Loaded] = {}
        self._buffers: dict[torch.dtype, torch.Tensor] = {}
        self._cached = device_of(device)

    def seat(self, part: str, loaded: Loaded) -> None:
        """Let `loaded` play `part` from now on."""
        self._seated[part] = loaded

    def time(self, body: dict[str, Any]) -> Timed:
        """Time one call of `body["part"]`, forward and backward, on the tensors and the fresh logits that `body` names.

        Exceptions of the contender pass through.
        """
        contender = self._seated[body["part"]]
        with shielded():
            call = decode_call(body)
            tensors = {name: tensor.to(self._device) for name, tensor in call.tensors.items()}
            leaves = self._leaves(body["logits"])
            handed: dict[str, Any] = {name: _Handed.apply(leaf) for name, leaf in leaves.items()}  # type: ignore[no-untyped-call]
        positional, keywords = bind(
            contender.description.parameters, {**call.scalars, **tensors, **handed}, contender.defaults
        )
        del handed, tensors
        self._cached.flush()
        peak = Peak(self._device) if body["weigh"] else None

        start = self._clock.start()
        result = contender.function(*positional, **keywords)
        between = self._clock.stop()
        value, _ = loss_in(result)
        resume = self._clock.start()
        if value.requires_grad:
            torch.autograd.backward((value,), (torch.ones_like(value),))
        stop = self._clock.stop()

        with shielded():
            places = {name: _places(leaf, body["sketch"]) for name, leaf in leaves.items()}
            early = {name: _taken(leaf.grad, places[name]) for name, leaf in leaves.items()}
        fields: dict[str, Any] = {
            "forward": self._clock.window(start, between),
            "backward": self._clock.window(resume, stop),
            "peak": peak.bytes() if peak is not None else None,
            "lazy": sorted(
                {type(each).__name__ for each in (value, *(leaf.grad for leaf in leaves.values()))}
                - {"Tensor", "Parameter", "NoneType"}
            ),
        }
        kept = {"value": value.detach().float().cpu()}
        del result, value
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so that no other thread works for us
        before = self._clock.start()
        with shielded():
            for name, leaf in leaves.items():
                if leaf.grad is not None:
                    across = sketch(body["sketch"], leaf.shape[-1], self._device)
                    kept[f"sketch.{name}"] = (leaf.grad.reshape(-1, leaf.shape[-1]).float() @ across).cpu()
        clock.sleep(body["linger"])
        after = self._clock.stop()
        torch.set_num_threads(threads)
        fields["others"] = (after.cpu - before.cpu) - (after.thread - before.thread)
        fields["settled"] = all(
            torch.equal(early[name], _taken(leaf.grad, places[name])) for name, leaf in leaves.items()
        )
        fields["patched"] = clock.patched()
        fields["busy"] = clock.busy()
        return Timed(fields, kept)

    def copy_seconds(self, elements: int, times: int) -> list[int]:
        """Measure copying `elements` float32, `times` times. Return nanoseconds.

        It is processor time on a CPU with one thread, and wall time otherwise.
        """
        source = torch.ones(elements, device=self._device)
        target = torch.zeros_like(source)
        found = []
        for _ in range(times):
            self._cached.flush()
            start = self._clock.start()
            target.copy_(source)
            taken = self._clock.window(start, self._clock.stop())
            found.append(taken["wall" if self._device.type == "cuda" or torch.get_num_threads() > 1 else "cpu"] or 0)
        return found

    def _leaves(self, wanted: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Fresh logits, as leaves, at the same addresses as in the last call."""
        leaves, used = {}, 0
        for name, how in wanted.items():
            dtype = getattr(torch, how["dtype"])
            shape = torch.Size(how["shape"])
            buffer = self._buffers.get(dtype)
            needed = sum(torch.Size(each["shape"]).numel() for each in wanted.values())
            if buffer is None or buffer.numel() < needed:
                buffer = self._buffers[dtype] = torch.zeros(needed, dtype=dtype, device=self._device)
            part = buffer[used : used + shape.numel()].view(shape)
            used += shape.numel()
            fill(part, how["seed"])
            leaves[name] = part.detach().requires_grad_()
        return leaves


def of_reference(folder: str, kind: str, spec: str) -> Function:
    """Return the loss `kind` of the reference for the profile `spec`.

    The folder is imported under a private name, because the interpreter may not have this project installed.
    """
    if _REFERENCE not in sys.modules:
        package = types.ModuleType(_REFERENCE)
        package.__path__ = [folder]
        sys.modules[_REFERENCE] = package
    module = importlib.import_module(f"{_REFERENCE}.{kind}")
    profiles = importlib.import_module(f"{_REFERENCE}.profiles")
    made: Function = getattr(module, kind)(profiles.PROFILES[spec])
    return made


def write_timed(timed: Timed, path: str) -> dict[str, Any]:
    """Write the tensors of a call to `path`. Return the fields of the message."""
    write_tensors(path, timed.tensors)
    return timed.fields


def _places(leaf: torch.Tensor, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(leaf.numel(), (_EARLY,), generator=generator).to(leaf.device)


def _taken(gradient: torch.Tensor | None, places: torch.Tensor) -> torch.Tensor:
    return torch.zeros(()) if gradient is None else gradient.reshape(-1)[places].clone()
