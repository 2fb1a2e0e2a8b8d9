"""Right and wrong losses that torch can differentiate, for the source of a loss with a door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.eager import eager
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec

from ..candidates.variant import Asked
from ..cases.build import Case
from ..cases.recipe import Recipe
from ..mutants.behaviour import Act
from .subjects import subjects

Loss = Callable[..., Tensor]
"""A function of a batch's fields, by name."""


def right_loss(spec: str) -> Loss:
    """The loss of a profile in plain torch."""
    return eager(PROFILES[spec])


def wrong_loss(spec: str, mutant: str, detail: str) -> Loss:
    """A mutant of a profile. Its value and its gradient are those that the kill table judges."""
    promised = PROFILES[spec]
    act = next(each.act for each in subjects(promised) if (each.name, each.detail) == (mutant, detail))

    def loss(**arguments: Any) -> Tensor:
        known = {field.name for field in fields(Batch)}
        if any(isinstance(value, FakeTensor) for value in arguments.values()):
            raise NotImplementedError("a mutant reads its labels one by one, so it has no symbolic sizes")
        batch = Batch(**{name: value for name, value in arguments.items() if name in known})
        value: Tensor = _Answer.apply(act, promised, batch, *(batch.tensor(name) for name in promised.logits))  # type: ignore[no-untyped-call]
        return value

    return loss


class _Answer(torch.autograd.Function):
    """Asks a mutant for the value in the forward, and for the gradients in the backward."""

    @staticmethod
    def forward(ctx: Any, act: Act, spec: LossSpec, batch: Batch, *logits: Tensor) -> Tensor:
        pairing = build_pairing(spec, batch)
        rows, length = batch.tensor(spec.labels[0]).shape[:2]
        recipe = Recipe(rows=rows, length=length, classes=logits[0].shape[-1])
        ctx.case = Case(spec, recipe, batch, pairing, evaluate(pairing, batch))
        ctx.act = act
        seen = act(Asked(ctx.case))
        assert seen.returned is not None
        return seen.returned.to(seen.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        coming = float(upstream) if upstream.numel() == 1 else upstream
        gradients = ctx.act(Asked(ctx.case, grad_output=coming)).gradients or {}
        batch = ctx.case.batch
        of_logits = [
            gradients[name].to(batch.tensor(name).dtype) if name in gradients else None for name in ctx.case.spec.logits
        ]
        return None, None, None, *of_logits
