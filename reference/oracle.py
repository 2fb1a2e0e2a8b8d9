"""The right value and gradient of one batch: a weighted sum over an explicit list of pairs, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .pairing import Pairing
from .score import cross_entropy


@dataclass(frozen=True, eq=False)
class Oracle:
    """What a loss must be on one batch.

    Attributes:
        value: the loss, a float; NaN where the spec says so, None where the spec leaves it undefined.
        per_token: [n] float64, the score ℓ of each pair, in the pairing's order.
        lse: [n] float64, logsumexp of each pair's logits.
        gradient: [B, L, V] float64, of the loss at the logits; exactly 0 where no pair uses a row.
    """

    value: float | None
    per_token: Tensor
    lse: Tensor
    gradient: Tensor


def evaluate(pairing: Pairing, logits: Tensor) -> Oracle:
    """The loss over ``pairing`` at ``logits`` [B, L, V], of any floating dtype; all arithmetic is float64.

    Pairs divided by nothing have infinite or NaN weights, and so has the value, as in the field.
    """
    logits = logits.detach()
    gradient = torch.zeros(pairing.logits_shape, dtype=torch.float64)
    if not pairing.pairs:
        nothing = torch.zeros(0, dtype=torch.float64)
        return Oracle(pairing.empty, nothing, nothing, gradient)
    rows = torch.tensor([pair.logit[0] for pair in pairing.pairs])
    positions = torch.tensor([pair.logit[1] for pair in pairing.pairs])
    targets = torch.tensor([pair.target for pair in pairing.pairs])
    weights = torch.tensor([pair.weight for pair in pairing.pairs], dtype=torch.float64)
    scores = cross_entropy(logits[rows, positions].double(), targets)
    gradient.index_put_((rows, positions), weights[:, None] * scores.gradient, accumulate=True)
    value = None if pairing.empty is None else _total((weights * scores.loss).tolist()) + pairing.empty
    return Oracle(value, scores.loss, scores.lse, gradient)


def _total(terms: list[float]) -> float:
    """The sum, correctly rounded; math.fsum refuses ∞ − ∞, which is NaN."""
    return math.fsum(terms) if all(map(math.isfinite, terms)) else sum(terms)
