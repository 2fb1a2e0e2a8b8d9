"""Mutants that no list of pairs can show: another gradient, other arithmetic, another interface.

A behaviour answers a call as the buggy loss would. If the bug is in the arithmetic, the behaviour uses that arithmetic.
Otherwise the answer is the reference's, rounded like a candidate's, with the error added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shiftproof.reference.oracle import Oracle, evaluate
from shiftproof.reference.pairing import Pairing, first_logit
from shiftproof.reference.spec import Compute, LossSpec, Reduction

from ..candidates.loss import Observation, Problem
from ..candidates.variant import Asked
from ..cases.build import Case
from ..cases.linear import Linear, through
from ..results import Verdict
from .scores import Wrong

Act = Callable[[Asked], Observation]
Needs = Callable[[LossSpec], str | None]
"""Returns what a spec needs for the bug to be possible, or None if it has it."""


@dataclass(frozen=True)
class Behaviour:
    """A bug that shipped, re-enacted on a whole call.

    Attributes:
        name: the name of the bug, as in the diagnosis. ``detail`` separates its variants.
        formula: what is computed instead.
        tells: the smallest input on which it differs from the right loss.
        seen: where the bug happened.
        act: returns the answer to a call.
        needs: returns what a spec is missing for the bug, or None.
        dtype: the dtype of the logits on which the bug shows.
        numeric: whether the bug shows only in the numbers, so that the diagnosis repeats the same arithmetic.
        linear: whether it is a bug of losses that multiply hidden states by a weight themselves.
    """

    name: str
    detail: str
    formula: str
    tells: str
    seen: str
    act: Act
    needs: Needs = lambda spec: None
    dtype: str = "float32"
    numeric: bool = False
    linear: bool = False


def needs_fp32(spec: LossSpec) -> str | None:
    return None if spec.compute is Compute.STRICT else "a promise of fp32 arithmetic"


def variants(
    name: str,
    acts: Iterable[tuple[str, Act]],
    *,
    formula: str,
    tells: str,
    seen: str,
    needs: Needs = lambda spec: None,
    dtype: str = "float32",
    numeric: bool = False,
    linear: bool = False,
) -> tuple[Behaviour, ...]:
    """Make the variants of one bug."""
    return tuple(
        Behaviour(name, detail, formula, tells, seen, act, needs, dtype, numeric, linear) for detail, act in acts
    )


def answer(asked: Asked, pairing: Pairing | None = None, mutated: tuple[str, ...] = ()) -> Observation:
    """Return the answer of a loss over ``pairing`` (None: the right one), rounded like a candidate's."""
    case = asked.case
    oracle = case.oracle if pairing is None else evaluate(pairing, case.batch)
    used = case.pairing if pairing is None else pairing
    values = spread(asked, used, oracle.per_token) if _per_token(case) else oracle.value
    return give(asked, values, _flow(asked, used, oracle), mutated)


def _per_token(case: Case) -> bool:
    return case.spec.terms[0].reduction is Reduction.NONE


def _flow(asked: Asked, pairing: Pairing, oracle: Oracle) -> Mapping[str, Tensor]:
    """Return the gradients of a pairing under the incoming gradient, summed over all backward passes."""
    if isinstance(asked.grad_output, Tensor):
        weights = coming(asked, pairing, asked.grad_output)
        pairs = (pair._replace(weight=pair.weight * w) for pair, w in zip(pairing.pairs, weights, strict=True))
        gradients = evaluate(replace(pairing, pairs=tuple(pairs)), asked.case.batch).gradients
        return times(gradients, asked.n_backward)
    return times(oracle.gradients, asked.grad_output * asked.n_backward)


def times(gradients: Mapping[str, Tensor], factor: float) -> Mapping[str, Tensor]:
    return gradients if factor == 1 else {name: gradient * factor for name, gradient in gradients.items()}


def coming(asked: Asked, pairing: Pairing, grad_output: Tensor) -> list[float]:
    """Return the incoming gradient of every pair, from its element of the output; 1 for pairs outside the output."""
    flat = grad_output.flatten().tolist()
    return [1.0 if at is None else flat[at] for at in _elements(asked, pairing)]


def spread(asked: Asked, pairing: Pairing, per_pair: Tensor) -> Tensor:
    """Turn one unweighted loss per pair into one loss per label position of the output; 0 where nothing is scored."""
    shape = asked.case.pairing.output_shape
    dense = [0.0] * math.prod(shape)
    for pair, loss, at in zip(pairing.pairs, per_pair.tolist(), _elements(asked, pairing), strict=True):
        if at is not None:
            dense[at] += pair.weight * loss
    return torch.tensor(dense, dtype=torch.float64).reshape(shape)


def _elements(asked: Asked, pairing: Pairing) -> list[int | None]:
    """Return, for each pair, the index of its element in the flattened output, or None outside the output."""
    case = asked.case
    rows, length = case.pairing.output_shape
    first = first_logit(case.spec.terms[0], case.batch)
    places = ((pair.logit[0], pair.logit[1] - first) for pair in pairing.pairs)
    return [row * length + at if 0 <= at < length and row < rows else None for row, at in places]


def give(
    asked: Asked, value: Tensor | float | None, gradients: Mapping[str, Tensor] | None, mutated: tuple[str, ...] = ()
) -> Observation:
    """Return what shiftproof observes of a loss.

    The value is in fp32, but in fp64 for fp64 logits, and in the dtype of the logits if the spec promises native
    compute. The gradients are in the dtype of the logits, and None if no gradient is recorded.
    """
    case = asked.case
    given = {name: case.batch.tensor(name).dtype for name in case.spec.logits}
    first = next(iter(given.values()))
    kind = first if case.spec.compute is Compute.NATIVE or first is torch.float64 else torch.float32
    returned = torch.as_tensor(0.0 if value is None else value, dtype=torch.float64).to(kind).double()
    flown = {name: g.to(given[name]).double() for name, g in gradients.items()} if gradients is not None else None
    return Observation(
        case=case,
        problem=None,
        value=float(returned.sum()),
        returned=returned,
        dtype=kind,
        gradients=flown if asked.records else None,
        mutated=mutated,
    )


def at_leaves(observation: Observation, linear: Linear) -> Observation:
    """Add the leaves' gradients for a loss that multiplies ``linear`` itself.

    They follow from the gradient at the logits, unless the observation already has its own.
    """
    if observation.gradients is None or observation.leaves is not None:
        return observation
    leaves = through(linear, observation.gradients["logits"])
    kind = linear.hidden.dtype
    return replace(observation, leaves={name: gradient.to(kind).double() for name, gradient in leaves.items()})


def refuse(asked: Asked, kind: str, message: str) -> Observation:
    """Return an error instead of an answer: an exception, or a result of the wrong shape."""
    return Observation(asked.case, Problem(Verdict.ERROR, kind, message))


def computed(asked: Asked, score: Wrong, kind: torch.dtype | None = torch.float32) -> Observation:
    """Score the right pairs with another score, computed by torch in ``kind`` (None: in the dtype of the logits)."""
    case = asked.case
    pairing, batch = case.pairing, case.batch
    leaves = {name: batch.tensor(name).detach().clone().requires_grad_() for name in pairing.shapes}
    losses = torch.zeros(len(pairing.pairs), dtype=torch.float64)
    for index, term in enumerate(pairing.terms):
        chosen, rows, targets, _ = pairing.by_term[index]
        if not len(chosen):
            continue
        leaf = leaves[term.logits]
        used = torch.promote_types(kind or leaf.dtype, leaf.dtype)
        weights = batch.tensor("class_weights").to(used) if term.score.class_weights else None
        of_rows = score(leaf.flatten(0, -2)[rows].to(used), targets, term.score, weights)
        losses = losses.index_put((chosen,), of_rows.double())
    values: Tensor | float | None
    if _per_token(case):
        values = spread(asked, pairing, losses.detach())
    else:
        pair_weights = torch.tensor([pair.weight for pair in pairing.pairs], dtype=torch.float64)
        values = None if pairing.empty is None else pairing.empty + float((losses.detach() * pair_weights).sum())
    if not asked.records:
        return give(asked, values, None)
    factors = torch.tensor([pair.weight for pair in pairing.pairs], dtype=torch.float64) * asked.n_backward
    if isinstance(asked.grad_output, Tensor):
        factors = factors * torch.tensor(coming(asked, pairing, asked.grad_output), dtype=torch.float64)
    else:
        factors = factors * asked.grad_output
    total = (losses * factors).sum()
    if not total.requires_grad:
        return give(asked, values, {name: torch.zeros_like(leaf).double() for name, leaf in leaves.items()})
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
    return give(asked, values, {name: gradient.double() for name, gradient in gradients.items()})
