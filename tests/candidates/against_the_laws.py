"""Losses with a likely name that does not explain what the laws find. NAMED has what may be said of each."""

import torch
import torch.nn.functional as F
from torch import Tensor


def _scored(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return _scored(logits[:, :-1], labels[:, 1:])


def double_shift_and_writes(logits: Tensor, labels: Tensor) -> Tensor:
    """Two bugs: the pairs are those of one alone, and the labels are written to."""
    loss = _scored(logits[:, :-2], labels[:, 2:].clone())
    labels.fill_(-100)
    return loss


def double_shift_and_raises(logits: Tensor, labels: Tensor) -> Tensor:
    """Two bugs: short rows are refused, and on all others the pairs are those of one alone."""
    if labels.shape[1] < 3:
        raise ValueError("rows are too short")
    return _scored(logits[:, :-2], labels[:, 2:])


def pulls_where_nothing_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """EMPTY-2 fails, but there is no NaN in the gradient."""
    if bool((labels[:, 1:] != -100).any()):
        return _right(logits, labels)
    return torch.nan_to_num(logits.float()).sum() * 0.01


def nan_where_nothing_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """EMPTY-2 fails with NaN: the known bug."""
    if bool((labels[:, 1:] != -100).any()):
        return _right(logits, labels)
    return logits.float().sum() * torch.nan


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx, upstream: Tensor) -> Tensor:
        return upstream.clamp(max=100.0)


def clips_what_comes_in(logits: Tensor, labels: Tensor) -> Tensor:
    """GRAD-6 fails under a loss scale, but nothing small is lost: the whole gradient is too small."""
    return _Clipped.apply(_right(logits, labels))


def zero_in_no_grad_and_under_autocast(logits: Tensor, labels: Tensor) -> Tensor:
    """MODE-1 fails, but so does STATE-3, where gradients are recorded."""
    if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return logits.float().sum() * 0
    return _right(logits, labels)


def zero_in_no_grad(logits: Tensor, labels: Tensor) -> Tensor:
    """MODE-1 fails alone: the known bug."""
    return _right(logits, labels) if torch.is_grad_enabled() else torch.zeros(())


NAMED = {
    "double_shift_and_writes": [("double-shift", "PURE-1 fails for another reason")],
    "double_shift_and_raises": [("double-shift", "CONTRACT-1 fails for another reason")],
    "pulls_where_nothing_counts": [],
    "nan_where_nothing_counts": [("all-ignored-nan-gradient", "EMPTY-2 fails")],
    "clips_what_comes_in": [],
    "zero_in_no_grad_and_under_autocast": [],
    "zero_in_no_grad": [("no-grad-path", "MODE-1 fails")],
}
