"""The score of one pair and its gradient, in float64: ℓ(x, y) = logsumexp(x) − x_y, as its ``Score`` modifies it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .spec import Score, Smoothing

PLAIN = Score()


class Scores(NamedTuple):
    """The result of scoring n rows: ``loss`` [n], ``lse`` [n], and ``gradient`` [n, V] of each loss at its own logits.

    ``lse`` is of the logits after scale and softcap. ``gradient`` is at the logits before scale and softcap.
    """

    loss: Tensor
    lse: Tensor
    gradient: Tensor


class Charges(NamedTuple):
    """The factors of the log-probabilities in ℓ = target_y·(lse − z_y) + Σ_v every_v·(lse − z_v), both float64.

    Attributes:
        target: [V], for each class, its additional factor if it is the target.
        every: [V], the factor of each class, whichever class is the target. 0 without label smoothing.
    """

    target: Tensor
    every: Tensor


def evaluate_rows(rows: Tensor, targets: Tensor, how: Score = PLAIN, class_weights: Tensor | None = None) -> Scores:
    """Score ``rows`` [n, V] float64 on ``targets`` [n] int64, each in [0, V). ``class_weights`` are [V].

    Logits of −inf that are not the target have probability 0. With label smoothing, they still make the loss infinite.
    NaN in a row makes its loss and gradient NaN.
    """
    at = targets[:, None]
    charges = charge(how, rows.shape[1], class_weights)
    z = map_logits(rows, how)
    lse = torch.logsumexp(z, dim=1)
    log_p = z - lse[:, None]
    hard = charges.target[targets]
    loss = hard * (lse - z.gather(1, at).squeeze(1)) + how.z_loss * lse**2
    if how.label_smoothing:
        loss = loss - log_p @ charges.every
    # ∂ℓ/∂z = (Σ_v c_v q_v + 2·z_loss·lse)·p − every − target_y·onehot(y), and ∂ℓ/∂x = ∂ℓ/∂z · dz/dx.
    gradient = log_p.exp_()
    at_target = gradient.gather(1, at).squeeze(1)
    gradient *= (hard + charges.every.sum() + 2 * how.z_loss * lse)[:, None]
    gradient -= charges.every
    gradient.scatter_add_(1, at, -hard[:, None])
    gradient *= slope(rows, how)
    if how.dft:
        loss = loss * at_target
        gradient *= at_target[:, None]
    return Scores(loss, lse, gradient)


def map_logits(rows: Tensor, how: Score) -> Tensor:
    """z, the logits to score: scaled, then capped. ``rows`` itself if neither is needed."""
    z = rows if how.logit_scale == 1 else rows * how.logit_scale
    return z if how.softcap is None else (z / how.softcap).tanh_().mul_(how.softcap)


def slope(rows: Tensor, how: Score) -> Tensor | float:
    """dz/dx of :func:`map_logits`. If logits are capped, a tensor with one value per logit."""
    if how.softcap is None:
        return how.logit_scale
    # 1 − tanh² as 1/cosh², which does not cancel near the cap.
    return (rows * (how.logit_scale / how.softcap)).cosh_().pow_(-2).mul_(how.logit_scale)


def charge(how: Score, classes: int, class_weights: Tensor | None = None) -> Charges:
    """The factors of a score for ``classes`` classes. Smoothing over the other classes needs at least two.

    Raises:
        ValueError: ``how`` has class weights, and none are given.
    """
    if not how.class_weights:
        weights = torch.ones(classes, dtype=torch.float64)
    elif class_weights is None:
        raise ValueError("the score has class weights; give class_weights [V]")
    else:
        weights = class_weights.double()
    if not how.label_smoothing:
        return Charges(weights, torch.zeros_like(weights))
    if how.smoothing_over is Smoothing.ALL:
        share = how.label_smoothing / classes
        return Charges((1 - how.label_smoothing) * weights, share * weights)
    share = how.label_smoothing / (classes - 1)
    return Charges((1 - how.label_smoothing - share) * weights, share * weights)
