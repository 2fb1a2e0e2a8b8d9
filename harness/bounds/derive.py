"""The largest error of a right implementation: bounds from dtype, vocabulary, summation length and magnitudes.

``u`` is the unit roundoff of the arithmetic that a candidate promises. It is that of fp32 for *strict* candidates,
whatever the logits' dtype, and that of the logits' dtype for *native* ones. ``red = log2 V + 1 + V/8`` is for the
exp-sum over V, which is sequential in places. The error bounds are, each multiplied by SAFETY:

- of each log-probability, ``u·(max|z| + |lse|)`` plus ``2⁻²⁴·red``
- of the loss, the weighted sum of that; plus the summation of n terms in fp32 one after the other, ``(n−1)·2⁻²⁴`` of
  their sum (Higham 2002, 4.2; the error of torch's own mean reaches 37·2⁻²⁴ at n = 660, where small terms are lost in a
  large sum); plus the output's own rounding
- of each element of the gradient, its own rounding, plus ``|w|·(p + 1[j = y])`` times twice the bound of the
  log-probability
- of each element of the gradient of a weight that makes the logits, the sum over the bounds of the logits' gradient

docs/bounds.md derives each term. :mod:`.liveness` checks on every case that wrong candidates fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shiftproof.reference.score import Scores, charge, evaluate_rows, map_logits, slope
from shiftproof.reference.spec import Compute

from ..cases.build import Case
from ..cases.linear import HIDDEN, Linear, through
from .rounding import FP32_ROUNDOFF, rounding

SAFETY = 2.0
_OF_RANDOM_TERMS = 6.0  # times √n: Higham and Mary 2019, with a chance of failure below 10⁻⁷
_ROUNDED_FACTOR = 1.0  # of eps; the deviation of one rounding is a fifth of it
_MOST_BEND = 0.77  # the largest |d²/dx² tanh x|


_GRADIENT_FLOOR = {"float16": 2.0**-24, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


@dataclass(frozen=True, eq=False)
class Bounds:
    """How far a right candidate may be from the oracle on one case.

    Attributes:
        value: for a scalar loss, a float.
        per_token: [n] float64, for each pair's own score under reduction none.
        gradients: for each of the spec's logits, in their shapes, float64, element by element. 0 in rows that no pair
            uses.
        compute: the arithmetic for which the bounds hold.
        returned: the dtype of the loss for which the bounds hold.
    """

    value: float
    per_token: Tensor
    gradients: Mapping[str, Tensor]
    compute: Compute = Compute.STRICT
    returned: torch.dtype = torch.float32


def derive_bounds(case: Case, compute: Compute, returned: torch.dtype) -> Bounds:
    """The bounds of one case for a candidate with this arithmetic that returned a loss of dtype ``returned``."""
    pairing, batch, scored = case.pairing, case.batch, case.oracle.per_token
    out = torch.finfo(returned).eps if returned.is_floating_point else 0.0
    score = torch.zeros_like(scored)
    total = 0.0
    gradients = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in pairing.shapes.items()}
    for index, term in enumerate(pairing.terms):
        chosen, rows, targets, weights = pairing.by_term[index]
        if not len(chosen):
            continue
        weights = weights.abs()
        logits = batch.tensor(term.logits)
        flat = logits.reshape(-1, logits.shape[-1])[rows].double()
        class_weights = batch.tensor("class_weights").double() if term.score.class_weights else None
        scores = Scores(scored[chosen], case.oracle.lse[chosen], flat)
        if term.score.dft:  # the only score whose rounding depends on its own gradient
            scores = evaluate_rows(flat, targets, term.score, class_weights)
        unit = _unit_roundoff(logits.dtype, compute)
        errors = rounding(flat, targets, weights, scores, term.score, class_weights, unit)
        score[chosen] = errors.score
        summed = float((weights * scored[chosen].abs()).sum())
        adding = FP32_ROUNDOFF * (len(chosen) + len(pairing.denominators) - 2)
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


def widen(case: Case, bounds: Bounds, unsure: Tensor) -> Bounds:
    """The bounds of a loss that makes its logits itself, each at most ``unsure`` [B, L, V] away from the case's.

    To first order. With ζ = unsure · dz/dx and e = Σ_v p_v ζ_v, the gradient α·p − … at z moves by α·p·(ζ + e), and by
    2·z_loss·p·e; under a softcap, dz/dx itself moves by at most 0.77·logit_scale²/softcap · unsure.
    """
    (name,) = case.spec.logits
    score = bounds.per_token.clone()
    gradient = bounds.gradients[name].clone()
    total = bounds.value
    for index, term in enumerate(case.pairing.terms):
        chosen, rows, targets, weights = case.pairing.by_term[index]
        how, classes = term.score, gradient.shape[-1]
        x, off = (of.reshape(-1, classes)[rows].double() for of in (case.batch.tensor(name), unsure))
        class_weights = case.batch.tensor("class_weights").double() if how.class_weights else None
        scores = evaluate_rows(x, targets, how, class_weights)
        charges = charge(how, classes, class_weights)
        alpha = charges.target[targets] + charges.every.sum() + 2 * how.z_loss * scores.lse
        steepness = slope(x, how)
        p = torch.exp(map_logits(x, how) - scores.lse[:, None])
        moved = off * steepness
        of_lse = (p * moved).sum(1)
        at_z = p * (alpha[:, None] * (moved + of_lse[:, None]) + 2 * how.z_loss * of_lse[:, None])
        at_x = at_z * steepness
        if how.softcap is not None:
            bend = _MOST_BEND * how.logit_scale**2 / how.softcap
            at_x += (scores.gradient.abs() / steepness) * bend * off
        of_score = SAFETY * (scores.gradient.abs() * off).sum(1)
        score[chosen] += of_score
        total += float((weights.abs() * of_score).sum())
        gradient.view(-1, classes).index_add_(0, rows, SAFETY * weights.abs()[:, None] * at_x)
    return replace(bounds, value=total, per_token=score, gradients={name: gradient})


def derive_leaf_bounds(case: Case, linear: Linear, bounds: Bounds) -> dict[str, Tensor]:
    """The bounds of the gradients of hidden states, weight and bias, from the ``bounds`` of the gradient at the logits.

    Each is a sum of products with the gradient at the logits. Its error has three parts: the errors of that gradient,
    multiplied and summed; the summation in fp32, term by term, whatever the dtype; and the rounding of the sum to its
    dtype. Of dense factors, that gradient itself may be rounded to their dtype before the products, as kernels for
    matrix units do; these errors are independent, so their squares add up.
    """
    dtype = linear.hidden.dtype
    gradient, off = case.oracle.gradients["logits"], bounds.gradients["logits"]
    classes = gradient.shape[-1]
    rows = gradient.numel() // classes
    magnitudes = replace(linear, hidden=linear.hidden.abs(), weight=linear.weight.abs())
    inherited, summed = through(magnitudes, off), through(magnitudes, gradient.abs())
    found = {
        name: inherited[name]
        + SAFETY
        * (
            FP32_ROUNDOFF * _steps(classes if name == HIDDEN else rows, linear.is_dense) * summed[name]
            + torch.finfo(dtype).eps * right.abs()
            + _floor(dtype)
        )
        for name, right in through(linear, gradient).items()
    }
    if not linear.is_dense:
        return found
    squares = replace(linear, hidden=linear.hidden.double() ** 2, weight=linear.weight.double() ** 2)
    rounded = through(squares, gradient**2)
    return {
        name: bound + _ROUNDED_FACTOR * torch.finfo(dtype).eps * rounded[name].sqrt() for name, bound in found.items()
    }


def _steps(terms: int, are_random: bool) -> float:
    """How many roundings of the sum of the magnitudes a sum of ``terms`` may be off.

    Each addition may be off by one rounding, all in the same direction. Those of random terms are independent.
    """
    most = float(max(terms - 1, 0))
    return min(most, _OF_RANDOM_TERMS * terms**0.5) if are_random else most


def _unit_roundoff(dtype: torch.dtype, compute: Compute) -> float:
    if compute is Compute.STRICT:
        return FP32_ROUNDOFF if dtype is not torch.float64 else 2.0**-53
    return max(torch.finfo(dtype).eps / 2, 2.0**-53)


def _floor(dtype: torch.dtype) -> float:
    return _GRADIENT_FLOOR[str(dtype).removeprefix("torch.")]
