"""Whether the bounds of a case are alive: candidates that have nothing to do with the loss must fail them.

A tolerance is as good as what it catches, so every judged case is asked: would a *null candidate* pass here?

| null | value | gradient |
|---|---|---|
| zero | 0 | 0 |
| constant | ln V | |
| mean log V | Σ w·ln V, what labels cost that nothing is known of | |
| misaligned | every label one place off: not shifted, or shifted where the spec does not | the same |
| a little off | 1% more, or 4 eps of the dtype where that is more | the same |
| targets only | | right at the targets, 0 elsewhere |
| half the classes | | right in one half of the classes, 0 in the other |
| one token | | one pair, whichever is hardest to tell, scored on another class |

A case is *vacuous* to whoever asks for the value if one of the left column passes, to whoever asks for the gradient if
one of the right does, and to a law that asks for both only if it is to each. Two nulls are not asked everywhere:

- One wrong token of N moves the value by 1/N of a score and may move it by nothing, where both classes have the same
  logit. The value need not tell it; the gradient, which changes by the pair's whole weight in two places, must.
- In a native candidate's own 8 or 11 bits a log-probability may be off by more than 1% of a loss, so that *a little
  off* cannot be told from right there, nor a gradient where a row's logits are large: see docs/bounds.md.

What to do with a vacuous case is for the judge, who draws it again (``judged`` in :mod:`.judge`).

Cases whose right value or gradient is not finite, or that score nothing, have nothing to miss and are not asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.oracle import of_term
from shiftproof.reference.pairing import Pairing, Place, labels_of, shift_of
from shiftproof.reference.score import charge, evaluate_rows
from shiftproof.reference.spec import Compute, Reduction

from .cases import Case
from .compare import Bounds, agreement

LITTLE = 0.01
_LITTLE_IN_EPS = 4.0


def dead_value_bound(case: Case, bounds: Bounds) -> str | None:
    """The name of a null candidate whose value this case's bounds would let pass, or None if they are alive."""
    return next(passing_values(case, bounds), None)


def dead_gradient_bound(case: Case, bounds: Bounds) -> str | None:
    """As :func:`dead_value_bound`, for gradients."""
    return next(passing_gradients(case, bounds), None)


def passing_values(case: Case, bounds: Bounds) -> Iterator[str]:
    """The names of all null candidates whose value would pass; under reduction none, whose every score would."""
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
    """The names of all null candidates whose gradient would pass."""
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
    """The case's pairs with every label taken one place off in time: earlier if the loss shifts, else later."""
    moved = [
        pair._replace(label=there[0], target=there[1])
        for pair, there in zip(case.pairing.pairs, _one_off(case), strict=True)
        if there is not None
    ]
    return replace(case.pairing, pairs=tuple(moved))


def _one_off(case: Case) -> list[tuple[Place, int] | None]:
    """For each pair, the label one place off and the class that stands there; None where no class does."""
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
    """The score of each pair [n] on the label one place off, 0 where there is none."""
    scores = torch.zeros_like(case.oracle.per_token)
    others = _other_targets(case)
    for index, term in enumerate(case.pairing.terms):
        chosen, rows, targets, _ = of_term(case.pairing, index)
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
    """Whether the gradient may be 0 wherever no target is."""
    for name, each in small.items():
        off = each.clone()
        for pair_of in (of_term(case.pairing, i) for i, t in enumerate(case.pairing.terms) if t.logits == name):
            off.view(-1, off.shape[-1])[pair_of[1], pair_of[2]] = True
        if not bool(off.all()):
            return False
    return True


def _passes_moved(case: Case, bounds: Bounds) -> bool:
    """Whether the gradient of the labels one place off is within the bounds."""
    others = _other_targets(case)
    for index, term in enumerate(case.pairing.terms):
        chosen, rows, targets, weights = of_term(case.pairing, index)
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
    """Whether any one pair may be scored on the class after its own without the gradient telling."""
    for index, term in enumerate(case.pairing.terms):
        _, rows, targets, weights = of_term(case.pairing, index)
        counts = weights != 0
        other = (targets + 1) % case.pairing.shapes[term.logits][-1]
        if bool(_unseen(case, bounds, index, rows[counts], targets[counts], other[counts], weights[counts]).any()):
            return True
    return False


def _unseen(
    case: Case, bounds: Bounds, term: int, rows: Tensor, targets: Tensor, others: Tensor, weights: Tensor
) -> Tensor:
    """Of pairs [n] of one term, whether scoring them on ``others`` leaves their rows' gradients within the bounds."""
    bound = bounds.gradients[case.pairing.terms[term].logits]
    bound = bound.view(-1, bound.shape[-1])
    onto = _onto_target(case, term)
    if onto is not None:  # only the two targets' elements change, by as much
        change = onto * weights.abs()
        return (change <= bound[rows, targets]) & (change <= bound[rows, others])
    right, wrong = (_evaluate(case, term, rows, of)[1] for of in (targets, others))
    return ((wrong - right).abs() * weights.abs()[:, None] <= bound[rows]).all(-1)


def _onto_target(case: Case, term: int) -> float | None:
    """What a row's own logit is multiplied by in its score if no other logit's part depends on which one it is."""
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
    """The class one place off for each pair, [n] int64; −1 where there is none."""
    return torch.tensor([-1 if there is None else there[1] for there in _one_off(case)], dtype=torch.long)


def _little(dtype: torch.dtype) -> float:
    return max(LITTLE, _LITTLE_IN_EPS * torch.finfo(dtype).eps)
