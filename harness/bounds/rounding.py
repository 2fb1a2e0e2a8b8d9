"""The largest error of a right implementation of a score: the rounding errors of one pair and of its gradient.

``u`` is the unit roundoff of the arithmetic. ``red = 2⁻²⁴·(log2 V + 1 + V/8)`` bounds the error of a sum over V in fp32
that is sequential in places. ``each = u·(max|z| + |lse|) + red`` bounds the error of a log-probability. For
cross-entropy, the bound of the score is ``each + u·|z_y|``, and the bound of an element of the gradient is
``2·each·(p + 1[v = y])``. Every modifier adds its own terms, with a comment in the code. Everything is first order and
without a safety factor.

The score is ``target_y·(lse − z_y) + Σ_v every_v·(lse − z_v) + z_loss·lse²`` and its gradient ``dz/dx·(α·p − every −
target_y·onehot(y))``: see shiftproof.reference.score.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from shiftproof.reference.score import Scores, charge, map_logits
from shiftproof.reference.spec import Score

FP32_ROUNDOFF = 2.0**-24

# The number of roundings in the products and sums of a modifier: class weight, ε, z_loss and their factors.
_STEPS = 4
# Roundings of z, in units of |z|. Scale: the scale itself and the product. Softcap: a quotient, tanh (1 ulp) and a
# product.
_SCALE_STEPS = 2
_SOFTCAP_STEPS = 4
# The absolute error of tanh computed as 2σ − 1, in fp32 roundoffs of 1, even if tanh is small.
_TANH_STEPS = 2
# The error of a probability by underflow, by unit roundoff. fp16 keeps multiples of 2⁻²⁴. The other dtypes have the
# exponent range of fp32.
_SMALLEST = {2.0**-11: 2.0**-24}
_SMALLEST_WIDE = 2.0**-126


class Errors(NamedTuple):
    """The largest error of the ``score`` [n] of each pair and of its ``gradient`` [n, V], float64 and not negative."""

    score: Tensor
    gradient: Tensor


def rounding(
    rows: Tensor,
    targets: Tensor,
    weights: Tensor,
    scores: Scores,
    how: Score,
    class_weights: Tensor | None,
    unit: float,
) -> Errors:
    """Bound the rounding errors of pairs: of the unweighted scores, and of the weighted gradients.

    Args:
        rows: [n, V] float64, the logits after rounding to their dtype.
        targets: [n] int64.
        weights: [n] float64, the absolute value of each pair's weight.
        scores: the result of ``evaluate_rows`` for these rows.
        how: the score.
        class_weights: [V], if ``how`` has class weights.
        unit: the unit roundoff of the arithmetic.

    Returns:
        Errors without the rounding of the outputs, the summation over pairs, and the safety factor.
    """
    at = targets[:, None]
    classes = rows.shape[-1]
    charges = charge(how, classes, class_weights)
    hard, everywhere = charges.target[targets].abs(), charges.every
    shared = float(everywhere.sum())
    summing = FP32_ROUNDOFF * (math.log2(classes) + 1 + classes / 8) if classes > 1 else FP32_ROUNDOFF
    steps = 0.0 if how.is_plain else _STEPS * unit
    smallest = 0.0 if how.is_plain else _SMALLEST.get(unit, _SMALLEST_WIDE)

    z = map_logits(rows, how)
    lse = scores.lse.abs()
    finite = z.abs().masked_fill_(z.isinf(), 0.0)
    largest = finite.amax(-1)
    each = unit * (largest + lse) + summing
    if how.logit_scale != 1:
        each = each + _SCALE_STEPS * unit * largest  # z's own rounding, in z_v and in lse
    if how.softcap is not None:
        each = each + _SOFTCAP_STEPS * unit * largest + _TANH_STEPS * FP32_ROUNDOFF * how.softcap
    z_target = z.gather(-1, at).squeeze(-1)
    log_p = each + unit * z_target.abs()
    hard_loss = hard * (scores.lse - z_target)

    score = hard * log_p
    if not how.is_plain:
        score = score + steps * (hard_loss + how.z_loss * lse**2)  # the products and their sum
    if how.label_smoothing:
        # Each log-probability as for the target. Then their sum over V, or that of the logits, large under an offset.
        magnitude = finite @ everywhere
        score = score + shared * each + unit * magnitude + (summing + steps) * (magnitude + shared * lse)
    if how.z_loss:
        score = score + 2 * how.z_loss * lse * each  # d lse² = 2·lse·d lse
    del finite

    p = torch.exp(z - scores.lse[:, None])
    p_target = p.gather(-1, at).squeeze(-1)
    alpha = hard + shared + 2 * how.z_loss * lse
    # Errors: of p, 2·each relative, and underflow; of α, the lse of z_loss; of the three summands, their products.
    onto_p = 2 * each * (alpha + how.z_loss) + steps * alpha
    gradient = _compose(p * onto_p[:, None], steps * everywhere, at, hard * (2 * each + steps))
    gradient += smallest * alpha[:, None]
    if how.softcap is not None:
        # The error of 1 − t² is 2·|t|·dt, plus the rounding of t², plus its own rounding. Near the cap it cancels, and
        # the error is larger than the value. The error multiplies the magnitudes of the sum.
        t2 = z.div_(how.softcap).square_()
        gradient.addcmul_(gradient, t2, value=-1)
        mass = _compose(p.mul_(alpha[:, None]), everywhere, at, hard)
        off = t2.mul_((2 * _SOFTCAP_STEPS + 1) * unit).add_(unit + 2 * _TANH_STEPS * FP32_ROUNDOFF)
        gradient += mass.mul_(off)
    gradient *= how.logit_scale
    del p, z
    if how.dft:
        # The error of p_y is r relative, and all of p_y if it underflows.
        r = torch.expm1(log_p.clamp(max=1.0))
        score = score * p_target * (1 + r) + (r * p_target + smallest) * hard_loss
        gradient *= (p_target * (1 + r) + smallest)[:, None]
        gradient += scores.gradient.abs().mul_(r[:, None])
        gradient.scatter_add_(-1, at, (smallest * hard)[:, None])
    gradient *= weights[:, None]
    # Weight by ε/V, and by the class weight: each product may underflow, and is then scaled.
    gradient += 2 * smallest * how.logit_scale
    return Errors(score, gradient)


def _compose(by_p: Tensor, everywhere: Tensor, at: Tensor, onto_target: Tensor) -> Tensor:
    """``by_p`` [n, V] + ``everywhere`` [V], and ``onto_target`` [n] at the targets; in the memory of ``by_p``."""
    return by_p.add_(everywhere).scatter_add_(-1, at, onto_target[:, None])
