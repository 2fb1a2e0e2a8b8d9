"""The right value and gradient of one batch: a weighted sum over an explicit list of pairs, in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import Batch
from .pairing import Pairing
from .score import evaluate_rows

_ELEMENTS_AT_ONCE = 1 << 20  # of [rows, V] float64: 8 MiB, so that large batches need little more than their gradient


@dataclass(frozen=True, eq=False)
class Oracle:
    """The right answer of a loss on one batch.

    Attributes:
        value: the loss, a float. NaN if the spec requires it, None if the spec leaves it undefined.
        per_token: [n] float64, the score ℓ of each pair, in the pairing's order.
        lse: [n] float64, logsumexp of each pair's logits.
        gradients: of the loss at each of the spec's logits, by argument, in their shapes, float64. Exactly 0 in rows
            that no pair uses.
    """

    value: float | None
    per_token: Tensor
    lse: Tensor
    gradients: Mapping[str, Tensor]


def evaluate(pairing: Pairing, batch: Batch) -> Oracle:
    """Compute the loss over ``pairing`` at the logits of ``batch``, of any floating dtype. All arithmetic is float64.

    If the denominator is 0, pairs have infinite or NaN weights, and so does the value, as in real losses.
    """
    per_token = torch.zeros(len(pairing.pairs), dtype=torch.float64)
    lse = torch.zeros(len(pairing.pairs), dtype=torch.float64)
    gradients = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in pairing.shapes.items()}
    for index, term in enumerate(pairing.terms):
        logits = batch.tensor(term.logits).detach()
        classes = logits.shape[-1]
        class_weights = batch.tensor("class_weights").double() if term.score.class_weights else None
        chosen, rows, targets, weights = pairing.by_term[index]
        flat, gradient = logits.reshape(-1, classes), gradients[term.logits].view(-1, classes)
        at_once = max(_ELEMENTS_AT_ONCE // classes, 1)
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            scores = evaluate_rows(flat[rows[part]].double(), targets[part], term.score, class_weights)
            per_token[chosen[part]], lse[chosen[part]] = scores.loss, scores.lse
            gradient.index_add_(0, rows[part], scores.gradient.mul_(weights[part, None]))
    value = pairing.empty
    if value is not None and pairing.pairs:
        weights = torch.tensor([pair.weight for pair in pairing.pairs], dtype=torch.float64)
        value += _total((weights * per_token).tolist())
    return Oracle(value, per_token, lse, gradients)


def _total(terms: list[float]) -> float:
    """The correctly rounded sum. math.fsum raises for ∞ − ∞, which is NaN."""
    return math.fsum(terms) if all(map(math.isfinite, terms)) else sum(terms)
