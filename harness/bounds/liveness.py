"""Whether the bounds of a case are alive: candidates that have nothing to do with the loss must fail them.

A tolerance is only as good as the bugs that it catches. So every judged case is checked: would a *null candidate* pass?

| null | value | gradient |
|---|---|---|
| zero | 0 | 0 |
| constant | ln V | |
| mean log V | Σ w·ln V, the loss of a model that knows nothing | |
| misaligned | every label one place off: not shifted, or shifted although the spec does not shift | the same |
| a little off | 1% more, or 4 eps of the dtype if that is more | the same |
| targets only | | right at the targets, 0 elsewhere |
| half the classes | | right in one half of the classes, 0 in the other |
| one token | | one pair, the hardest to notice, scored on another class |

A case is *vacuous* for a law about the value if one null passes in the value column. It is vacuous for a law about the
gradient if one null passes in the gradient column. For a law about both, it is vacuous only if both hold. Two nulls are
not tried everywhere:

- One wrong token of N moves the value by 1/N of a score. If both classes have the same logit, it does not move the
  value at all. So the value need not show it. The gradient changes by the pair's whole weight in two places, so it must
  show it.
- A native candidate computes with 8 or 11 bits. There the error of a log-probability may be more than 1% of a loss. So
  *a little off* cannot be told from right, and neither can a gradient if a row's logits are large: see docs/bounds.md.

The judge redraws a vacuous case (``judge_or_redraw`` in ``harness/judge/ask.py``).

Cases that score nothing, or whose right value or gradient is not finite, are not checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.pairing import Pairing, Place, labels_of, shift_of
from shiftproof.reference.score import charge, evaluate_rows
from shiftproof.reference.spec import Compute, Reduction

from ..cases.build import Case
from .compare import agreement
from .derive import Bounds

LITTLE = 0.01
_LITTLE_IN_EPS = 4.0


def dead_value_bound(case: Case, bounds: Bounds) -> str | None:
    """The name of a null candidate whose value passes this case's bounds, or None if the bounds are alive."""
    return next(passing_values(case, bounds), None)


def dead_gradient_bound(case: Case, bounds: Bounds) -> str | None:
    """The name of a null candidate whose gradient passes this case's bounds, or None if the bounds are alive."""
    return next(passing_gradients(case, bounds), None)


def passing_values(case: Case, bounds: Bounds) -> Iterator[str]:
    """Yield the names of all null candidates whose value passes. Under reduction none, every score must pass."""
    expected = case.oracle.value
    if not case.pairing.pairs or expected is None or not math.isfinite(expected):
        return
    weights = torch.tensor([pair.weight for pair in case.pairing.pairs], dtype=torch.float64)
    classes = [case.pairing.shapes[term.logits][-1] for term in case.pairing.terms]
    logs = torch.tensor([math.log(classes[pair.term]) for pair in case.pairing.pairs], dtype=torch.float64)
    if case.spec.terms[0].reduction is Reduction.NONE:
        right, bound, wrong = case.oracle.per_token, bounds.per_token, _misaligned_scores(case)
        mean, constant = logs, torch.full_like(right, math.log(classes[0]))
    else:
        right, bound = torch.tensor(expected, dtype=torch.float64), torch.tensor(bounds.value)
        wrong = weights @ _misaligned_scores(case)
        mean, constant = weights @ logs, torch.tensor(math.log(classes[0]), dtype=torch.float64)
    nulls = {"zero": torch.zeros_like(right), "constant": constant, "mean log V": mean, "misaligned": wrong}
    if bounds.compute is Compute.STRICT:
        nulls["a little off"] = right * (1 + _little(bounds.returned))
    for name, value in nulls.items():
        if bool(agreement(value, right, bound).all()):
            yield name


def passing_gradients(case: Case, bounds: Bounds) -> Iterator[str]:
    """Yield the names of all null candidates whose gradient passes."""
    expected = case.oracle.gradients
    if not case.pairing.pairs or not all(bool(gradient.isfinite().all()) for gradient in expected.values()):
        return
    sizes = {name: gradient.abs() for name, gradient in expected.items()}
    small = {name: size <= bounds.gradients[name] for name, size in sizes.items()}
    if all(bool(each.all()) for each in small.values()):
        yield "zero"
    halves = [each.tensor_split(2, -1) for each in small.values()]
    if any(all(bool(half[side].all()) for half in halves) for side in (0, 1)):
        yield "half the classes"
    if _passes_off_target(case, small):
        yield "targets only"
    if bounds.compute is Compute.STRICT and all(
        bool((size * _little(case.batch.tensor(name).dtype) <= bounds.gradients[name]).all())
        for name, size in sizes.items()
    ):
        yield "a little off"
    if _passes_moved(case, bounds):
        yield "misaligned"
    if _passes_with_one_wrong(case, bounds):
        yield "one token"


def misalign(case: Case) -> Pairing:
    """Move the label of every pair by one place in time: earlier if the loss shifts, and else later."""
    moved = [
        pair._replace(label=there[0], target=there[1])
        for pair, there in zip(case.pairing.pairs, _one_off(case), strict=True)
        if there is not None
    ]
    return replace(case.pairing, pairs=tuple(moved))


def _one_off(case: Case) -> list[tuple[Place, int] | None]:
    """For each pair, the label one place off and its class. None if there is no class at that place."""
    found: list[tuple[Place, int] | None] = []
    labels = [labels_of(term, case.batch).tolist() for term in case.pairing.terms]
    steps = [-1 if shift_of(term, case.batch) else 1 for term in case.pairing.terms]
    classes = [case.pairing.shapes[term.logits][-1] for term in case.pairing.terms]
    for pair in case.pairing.pairs:
        row, position, *book = pair.label
        position += steps[pair.term]
        in_row = labels[pair.term][row]
        target = -1
        if 0 <= position < len(in_row):
            target = in_row[position][book[0]] if book else in_row[position]
        found.append(((row, position, *book), target) if 0 <= target < classes[pair.term] else None)
    return found


def _misaligned_scores(case: Case) -> Tensor:
    """The score of each pair [n] on the label one place off. 0 if there is none."""
    scores = torch.zeros_like(case.oracle.per_token)
    others = _other_targets(case)
    for index, term in enumerate(case.pairing.terms):
        chosen, rows, targets, _ = case.pairing.by_term[index]
        logits = case.batch.tensor(term.logits)
        flat, other = logits.reshape(-1, logits.shape[-1]), others[chosen]
        kept = other >= 0
        chosen, rows, targets, other = chosen[kept], rows[kept], targets[kept], other[kept]
        onto = _onto_target(case, index)
        if onto is None:
            scores[chosen] = _evaluate(case, index, rows, other)[0]
        else:
            scores[chosen] = case.oracle.per_token[chosen] + onto * (
                flat[rows, targets].double() - flat[rows, other].double()
            )
    return scores


def _passes_off_target(case: Case, small: Mapping[str, Tensor]) -> bool:
    """Whether a gradient that is 0 everywhere except at the targets is within the bounds."""
    for name, each in small.items():
        off = each.clone()
        for term, pairs in zip(case.pairing.terms, case.pairing.by_term, strict=True):
            if term.logits == name:
                off.view(-1, off.shape[-1])[pairs.row, pairs.target] = True
        if not bool(off.all()):
            return False
    return True


def _passes_moved(case: Case, bounds: Bounds) -> bool:
    """Whether the gradient of the labels one place off is within the bounds."""
    others = _other_targets(case)
    for index, term in enumerate(case.pairing.terms):
        chosen, rows, targets, weights = case.pairing.by_term[index]
        other = others[chosen]
        classes = case.pairing.shapes[term.logits][-1]
        bound = bounds.gradients[term.logits].view(-1, classes)
        gone, moved = rows[other < 0], (other >= 0) & (other != targets)
        if not bool((case.oracle.gradients[term.logits].view(-1, classes)[gone].abs() <= bound[gone]).all()):
            return False
        if not bool(_unseen(case, bounds, index, rows[moved], targets[moved], other[moved], weights[moved]).all()):
            return False
    return True


def _passes_with_one_wrong(case: Case, bounds: Bounds) -> bool:
    """Whether some pair can be scored on the class after its own, with a gradient within the bounds."""
    for index, term in enumerate(case.pairing.terms):
        _, rows, targets, weights = case.pairing.by_term[index]
        counts = weights != 0
        other = (targets + 1) % case.pairing.shapes[term.logits][-1]
        if bool(_unseen(case, bounds, index, rows[counts], targets[counts], other[counts], weights[counts]).any()):
            return True
    return False


def _unseen(
    case: Case, bounds: Bounds, term: int, rows: Tensor, targets: Tensor, others: Tensor, weights: Tensor
) -> Tensor:
    """For pairs [n] of one term, whether scoring each on ``others`` leaves its row's gradient within the bounds."""
    bound = bounds.gradients[case.pairing.terms[term].logits]
    bound = bound.view(-1, bound.shape[-1])
    onto = _onto_target(case, term)
    if onto is not None:  # only the elements of the two targets change, both by the same amount
        change = onto * weights.abs()
        return (change <= bound[rows, targets]) & (change <= bound[rows, others])
    right, wrong = (_evaluate(case, term, rows, of)[1] for of in (targets, others))
    return ((wrong - right).abs() * weights.abs()[:, None] <= bound[rows]).all(-1)


def _onto_target(case: Case, term: int) -> float | None:
    """The factor of the target's logit in the score, or None if other parts of the score depend on the target too."""
    how = case.pairing.terms[term].score
    if how.dft or how.class_weights or how.softcap is not None:
        return None
    classes = case.pairing.shapes[case.pairing.terms[term].logits][-1]
    return float(charge(how, classes).target[0]) * how.logit_scale


def _evaluate(case: Case, term: int, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The scores [n] and gradients [n, V] of rows of one term on ``targets``."""
    of = case.pairing.terms[term]
    logits = case.batch.tensor(of.logits)
    class_weights = case.batch.tensor("class_weights").double() if of.score.class_weights else None
    scores = evaluate_rows(logits.reshape(-1, logits.shape[-1])[rows].double(), targets, of.score, class_weights)
    return scores.loss, scores.gradient


def _other_targets(case: Case) -> Tensor:
    """The class one place off for each pair, [n] int64. −1 if there is none."""
    return torch.tensor([-1 if there is None else there[1] for there in _one_off(case)], dtype=torch.long)


def _little(dtype: torch.dtype) -> float:
    return max(LITTLE, _LITTLE_IN_EPS * torch.finfo(dtype).eps)
