"""The inputs of one timed call: small tensors from a recipe, and logits that each process writes from a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import Oracle
from shiftproof.reference.pairing import Pairing
from shiftproof.reference.spec import LossSpec

from ..candidates.arguments import ARGUMENTS, Binding, hand_over, lay_out
from ..cases.build import Case, build_batch
from ..cases.linear import LEAVES
from ..cases.recipe import Recipe
from ..worker.fresh import Fresh
from ..worker.protocol import Scalar

_LOGIT_SEEDS = 8  # the number of seeds that one call may use, one for each of its logits


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments of one call.

    Attributes:
        batch: the batch of the recipe. Each of its logits is one expanded zero, because the numbers are written where
            they are needed.
        shapes: the shapes of the logits in the spec's layout for candidates.
    """

    spec: LossSpec
    recipe: Recipe
    batch: Batch
    shapes: Mapping[str, tuple[int, ...]]

    def for_candidate(self, binding: Binding) -> tuple[dict[str, Tensor], dict[str, Scalar], dict[str, Any]]:
        """Return tensors, scalars and the logits' descriptions, under the candidate's names, in the spec's layouts."""
        apart = (*self.spec.logits, *LEAVES)
        small = Binding({ours: theirs for ours, theirs in binding.names.items() if ours not in apart}, binding.required)
        case = Case(self.spec, self.recipe, self.batch, _NO_PAIRING, _NO_ANSWER)
        tensors, scalars = hand_over(small, lambda ours: ARGUMENTS[ours].give(case, small))
        logits = {binding.names[name]: self._describe(name, self.shapes[name]) for name in self.spec.logits}
        return tensors, scalars, logits

    def for_reference(self) -> tuple[dict[str, Tensor], dict[str, Scalar], dict[str, Any]]:
        """Return the same in the reference's own names and layouts."""
        tensors: dict[str, Tensor] = {}
        scalars: dict[str, Scalar] = {}
        for field in fields(self.batch):
            value = getattr(self.batch, field.name)
            if isinstance(value, Tensor) and field.name not in self.spec.logits:
                tensors[field.name] = value
            elif isinstance(value, int):
                scalars[field.name] = value
        logits = {name: self._describe(name, tuple(self.batch.tensor(name).shape)) for name in self.spec.logits}
        return tensors, scalars, logits

    def fresh(self, name: str, device: str) -> Fresh:
        """Return the generator of the rows of numbers in the candidate's ``name``."""
        *rows, classes = self.shapes[name]
        return Fresh(self._describe(name, self.shapes[name])["seed"], math.prod(rows), classes, torch.device(device))

    def logits(self, name: str) -> Tensor:
        """Return all logits of ``name``, in its layout."""
        numbers = torch.empty(self.shapes[name], dtype=getattr(torch, self.recipe.dtype))
        self.fresh(name, "cpu").write(numbers.view(-1, numbers.shape[-1]))
        return numbers

    def _describe(self, name: str, shape: tuple[int, ...]) -> dict[str, Any]:
        seed = self.recipe.seed * _LOGIT_SEEDS + self.spec.logits.index(name)
        return {"shape": list(shape), "dtype": self.recipe.dtype, "seed": seed}


_NO_PAIRING = Pairing((), (), {}, None, (), ())
_NO_ANSWER = Oracle(None, torch.empty(0), torch.empty(0), {})


def make_inputs(spec: LossSpec, recipe: Recipe) -> Inputs:
    """Make the inputs of one recipe."""
    batch = build_batch(spec, recipe)
    shapes = {
        name: tuple(lay_out(spec, name, torch.empty(batch.tensor(name).shape, device="meta")).shape)
        for name in spec.logits
    }
    return Inputs(spec, recipe, batch, shapes)
