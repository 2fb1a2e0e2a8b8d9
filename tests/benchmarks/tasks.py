"""What is timed: the shapes that people train, as calls of a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from shiftproof.harness.speed.inputs import Inputs, make_inputs
from shiftproof.harness.speed.shapes import SHAPES, Shape, recipe_of
from shiftproof.harness.worker.device import Device, device_of
from shiftproof.harness.worker.fresh import fill
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec

from .contenders import CAUSAL, OF_LAYERS, OF_LOGITS, OF_NEXT_TOKENS, Loss, Maker

DTYPES = ("float32", "bfloat16")
_LONG = 10.0  # seconds that are measured once
_REPEATED, _ENOUGH = 5, 3.0  # how often the limit is measured at most, and for how many seconds


def _numbers(how: Mapping[str, Any], device: str) -> Tensor:
    numbers = torch.empty(how["shape"], dtype=getattr(torch, how["dtype"]), device=device)
    fill(numbers, how["seed"])
    return numbers


@dataclass(frozen=True)
class Task:
    """One loss to be had of one batch. ``hidden``: of a linear layer on states of that size; else of given logits."""

    name: str
    profile: str
    shape: Shape
    hidden: int | None = None
    devices: tuple[str, ...] = ("cpu", "cuda")

    @property
    def spec(self) -> LossSpec:
        return PROFILES[self.profile]

    @property
    def contenders(self) -> dict[str, Maker]:
        if self.hidden is not None:
            return OF_LAYERS
        return OF_NEXT_TOKENS if self.profile == CAUSAL else OF_LOGITS

    def logits_bytes(self, dtype: str) -> int:
        shape = self.shape
        return shape.tokens * shape.codebooks * shape.classes * getattr(torch, dtype).itemsize

    def returned_bytes(self, dtype: str) -> int:
        """Of the gradients, which every contender has to return."""
        if self.hidden is None:
            return self.logits_bytes(dtype)
        return (self.shape.tokens + self.shape.classes) * self.hidden * getattr(torch, dtype).itemsize

    def inputs(self, dtype: str, seed: int = 1, *, tokens: int | None = None) -> Inputs:
        """What logits and small tensors are made of. With ``tokens``, of rows that long instead."""
        shape = self.shape if tokens is None else Shape("short", 1, tokens, self.shape.classes, self.shape.codebooks)
        return make_inputs(self.spec, recipe_of(self.spec, shape, dtype, seed))

    def arguments(self, dtype: str, device: str, seed: int = 1, *, tokens: int | None = None) -> dict[str, Any]:
        """The arguments of a call by name."""
        inputs = self.inputs(dtype, seed, tokens=tokens)
        tensors, scalars, logits = inputs.for_reference()
        found: dict[str, Any] = {**scalars, **{name: tensor.to(device) for name, tensor in tensors.items()}}
        if self.profile == CAUSAL:
            found = {"labels": found["labels"]}  # all that is needed, and others take no more
        if self.hidden is None:
            return found | {name: _numbers(how, device) for name, how in logits.items()}
        generator = torch.Generator().manual_seed(seed)
        kind = getattr(torch, dtype)
        *rows, classes = inputs.shapes["logits"]
        hidden = torch.randn(*rows, self.hidden, generator=generator)
        weight = torch.randn(classes, self.hidden, generator=generator).div_(math.sqrt(self.hidden))
        return found | {"hidden_states": hidden.to(device, kind), "lm_head_weight": weight.to(device, kind)}

    def limit(self, dtype: str, device: str) -> float:
        """Seconds that the machine takes for :meth:`limiting`."""
        return _seconds(self.limiting(dtype, device), device_of(device))

    def limiting(self, dtype: str, device: str) -> Callable[[], object]:
        """What nobody can do without: reading and writing as many bytes as the logits have; or the three matrix
        products of a layer and its gradients."""
        kind = getattr(torch, dtype)
        if self.hidden is None:
            source = torch.ones(self.logits_bytes(dtype) // kind.itemsize, dtype=kind, device=device)
            target = torch.zeros_like(source)
            return lambda: target.copy_(source)
        given = self.arguments(dtype, device)
        hidden, weight = given["hidden_states"].flatten(0, 1), given["lm_head_weight"]

        def products() -> None:
            logits = hidden @ weight.T
            logits @ weight
            logits.T @ hidden

        return products


TASKS = (
    Task("text", CAUSAL, SHAPES["text"]),
    Task("text-128k", CAUSAL, SHAPES["text-128k"]),
    Task("text-152k", CAUSAL, SHAPES["text-152k"], devices=("cuda",)),
    Task("audio", "musicgen", SHAPES["audio"]),
    Task("packed", "packed.cu_seqlens", SHAPES["packed"]),
    Task("linear-128k", CAUSAL, Shape("linear-128k", 2, 512, 128256), hidden=512),
    Task("linear-152k", CAUSAL, SHAPES["text-152k"], hidden=4096, devices=("cuda",)),
)


def leaves_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments, their floating tensors as leaves of a new graph."""
    return {
        name: value.detach().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }


def forward_and_backward(loss: Loss, arguments: dict[str, Any]) -> None:
    loss(**arguments).backward()
    for device in {value.device for value in arguments.values() if isinstance(value, Tensor)}:
        device_of(device).settle()


def on(device: str) -> Iterator[Task]:
    """The tasks of a device."""
    return (task for task in TASKS if device in task.devices)


def _seconds(work: Callable[[], object], device: Device) -> float:
    def once() -> float:
        device.settle()
        start = device.mark()
        work()
        stop = device.mark()
        device.settle()
        return device.between(start, stop) / 1e9

    first = once()
    if first > _LONG:
        return first
    taken: list[float] = []
    while len(taken) < _REPEATED and sum(taken) < _ENOUGH:
        taken.append(once())
    return median(taken)
