"""What a mutant does that no list of pairs shows: another gradient, other arithmetic, another interface.

A behaviour answers a call as the buggy loss would. Where the bug is in the arithmetic, it is done in that arithmetic;
elsewhere the answer is the reference's, rounded as a candidate's is, with what is wrong in it put in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shiftproof.reference.oracle import Oracle, evaluate, of_term
from shiftproof.reference.pairing import Pairing, first_logit
from shiftproof.reference.spec import Compute, LossSpec, Reduction

from ..cases import Case
from ..linear import Linear, through
from ..trial import Observation, Problem
from ..verdict import Verdict
from .scores import Wrong


@dataclass(frozen=True, eq=False)
class Asked:
    """One call: a case, the incoming gradient, and how it is gone backward."""

    case: Case
    upstream: float | Tensor = 1.0
    grad_mode: str = "enabled"
    backwards: int = 1

    @property
    def records(self) -> bool:
        return self.grad_mode == "enabled"


Act = Callable[[Asked], Observation]
Needs = Callable[[LossSpec], str | None]
"""What a spec lacks for the bug to be had under it, or None."""


@dataclass(frozen=True)
class Behaviour:
    """A bug that shipped, re-enacted on a whole call.

    Attributes:
        name: the bug's name, as in the diagnosis; ``detail`` tells its variants apart.
        formula: what is computed instead.
        tells: the smallest input on which it differs from the right loss.
        seen: where it happened.
        act: what it answers.
        needs: what a spec lacks for it.
        dtype: of the logits on which it shows.
        numeric: whether it shows in the numbers alone, and is told by doing the same arithmetic.
        linear: whether it is one of losses that multiply hidden states with a weight themselves.
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
    """The ways in which one bug is written."""
    return tuple(
        Behaviour(name, detail, formula, tells, seen, act, needs, dtype, numeric, linear) for detail, act in acts
    )


def answer(asked: Asked, pairing: Pairing | None = None, mutated: tuple[str, ...] = ()) -> Observation:
    """What a loss over ``pairing`` (None: the right one) does, value and gradient rounded as a candidate's are."""
    case = asked.case
    oracle = case.oracle if pairing is None else evaluate(pairing, case.batch)
    used = case.pairing if pairing is None else pairing
    values = spread(asked, used, oracle.per_token) if _per_token(case) else oracle.value
    return give(asked, values, _flow(asked, used, oracle), mutated)


def _per_token(case: Case) -> bool:
    return case.spec.terms[0].reduction is Reduction.NONE


def _flow(asked: Asked, pairing: Pairing, oracle: Oracle) -> Mapping[str, Tensor]:
    """The gradients of a pairing under the incoming one, after every backward."""
    if isinstance(asked.upstream, Tensor):
        weights = coming(asked, pairing, asked.upstream)
        pairs = (pair._replace(weight=pair.weight * w) for pair, w in zip(pairing.pairs, weights, strict=True))
        gradients = evaluate(replace(pairing, pairs=tuple(pairs)), asked.case.batch).gradients
        return times(gradients, asked.backwards)
    return times(oracle.gradients, asked.upstream * asked.backwards)


def times(gradients: Mapping[str, Tensor], factor: float) -> Mapping[str, Tensor]:
    return gradients if factor == 1 else {name: gradient * factor for name, gradient in gradients.items()}


def coming(asked: Asked, pairing: Pairing, upstream: Tensor) -> list[float]:
    """The incoming gradient of every pair, one for each element of the output; 1 for pairs beyond it."""
    flat = upstream.flatten().tolist()
    return [1.0 if at is None else flat[at] for at in _elements(asked, pairing)]


def spread(asked: Asked, pairing: Pairing, per_pair: Tensor) -> Tensor:
    """One loss a pair, unweighted -> one a label position of the output, 0 where nothing is scored."""
    shape = asked.case.pairing.output_shape
    dense = [0.0] * math.prod(shape)
    for pair, loss, at in zip(pairing.pairs, per_pair.tolist(), _elements(asked, pairing), strict=True):
        if at is not None:
            dense[at] += pair.weight * loss
    return torch.tensor(dense, dtype=torch.float64).reshape(shape)


def _elements(asked: Asked, pairing: Pairing) -> list[int | None]:
    """Which element of the output, flattened, each pair's loss is in."""
    case = asked.case
    rows, length = case.pairing.output_shape
    first = first_logit(case.spec.terms[0], case.batch)
    places = ((pair.logit[0], pair.logit[1] - first) for pair in pairing.pairs)
    return [row * length + at if 0 <= at < length and row < rows else None for row, at in places]


def give(
    asked: Asked, value: Tensor | float | None, gradients: Mapping[str, Tensor] | None, mutated: tuple[str, ...] = ()
) -> Observation:
    """What is seen of a loss: the value in fp32 (or fp64, or under a native promise in the dtype of the logits), the
    gradients in the dtype of the logits, and none of these where none are recorded."""
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
    """What a loss that multiplies ``linear`` itself does beside: its leaves have the gradients that the one at the
    logits comes to, unless they have their own."""
    if observation.gradients is None or observation.leaves is not None:
        return observation
    leaves = through(linear, observation.gradients["logits"])
    kind = linear.hidden.dtype
    return replace(observation, leaves={name: gradient.to(kind).double() for name, gradient in leaves.items()})


def refuse(asked: Asked, kind: str, message: str) -> Observation:
    """No answer, but an exception or something of a wrong shape."""
    return Observation(asked.case, Problem(Verdict.ERROR, kind, message))


def computed(asked: Asked, score: Wrong, kind: torch.dtype | None = torch.float32) -> Observation:
    """The right pairs with another score, done by torch in ``kind`` (None: in the dtype of the logits)."""
    case = asked.case
    pairing, batch = case.pairing, case.batch
    leaves = {name: batch.tensor(name).detach().clone().requires_grad_() for name in pairing.shapes}
    losses = torch.zeros(len(pairing.pairs), dtype=torch.float64)
    for index, term in enumerate(pairing.terms):
        chosen, rows, targets, _ = of_term(pairing, index)
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
    factors = torch.tensor([pair.weight for pair in pairing.pairs], dtype=torch.float64) * asked.backwards
    if isinstance(asked.upstream, Tensor):
        factors = factors * torch.tensor(coming(asked, pairing, asked.upstream), dtype=torch.float64)
    else:
        factors = factors * asked.upstream
    total = (losses * factors).sum()
    if not total.requires_grad:
        return give(asked, values, {name: torch.zeros_like(leaf).double() for name, leaf in leaves.items()})
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
    return give(asked, values, {name: gradient.double() for name, gradient in gradients.items()})
