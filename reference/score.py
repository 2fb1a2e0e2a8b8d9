"""The score of one pair, and its gradient, in float64: ℓ(x, y) = logsumexp(x) − x_y."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Scores(NamedTuple):
    """What scoring n rows gives: ``loss`` [n], ``lse`` [n], and ``gradient`` [n, V] of each loss at its own logits."""

    loss: Tensor
    lse: Tensor
    gradient: Tensor


def cross_entropy(rows: Tensor, targets: Tensor) -> Scores:
    """Score ``rows`` [n, V] float64 on ``targets`` [n] int64, each in [0, V).

    Logits of −inf off the target have probability 0; NaN in a row makes its loss and gradient NaN.
    """
    lse = torch.logsumexp(rows, dim=-1)
    at_target = rows.gather(-1, targets[:, None]).squeeze(-1)
    gradient = torch.exp(rows - lse[:, None])
    gradient.scatter_add_(-1, targets[:, None], torch.full_like(lse, -1.0)[:, None])
    return Scores(lse - at_target, lse, gradient)
