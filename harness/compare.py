"""When two numbers are the same: bounds derived from dtype, vocabulary, summation length and magnitudes.

``u`` is the unit roundoff of the arithmetic that a candidate promises: fp32 for *strict* candidates, whatever the
logits' dtype; the logits' own for *native* ones. With ``red = log2 V + 1 + V/8`` (the exp-sum over V, sequential in
places):

- each log-probability may be off by ``u·(max|z| + |lse|)`` plus ``2⁻²⁴·red``
- the loss, by the weighted sum of that, by the summation of n terms in fp32 one after the other, ``(n−1)·2⁻²⁴`` of
  their sum (Higham 2002, 4.2; torch's own mean comes to 37·2⁻²⁴ at n = 660, where small terms are lost in a large
  sum), and by the output's own rounding
- each element of the gradient, by its own rounding and by ``|w|·(p + 1[j = y])`` times twice the above
- each element of the gradient of a weight that makes the logits, by the sum of what the logits' may be off by

and everything times SAFETY. docs/bounds.md derives each term; :mod:`.liveness` shows on every case that wrong fails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shiftproof.reference.oracle import of_term
from shiftproof.reference.score import Scores, evaluate_rows
from shiftproof.reference.spec import Compute

from .cases import Case
from .linear import HIDDEN, Linear, through
from .rounding import rounding

SAFETY = 2.0
_FP32_ROUNDOFF = 2.0**-24
_GRADIENT_FLOOR = {"float16": 2.0**-24, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


@dataclass(frozen=True, eq=False)
class Bounds:
    """How far a right candidate may be from the oracle on one case.

    Attributes:
        value: for a scalar loss, a float.
        per_token: [n] float64, for each pair's own score under reduction none.
        gradients: for each of the spec's logits, in their shapes, float64, element by element; 0 in rows that no pair
            uses.
        compute: the arithmetic, and ``returned`` the dtype of the loss, that they are for.
    """

    value: float
    per_token: Tensor
    gradients: Mapping[str, Tensor]
    compute: Compute = Compute.STRICT
    returned: torch.dtype = torch.float32


def derive_bounds(case: Case, compute: Compute, returned: torch.dtype) -> Bounds:
    """The bounds of one case for a candidate of this arithmetic that returned a loss of dtype ``returned``."""
    pairing, batch, scored = case.pairing, case.batch, case.oracle.per_token
    out = torch.finfo(returned).eps if returned.is_floating_point else 0.0
    score = torch.zeros_like(scored)
    total = 0.0
    gradients = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in pairing.shapes.items()}
    for index, term in enumerate(pairing.terms):
        chosen, rows, targets, weights = of_term(pairing, index)
        if not len(chosen):
            continue
        weights = weights.abs()
        logits = batch.tensor(term.logits)
        flat = logits.reshape(-1, logits.shape[-1])[rows].double()
        class_weights = batch.tensor("class_weights").double() if term.score.class_weights else None
        scores = Scores(scored[chosen], case.oracle.lse[chosen], flat)
        if term.score.dft:  # the one score whose rounding depends on its own gradient
            scores = evaluate_rows(flat, targets, term.score, class_weights)
        unit = _unit_roundoff(logits.dtype, compute)
        errors = rounding(flat, targets, weights, scores, term.score, class_weights, unit)
        score[chosen] = errors.score
        summed = float((weights * scored[chosen].abs()).sum())
        adding = _FP32_ROUNDOFF * (len(chosen) + len(pairing.denominators) - 2)
        total += float((weights * errors.score).sum()) + (adding + out) * summed
        bound = gradients[term.logits].view(-1, logits.shape[-1])
        bound.index_add_(0, rows, errors.gradient)
        used = torch.zeros(len(bound), dtype=torch.bool)
        used[rows] = True
        right = case.oracle.gradients[term.logits].view_as(bound)
        rounded = torch.finfo(logits.dtype).eps * right.abs() + _floor(logits.dtype)
        bound[used] += rounded[used]
    per_token = SAFETY * (score + out * scored.abs())
    gradients = {name: SAFETY * bound for name, bound in gradients.items()}
    return Bounds(SAFETY * total, per_token, gradients, compute, returned)


def derive_leaf_bounds(case: Case, linear: Linear, bounds: Bounds) -> dict[str, Tensor]:
    """How far the gradients of hidden states, weight and bias may be off where that at the logits may by ``bounds``.

    Each is a sum of products with the gradient at the logits: what that may be off by, multiplied and added up; the
    summation in fp32, term by term, whatever the dtype; and the rounding of the sum to its dtype.
    """
    dtype = case.batch.tensor("logits").dtype
    gradient, off = case.oracle.gradients["logits"], bounds.gradients["logits"]
    classes = gradient.shape[-1]
    rows = gradient.numel() // classes
    magnitudes = replace(linear, hidden=linear.hidden.abs(), weight=linear.weight.abs())
    inherited, summed = through(magnitudes, off), through(magnitudes, gradient.abs())
    return {
        name: inherited[name]
        + SAFETY
        * (
            _FP32_ROUNDOFF * max((classes if name == HIDDEN else rows) - 1, 0) * summed[name]
            + torch.finfo(dtype).eps * right.abs()
            + _floor(dtype)
        )
        for name, right in through(linear, gradient).items()
    }


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


def different_gradients(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], bounds: Mapping[str, Tensor | float]
) -> str | None:
    """Where gradients at the same logits differ by more than their bounds allow, in one sentence; or None."""
    for name, right in expected.items():
        mismatch = compare_tensors(found[name], right, bounds[name])
        if mismatch is not None:
            return mismatch.describe("gradient" if len(expected) == 1 else f"gradient at {name}")
    return None


def _unit_roundoff(dtype: torch.dtype, compute: Compute) -> float:
    if compute is Compute.STRICT:
        return _FP32_ROUNDOFF if dtype is not torch.float64 else 2.0**-53
    return max(torch.finfo(dtype).eps / 2, 2.0**-53)


def _floor(dtype: torch.dtype) -> float:
    return _GRADIENT_FLOOR[str(dtype).removeprefix("torch.")]
