"""Read from a black box which logits it scored on which labels, and with which weights.

By gradient: for cross-entropy, ∂L/∂x_i = W_i·(softmax(x_i) − onehot(y_i)). So one backward shows the class and the
weight of every row of logits. By value, if there is no gradient: change the label at place j from class a to class b.
Then the loss moves by Σ_i W_ij·(x_i[a] − x_i[b]). Enough changes determine all W_ij.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pair, Pairing, Place
from shiftproof.reference.spec import Score

from .modified_scores import read_rows

Site = tuple[str, *tuple[int, ...]]
"""A place in one of a batch's arrays: the argument's name, row, position and, if there are codebooks, codebook."""

ScoredRows = Mapping[Site, Mapping[int, float]]  # logit site -> class scored on -> weight
"""The classes on which each row of logits was scored. Rows without a gradient are absent."""

# A smaller share of a row's weight is rounding in the softmax, not a second target.
_SECOND_TARGET = 0.05
_ALIKE = 1e-6  # of the largest singular value: the difference of two equal rows in float32


def read_gradients(gradients: Mapping[str, Tensor], pairing: Pairing, batch: Batch) -> ScoredRows:
    """Read the class and weight of every row of every array of logits that ``pairing``'s terms score.

    Under plain cross-entropy, a row with several targets gives several classes. V must be at least 2, because with one
    class every gradient is 0.
    """
    found: dict[Site, Mapping[int, float]] = {}
    for name, gradient in gradients.items():
        how = next(term.score for term in pairing.terms if term.logits == name)
        logits = batch.tensor(name)
        if how.is_plain:
            rows = _read_plain(gradient, logits)
        else:
            rows = _read_modified(gradient.to(logits.dtype), logits, how, batch.class_weights)
        found |= {(name, *place): weights for place, weights in rows.items()}
    return found


def _read_modified(
    gradient: Tensor, logits: Tensor, how: Score, class_weights: Tensor | None
) -> dict[Place, dict[int, float]]:
    places = (gradient != 0).any(-1).nonzero()
    at = places.unbind(1)
    read = read_rows(gradient[at], logits[at], how, class_weights)
    return {
        tuple(place): {target: weight} if math.isfinite(weight) else {}
        for place, target, weight in zip(places.tolist(), read.targets.tolist(), read.weights.tolist(), strict=True)
    }


def _read_plain(gradient: Tensor, logits: Tensor) -> dict[Place, dict[int, float]]:
    """The classes and weights of the rows of ``gradient`` and ``logits``, both [..., V]."""
    rows = (gradient != 0).any(-1).nonzero()
    at = rows.unbind(1)
    g = gradient[at].double()
    probabilities = torch.softmax(logits[at].double(), dim=-1)
    # Mostly one element is negative and the others are positive. Such rows are read at once, the others one by one.
    plain = ((g < 0).sum(-1) == 1) & g.isfinite().all(-1)
    targets = g.argmin(-1, keepdim=True)
    weights = -g.gather(-1, targets) / (1 - probabilities.gather(-1, targets))
    rest = (g - weights * probabilities).scatter(-1, targets, 0.0)
    plain &= rest.abs().amax(-1) <= _SECOND_TARGET * g.abs().amax(-1)
    found: dict[Place, dict[int, float]] = {}
    for index, (place, is_plain, target, weight) in enumerate(
        zip(rows.tolist(), plain.tolist(), targets.flatten().tolist(), weights.flatten().tolist(), strict=True)
    ):
        found[tuple(place)] = {target: weight} if is_plain else _explain(g[index], probabilities[index])
    return found


def site_of(pairing: Pairing, pair: Pair) -> Site:
    """The site of a pair's logits."""
    return (pairing.terms[pair.term].logits, *pair.logit)


def predict(pairing: Pairing) -> ScoredRows:
    """The result of :func:`read_gradients` for a loss with exactly these pairs."""
    expected: dict[Site, dict[int, float]] = {}
    for pair in pairing.pairs:
        if pair.weight:
            row = expected.setdefault(site_of(pairing, pair), {})
            row[pair.target] = row.get(pair.target, 0.0) + pair.weight
    return expected


def _explain(row: Tensor, probabilities: Tensor) -> dict[int, float]:
    """The weights t_j with row = W·p − t and Σ t = W, for a row that does not have exactly one negative element."""
    if not bool(row.isfinite().all()):
        return {}
    above = row > 0
    if int(above.sum()) == 1 and row.numel() > 2:
        # One positive element: a negative weight, if the others are proportional to their probabilities.
        target = int(above.nonzero())
        weight = float(-row[target] / (1 - probabilities[target]))
        rest = row - weight * probabilities
        rest[target] = 0.0
        if float(rest.abs().max()) <= _SECOND_TARGET * float(row.abs().max()):
            return {target: weight}
    # g_j/p_j is W for classes that are no target, and less for targets. Unlikely classes, mostly rounding, are skipped.
    likely = probabilities >= probabilities.median()
    total = float((row[likely] / probabilities[likely]).max())
    weights = total * probabilities - row
    return {j: float(weights[j]) for j in range(row.numel()) if float(weights[j]) > _SECOND_TARGET * max(total, 1e-30)}


_MORE_CHANGES = 8  # changes of a label beyond the number of rows to tell apart; more changes would not help

UNCLEAR: Place = (-2, -2)
"""A row that was scored for some digits of its label and not for others: its class matters, not its place."""

Positions = Mapping[Site, tuple[Place, ...]]  # logit site -> label places scored on
"""The labels on which each row of logits was scored, as places. A label that is at no place is (−1, its code)."""


def read_positions(digits: list[ScoredRows], classes: int, shape: tuple[int, ...]) -> Positions:
    """Decode places from results of :func:`read_gradients`, one per base-V digit of the label's place, lowest first.

    ``shape`` is the shape of the labels. What is no label's place is (-1, class), or (-1, -1) without a class. A row
    with several labels is decoded only if one digit is enough (V ≥ labels).
    """
    labels = math.prod(shape)
    found: dict[Site, tuple[Place, ...]] = {}
    for site in sorted(set().union(*digits)):
        per_digit = [sorted(scored.get(site, {})) for scored in digits]
        if len(digits) == 1:
            codes = per_digit[0]
        elif all(len(targets) == 1 for targets in per_digit):
            codes = [sum(targets[0] * classes**power for power, targets in enumerate(per_digit))]
        elif any(len(targets) == 1 for targets in per_digit):
            found[site] = (UNCLEAR,)
            continue
        else:
            codes = []
        beyond = {code: (-1, code if len(digits) == 1 else -1) for code in codes if code >= labels}
        found[site] = tuple(beyond.get(code) or _unravel(code, shape) for code in codes) or ((-1, -1),)
    return found


def _unravel(index: int, shape: tuple[int, ...]) -> Place:
    place: Place = ()
    for extent in reversed(shape):
        index, at = divmod(index, extent)
        place = (at, *place)
    return place


def probe_value(
    evaluate: Callable[[Tensor], float],
    logits: Mapping[str, Tensor],
    labels: Tensor,
    valid: Iterable[Place],
    legal: Iterable[int] | None = None,
) -> dict[Site, dict[Place, float]]:
    """Find the weights W_ij from values alone: logit site -> label place -> weight.

    Args:
        evaluate: gives the loss for changed labels.
        logits: all logits that these labels may be paired with, [..., V] with one V, as they enter the logsumexp.
        labels: the labels of the batch.
        valid: the label places to try.
        legal: the classes that are not ignored (None: all V). There must be at least rows + 2, so that every label
            place has more changes than there are rows of logits.

    Takes one evaluation per valid label place and class. At most rows + 8 classes are used.

    Raises:
        ValueError: there are too few classes.
    """
    flat = torch.cat([tensor.double().flatten(0, -2) for tensor in logits.values()])
    sites: list[Site] = [
        (name, *_unravel(row, tuple(tensor.shape[:-1])))
        for name, tensor in logits.items()
        for row in range(math.prod(tensor.shape[:-1]))
    ]
    rows = len(flat)
    ids = list(range(flat.shape[1]) if legal is None else legal)[: rows + _MORE_CHANGES]
    if len(ids) < rows + 2:
        raise ValueError(f"{len(ids)} classes cannot tell {rows} logit rows apart; use at least {rows + 2} classes")
    found: dict[Site, dict[Place, float]] = {}
    for place in valid:
        base = int(labels[place])
        others = [c for c in ids if c != base]
        losses = []
        for c in [base, *others]:
            changed = labels.clone()
            changed[place] = c
            losses.append(evaluate(changed))
        if not all(map(math.isfinite, losses)):
            continue  # nothing can be read from such a loss: the place gets no row
        moved = torch.tensor(losses[1:], dtype=torch.float64) - losses[0]
        design = flat[:, [base]].T - flat[:, others].T
        # Rows that are equal up to rounding, such as those of one image in every sequence, must not be told apart.
        weights = torch.linalg.lstsq(design, moved[:, None], rcond=_ALIKE, driver="gelsd").solution.flatten()
        for site, weight in zip(sites, weights.tolist(), strict=True):
            if abs(weight) > _SECOND_TARGET * max(float(weights.abs().max()), 1e-4):
                found.setdefault(site, {})[place] = weight
    return found
