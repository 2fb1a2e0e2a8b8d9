"""Calls of a loss on a device: fresh arguments, what comes of them, and whether that is right."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.harness.speed.answers import Answer, Tolerance, difference, expected
from shiftproof.harness.worker.fresh import sketch
from shiftproof.reference.spec import Compute

from ..benchmarks.tasks import Task, leaves_of

_SKETCH = 20261129  # what gradients are multiplied by: nobody here wants to know it beforehand
_AT_ONCE = 1 << 26  # elements that are looked at in float32
_OF_LAYERS = Tolerance(1e-2, 0.1)
"""Of the norm of a row: a layer's logits are rounded to 16 bits by whoever makes them so, and both its gradients are
sums of many terms of either sign."""


class Calls:
    """Calls of one task in one dtype on one device, each told by its seed."""

    def __init__(self, task: Task, dtype: str, device: str) -> None:
        self.task, self.dtype, self.device = task, dtype, device

    def leaves(self, seed: int) -> dict[str, Any]:
        """The arguments, floating ones as leaves."""
        return leaves_of(self.task.arguments(self.dtype, self.device, seed))

    def wrong(self, seed: int, value: Tensor, leaves: dict[str, Any]) -> str | None:
        """How the answer to a seed differs from the right one: the value, and each row of every gradient."""
        right = _right(self, seed)
        sketches = {name: _sketched(leaves[name].grad) for name in right.sketches if leaves[name].grad is not None}
        tolerance = Tolerance.of(self.dtype, Compute.STRICT) if self.task.hidden is None else _OF_LAYERS
        return difference(Answer(float(value), sketches, {}), right, tolerance)


@lru_cache(maxsize=4)
def _right(calls: Calls, seed: int) -> Answer:
    if calls.task.hidden is None:
        return expected(calls.task.inputs(calls.dtype, seed), _SKETCH, calls.device)
    return _of_layer(calls.leaves(seed))


def _of_layer(leaves: dict[str, Any]) -> Answer:
    """The mean cross-entropy of a linear layer's next tokens in float32, some rows at a time."""
    hidden, weight = leaves["hidden_states"].detach(), leaves["lm_head_weight"].detach().float()
    targets = F.pad(leaves["labels"], (0, 1), value=-100)[:, 1:].flatten()
    rows = hidden.flatten(0, 1)
    count = (targets != -100).sum()
    value, at_weight = torch.zeros((), device=rows.device), torch.zeros_like(weight)
    at_rows = []
    step = max(_AT_ONCE // len(weight), 1)
    for part, wanted in zip(rows.split(step), targets.split(step), strict=True):
        wide = part.float()
        logits = (wide @ weight.T).requires_grad_()
        loss = F.cross_entropy(logits, wanted, reduction="sum") / count
        (slope,) = torch.autograd.grad(loss, logits)
        value += loss.detach()
        at_rows.append(slope @ weight)
        at_weight += slope.T @ wide
    gradients = {"hidden_states": torch.cat(at_rows), "lm_head_weight": at_weight}
    sketches = {name: _sketched(each) for name, each in gradients.items()}
    return Answer(float(value), sketches, {name: each.norm(dim=-1).cpu() for name, each in gradients.items()})


def _sketched(gradient: Tensor) -> Tensor:
    """One number a row of a gradient, some rows at a time."""
    rows = gradient.reshape(-1, gradient.shape[-1])
    across = sketch(_SKETCH, rows.shape[-1], rows.device)
    step = max(_AT_ONCE // rows.shape[-1], 1)
    return torch.cat([part.float() @ across for part in rows.split(step)]).cpu()


def memory_needed(task: Task, dtype: str, contender: str) -> int:
    """Bytes of the largest tensors, roughly: logits, gradient, and what the common pattern copies in float32."""
    if task.hidden is not None:
        return 3 * task.logits_bytes("float32") + 4 * task.returned_bytes("float32")
    lean = contender in ("yardstick", "Liger", "fla-core", "quack")
    wide = 0 if lean else 3 * task.logits_bytes("float32")
    return 3 * task.logits_bytes(dtype) + wide + math.ceil(task.logits_bytes(dtype) / 8)
