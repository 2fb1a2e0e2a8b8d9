"""Reading back, from a black box, which logits it scored on which labels and with what weight.

By gradient: for cross-entropy ∂L/∂x_i = W_i·(softmax(x_i) − onehot(y_i)), so one backward shows for every logit row the
class it was scored on and its weight. By value, where no gradient is to be had: change the label at place j from
class a to class b and the loss moves by Σ_i W_ij·(x_i[a] − x_i[b]); enough changes determine all the W_ij.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pair, Pairing, Place
from shiftproof.reference.spec import Score

from .unscore import read_rows

Site = tuple[str, *tuple[int, ...]]
"""A place in one of a batch's arrays: its argument's name, then row, position and, where there is one, codebook."""

Scored = Mapping[Site, Mapping[int, float]]  # logit site -> class scored on -> weight
"""What each logit row was scored on. Rows with no gradient are absent."""

# A share of a row's weight below this is rounding in the softmax, not a second target.
_SECOND_TARGET = 0.05
_ALIKE = 1e-6  # of the largest singular value: what float32 leaves of two rows that are the same


def read_gradients(gradients: Mapping[str, Tensor], pairing: Pairing, batch: Batch) -> Scored:
    """The class and weight of every row of every array of logits that ``pairing``'s terms score.

    A row with several targets gives several classes, under plain cross-entropy. V must be at least 2: with one class
    every gradient is 0.
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
    # Nearly always one class falls and the rest rise. All such rows are read at once, the others one by one.
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
    """Where the logits of a pair are."""
    return (pairing.terms[pair.term].logits, *pair.logit)


def predict(pairing: Pairing) -> Scored:
    """What :func:`read_gradients` finds for a loss with exactly these pairs."""
    expected: dict[Site, dict[int, float]] = {}
    for pair in pairing.pairs:
        if pair.weight:
            row = expected.setdefault(site_of(pairing, pair), {})
            row[pair.target] = row.get(pair.target, 0.0) + pair.weight
    return expected


def _explain(row: Tensor, probabilities: Tensor) -> dict[int, float]:
    """The weights t_j with row = W·p − t and Σ t = W, of a row in which not exactly one class falls."""
    if not bool(row.isfinite().all()):
        return {}
    above = row > 0
    if int(above.sum()) == 1 and row.numel() > 2:
        # One rises and the others fall: a negative weight, if they fall in proportion to their probabilities.
        target = int(above.nonzero())
        weight = float(-row[target] / (1 - probabilities[target]))
        rest = row - weight * probabilities
        rest[target] = 0.0
        if float(rest.abs().max()) <= _SECOND_TARGET * float(row.abs().max()):
            return {target: weight}
    # Classes that are no target have g_j/p_j = W, and targets less. The least likely are mostly rounding: left out.
    likely = probabilities >= probabilities.median()
    total = float((row[likely] / probabilities[likely]).max())
    weights = total * probabilities - row
    return {j: float(weights[j]) for j in range(row.numel()) if float(weights[j]) > _SECOND_TARGET * max(total, 1e-30)}


_MORE_CHANGES = 8  # of a label than there are rows to be told apart: more of them would tell no more

UNCLEAR: Place = (-2, -2)
"""A row that was scored under some digits of its label and not under others: the class matters, not the place."""

Positions = Mapping[Site, tuple[Place, ...]]  # logit site -> label places scored on
"""What each logit row was scored on, as places in the labels that belong to its logits. A label that stands at no place
is (−1, its code)."""


def read_positions(digits: list[Scored], classes: int, shape: tuple[int, ...]) -> Positions:
    """Places from one :func:`read_gradients` a base-V digit of the label's place, lowest digit first.

    ``shape`` is the labels'. A row scored on several labels is decoded where one digit suffices (V ≥ labels).
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
        found[site] = tuple(_unravel(code, shape) if code < labels else (-1, code) for code in codes) or ((-1, -1),)
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
    """The weights W_ij by values alone: logit site -> label place -> weight.

    ``evaluate`` gives the loss for other ``labels``. ``logits`` are all those that these labels may meet, [..., V] of
    one V, as they enter the logsumexp. ``legal`` are the classes that a label may be without being ignored (None: all
    V), more than rows + 1, so that every label place sees more changes than there are rows of logits. Takes as many
    evaluations a valid label place as there are legal classes.

    Raises:
        ValueError: when there are too few.
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
        raise ValueError(f"{len(ids)} classes cannot tell {rows} logit rows apart; use at least {rows + 2}")
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
            continue  # no loss to read anything from: the place is found on no row
        moved = torch.tensor(losses[1:], dtype=torch.float64) - losses[0]
        design = flat[:, [base]].T - flat[:, others].T
        # Rows that are alike but for rounding, as those of an image in every sequence, cannot be told apart by it.
        weights = torch.linalg.lstsq(design, moved[:, None], rcond=_ALIKE, driver="gelsd").solution.flatten()
        for site, weight in zip(sites, weights.tolist(), strict=True):
            if abs(weight) > _SECOND_TARGET * max(float(weights.abs().max()), 1e-4):
                found.setdefault(site, {})[place] = weight
    return found
