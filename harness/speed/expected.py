"""Whether what a timed call gave is right, by the yardstick on the same inputs in the judge's own process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.spec import Compute

from ..arguments import lay_out
from ..worker.fresh import sketch
from .inputs import Inputs

_VALUE, _GRADIENT = 1e-3, 0.02
_LARGEST_LOGIT = 16  # fresh logits are seldom larger, so that much of the dtype's eps is an absolute error of theirs


@dataclass(frozen=True, eq=False)
class Answer:
    """What one call gave: the loss, and each logits' gradient times the sketch, [rows] float32 in the candidate's
    layout, under our names. ``scales``, of an expected answer: the largest element of each gradient row."""

    value: float
    sketches: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]


@dataclass(frozen=True)
class Tolerance:
    """How far answers may be apart: the loss as a share of itself, sketches as a share of the row's largest element.

    Not bounds on rounding, which `shiftproof check` has: they tell an answer to these inputs from any other answer.
    Half precision rounds each element by eps, a row of which comes to under 1% in bf16; native arithmetic rounds the
    logarithms of probabilities, absolutely, by that much of the largest logit.
    """

    value: float
    gradient: float

    @classmethod
    def of(cls, dtype: str, compute: Compute) -> Tolerance:
        eps = torch.finfo(getattr(torch, dtype)).eps
        if compute is Compute.STRICT:
            return cls(_VALUE + eps, _GRADIENT)
        return cls(_VALUE + 4 * eps, _GRADIENT + _LARGEST_LOGIT * eps)


def expected(
    inputs: Inputs, loss: Callable[..., Tensor], sketch_seed: int, device: str, *, gradient: bool = True
) -> Answer:
    """The answer to ``inputs`` by ``loss``, which takes the fields of a batch by name."""
    arguments: dict[str, Any] = {field.name: getattr(inputs.batch, field.name) for field in fields(inputs.batch)}
    arguments = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in arguments.items()
        if value is not None and name not in inputs.spec.logits
    }
    leaves = {name: inputs.logits(name, device).requires_grad_(gradient) for name in inputs.spec.logits}
    value = loss(**arguments, **leaves)
    sketches, scales = {}, {}
    if gradient:
        torch.autograd.backward((value,))
        for name, leaf in leaves.items():
            assert leaf.grad is not None
            rows = lay_out(inputs.spec, name, leaf.grad).reshape(-1, leaf.shape[-1])
            sketches[name] = (rows.float() @ sketch(sketch_seed, leaf.shape[-1], rows.device)).cpu()
            scales[name] = torch.maximum(rows.amax(-1), -rows.amin(-1)).float().cpu()
            leaf.grad = None
    return Answer(float(value.detach()), sketches, scales)


def difference(found: Answer, right: Answer, tolerance: Tolerance) -> str | None:
    """Where an answer is not the right one, in words; or None."""
    if not abs(found.value - right.value) <= tolerance.value * max(abs(right.value), 1e-6):
        return f"the loss is {found.value:.6g} where {right.value:.6g} is right"
    for name, sketched in right.sketches.items():
        given = found.sketches.get(name)
        if given is None or given.shape != sketched.shape:
            return f"no gradient came to {name}"
        allowed = tolerance.gradient * right.scales[name] + 1e-30
        wrong = int((~((given - sketched).abs() <= allowed)).sum())
        if wrong:
            return f"the gradient at {name} is wrong in {wrong} of {len(sketched)} rows"
    return None
