"""Check the answer of a timed call against the yardstick, on the same inputs, in the judge's own process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import Compute, LossTerm, Score
from shiftproof.reference.yardstick.passes import score_rows
from shiftproof.reference.yardstick.rows import rows_of

from ..candidates.arguments import lay_out
from ..worker.fresh import BLOCK, sketch
from .inputs import Inputs

_VALUE, _GRADIENT = 1e-3, 0.02
_AT_ONCE = 1 << 21  # logits; kept small, because memory that is freed and taken again must be faulted in anew
_LARGEST_LOGIT = 16  # fresh logits are rarely larger; their absolute error is at most this times the dtype's eps


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer of one call: the loss, and for each logits array its gradient times the sketch.

    The sketches are [rows] float32 in the candidate's layout, under shiftproof's names. ``scales`` is only set for an
    expected answer: the largest element of each gradient row.
    """

    value: float
    sketches: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]


@dataclass(frozen=True)
class Tolerance:
    """How far answers may differ: the loss relative to itself, a sketch relative to the row's largest element.

    These are not bounds on rounding, which `shiftproof check` has. They separate an answer to these inputs from any
    other answer. Half precision rounds each element by eps, and a row of such errors stays below 1% in bf16. Native
    arithmetic rounds the logarithms of probabilities by an absolute error of eps times the largest logit.
    """

    value: float
    gradient: float

    @classmethod
    def of(cls, dtype: str, compute: Compute) -> Tolerance:
        eps = torch.finfo(getattr(torch, dtype)).eps
        if compute is Compute.STRICT:
            return cls(_VALUE + eps, _GRADIENT)
        return cls(_VALUE + 4 * eps, _GRADIENT + _LARGEST_LOGIT * eps)


def expected(inputs: Inputs, sketch_seed: int, device: str, *, gradient: bool = True) -> Answer:
    """Return the answer to ``inputs``, computed a few rows at a time. Full logits or gradients never exist."""
    spec = inputs.spec
    given = {field.name: getattr(inputs.batch, field.name) for field in fields(inputs.batch)}
    moved: dict[str, Any] = {
        name: each.to(device) if isinstance(each, Tensor) else each for name, each in given.items()
    }
    batch = Batch(**moved)
    value = torch.zeros((), dtype=torch.float64, device=device)
    sketches, scales = {}, {}
    for name, (*shape, classes) in inputs.shapes.items():
        count = math.prod(shape)
        asked = [_Asked.of(term, inputs, batch) for term in spec.terms if term.logits == name]
        step = max(_AT_ONCE // classes // BLOCK, 1) * BLOCK
        logits = torch.empty((min(step, count), classes), dtype=getattr(torch, inputs.recipe.dtype), device=device)
        slopes = torch.empty_like(logits) if gradient else None
        across = sketch(sketch_seed, classes, logits.device)
        sketched, largest = (torch.zeros(count, device=device) for _ in range(2))
        fresh = inputs.fresh(name, device)
        for first in range(0, count, step):
            rows = slice(first, min(first + step, count))
            part = logits[: rows.stop - first]
            slope = None if slopes is None else slopes[: len(part)]
            fresh.write(part, first)
            for each in asked:
                weights = each.weights[rows]
                scores = score_rows(part, each.targets[rows], weights, each.score, batch.class_weights, slope)
                value += (scores.double() * weights).sum()
                if slope is not None:
                    wide = slope.float()
                    sketched[rows] += wide @ across
                    largest[rows] += torch.maximum(wide.amax(-1), -wide.amin(-1))
        value += sum(each.empty for each in asked)
        if gradient:
            sketches[name], scales[name] = sketched.cpu(), largest.cpu()
    return Answer(float(value), sketches, scales)


@dataclass(frozen=True, eq=False)
class _Asked:
    """The targets, weights and score of a term for its rows of logits, in the order of a candidate's layout."""

    score: Score
    targets: Tensor
    weights: Tensor
    empty: Tensor

    @classmethod
    def of(cls, term: LossTerm, inputs: Inputs, batch: Batch) -> _Asked:
        rows = rows_of(term, batch)
        shape = batch.tensor(term.logits).shape[:-1]

        def laid_out(each: Tensor) -> Tensor:
            return lay_out(inputs.spec, term.logits, each.view(*shape, 1)).flatten()

        return cls(term.score, laid_out(rows.targets), laid_out(rows.weights), rows.empty)


def difference(found: Answer, right: Answer, tolerance: Tolerance) -> str | None:
    """Describe how an answer differs from the right one, or return None."""
    if not abs(found.value - right.value) <= tolerance.value * max(abs(right.value), 1e-6):
        return f"the loss is {found.value:.6g}; expected {right.value:.6g}"
    for name, sketched in right.sketches.items():
        given = found.sketches.get(name)
        if given is None or given.shape != sketched.shape:
            return f"no gradient reached {name}"
        allowed = tolerance.gradient * right.scales[name] + 1e-30
        wrong = int((~((given - sketched).abs() <= allowed)).sum())
        if wrong:
            return f"the gradient at {name} is wrong in {wrong} of {len(sketched)} rows"
    return None
