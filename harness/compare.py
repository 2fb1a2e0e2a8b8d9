"""When two numbers are the same: bounds derived from dtype, vocabulary, summation length and magnitudes.

``u`` is the unit roundoff of the arithmetic that a candidate promises: fp32 for *strict* candidates, whatever the
logits' dtype; the logits' own for *native* ones. With ``red = log2 V + 1 + V/64`` (the exp-sum over V, sequential in
places):

- each log-probability may be off by ``u·(max|z| + |lse|)`` plus ``2⁻²⁴·red``
- the loss, by the weighted sum of that, by the summation of n terms in fp32 one after the other, ``(n−1)·2⁻²⁴`` of
  their sum (Higham 2002, 4.2; torch's own mean comes to 37·2⁻²⁴ at n = 660, where small terms are lost in a large
  sum), and by the output's own rounding
- each element of the gradient, by its own rounding and by ``|w|·(p + 1[j = y])`` times twice the above

and everything times SAFETY. On every case the bounds must be alive: see :func:`dead_value_bound`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import Pairing, labels_of, shift_of

from .cases import Case

SAFETY = 2.0
_FP32_ROUNDOFF = 2.0**-24
_GRADIENT_FLOOR = {"float16": 2.0**-24, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


class Precision(StrEnum):
    """What arithmetic a candidate promises."""

    STRICT = "strict"  # accumulates in fp32, whatever the dtype of the logits
    NATIVE = "native"  # computes in the dtype of the logits


@dataclass(frozen=True, eq=False)
class Bounds:
    """How far a right candidate may be from the oracle on one case.

    Attributes:
        value: for a scalar loss, a float.
        per_token: [n] float64, for each pair's own score under reduction none.
        gradient: [B, L, V] float64, element by element; 0 in rows that no pair uses.
    """

    value: float
    per_token: Tensor
    gradient: Tensor


def derive_bounds(case: Case, precision: Precision, returned: torch.dtype) -> Bounds:
    """The bounds of one case for a candidate that returned a loss of dtype ``returned``."""
    pairs = case.pairing.pairs
    zero = torch.zeros(case.pairing.logits_shape, dtype=torch.float64)
    if not pairs:
        return Bounds(0.0, torch.zeros(0, dtype=torch.float64), zero)
    rows = torch.tensor([pair.logit[0] for pair in pairs])
    positions = torch.tensor([pair.logit[1] for pair in pairs])
    targets = torch.tensor([pair.target for pair in pairs])
    weights = torch.tensor([abs(pair.weight) for pair in pairs], dtype=torch.float64)
    logits = case.batch.logits[rows, positions].double()
    dtype = case.batch.logits.dtype
    unit = _unit_roundoff(dtype, precision)
    classes = logits.shape[-1]
    reduction = _FP32_ROUNDOFF * (math.log2(classes) + 1 + classes / 64) if classes > 1 else _FP32_ROUNDOFF
    largest = logits.abs().masked_fill(logits.isinf(), 0.0).amax(-1)
    each = unit * (largest + case.oracle.lse.abs()) + reduction
    at_target = logits.gather(-1, targets[:, None]).squeeze(-1).abs()
    score = each + unit * at_target
    out = torch.finfo(returned).eps if returned.is_floating_point else 0.0
    per_token = SAFETY * (score + out * case.oracle.per_token)
    summed = float((weights * case.oracle.per_token).sum())
    adding = _FP32_ROUNDOFF * (len(pairs) - 1)
    total = float((weights * score).sum()) + (adding + out) * summed
    elementwise = torch.exp(logits - case.oracle.lse[:, None])
    elementwise.scatter_add_(-1, targets[:, None], torch.ones_like(weights)[:, None])
    spread = (2 * weights * each)[:, None] * elementwise
    bound = zero.index_put((rows, positions), spread, accumulate=True)
    used = torch.zeros(zero.shape[:2], dtype=torch.bool)
    used[rows, positions] = True
    rounding = torch.finfo(dtype).eps * case.oracle.gradient.abs() + _floor(dtype)
    bound = torch.where(used[..., None], bound + rounding, bound)
    return Bounds(SAFETY * total, per_token, SAFETY * bound)


def same_value(found: float, expected: float, bound: float) -> bool:
    """Whether two losses agree: NaN with NaN, infinity with itself, finite within the bound."""
    if math.isnan(expected) or math.isnan(found):
        return math.isnan(expected) and math.isnan(found)
    return found == expected or abs(found - expected) <= bound


@dataclass(frozen=True)
class Mismatch:
    """Where two tensors differ by more than their bound allows."""

    wrong: int
    total: int
    worst: tuple[int, ...]
    found: float
    expected: float
    allowed: float

    def describe(self, what: str) -> str:
        """One sentence, in the manner of torch.testing: count, percentage, worst index, allowed difference."""
        share = 100.0 * self.wrong / max(self.total, 1)
        return (
            f"{self.wrong} of {self.total} elements of the {what} ({share:.3g}%) are wrong; the worst, at "
            f"{list(self.worst)}, is {self.found:.9g} where {self.expected:.9g} ± {self.allowed:.2g} is right"
        )


def agreement(found: Tensor, expected: Tensor, bound: Tensor | float) -> Tensor:
    """Element by element, whether two float64 tensors of one shape agree. NaN agrees with NaN only."""
    return ((found - expected).abs() <= bound) | (found == expected) | (found.isnan() & expected.isnan())


def compare_tensors(found: Tensor, expected: Tensor, bound: Tensor | float) -> Mismatch | None:
    """The mismatch of two float64 tensors of one shape, with its worst element; or None."""
    agree = agreement(found, expected, bound)
    if bool(agree.all()):
        return None
    allowed = torch.as_tensor(bound, dtype=torch.float64).expand(expected.shape)
    excess = (found - expected).abs() / allowed.clamp_min(1e-300)
    excess = torch.where(agree, torch.zeros_like(excess), excess.nan_to_num(nan=math.inf, posinf=math.inf))
    flat = int(excess.argmax())
    worst: tuple[int, ...] = ()
    for extent in reversed(expected.shape):
        flat, place = divmod(flat, extent)
        worst = (place, *worst)
    return Mismatch(
        wrong=int((~agree).sum()),
        total=expected.numel(),
        worst=worst,
        found=float(found[worst]),
        expected=float(expected[worst]),
        allowed=float(allowed[worst]),
    )


def dead_value_bound(case: Case, bounds: Bounds) -> str | None:
    """The name of a null candidate whose value this case's bounds would let pass, or None if they are alive.

    The null candidates: zero, the constant ln V, and the loss on labels one place off. A case on which one of them
    passes proves nothing; cases without any finite value to miss are not asked.
    """
    expected = case.oracle.value
    if not case.pairing.pairs or expected is None or not math.isfinite(expected):
        return None
    misaligned = evaluate(misalign(case), case.batch.logits).value
    constant = math.log(case.recipe.classes) * sum(pair.weight for pair in case.pairing.pairs)
    for name, value in {"zero": 0.0, "constant": constant, "misaligned": misaligned}.items():
        if value is not None and same_value(value, expected, bounds.value):
            return name
    return None


def dead_gradient_bound(case: Case, bounds: Bounds) -> str | None:
    """As :func:`dead_value_bound`, for gradients: zero, at the targets only, and that of labels one place off."""
    expected = case.oracle.gradient
    if not case.pairing.pairs or not bool(expected.isfinite().all()):
        return None
    targets_only = torch.zeros_like(expected)
    for pair in case.pairing.pairs:
        targets_only[pair.logit][pair.target] -= pair.weight
    misaligned = evaluate(misalign(case), case.batch.logits).gradient
    nulls = {"zero": torch.zeros_like(expected), "targets only": targets_only, "misaligned": misaligned}
    for name, gradient in nulls.items():
        if bool(agreement(gradient, expected, bounds.gradient).all()):
            return name
    return None


def misalign(case: Case) -> Pairing:
    """The case's pairs with every label taken one place off: earlier if the loss shifts, else later."""
    term = case.spec.terms[0]
    labels: list[list[int]] = labels_of(term, case.batch).tolist()
    step = -1 if shift_of(term, case.batch) else 1
    moved = []
    for pair in case.pairing.pairs:
        row, position = pair.label
        if 0 <= position + step < len(labels[row]) and 0 <= labels[row][position + step] < case.recipe.classes:
            moved.append(pair._replace(label=(row, position + step), target=labels[row][position + step]))
    return replace(case.pairing, pairs=tuple(moved))


def _unit_roundoff(dtype: torch.dtype, precision: Precision) -> float:
    if precision is Precision.STRICT:
        return _FP32_ROUNDOFF if dtype is not torch.float64 else 2.0**-53
    return max(torch.finfo(dtype).eps / 2, 2.0**-53)


def _floor(dtype: torch.dtype) -> float:
    return _GRADIENT_FLOOR[str(dtype).removeprefix("torch.")]
