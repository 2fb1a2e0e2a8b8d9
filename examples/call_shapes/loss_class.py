"""A loss with a constructor, a factory, and a loss with an argument that is the same in every call."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


class SmoothedLoss:
    """``init = { smoothing = 0.1 }``: see hf.label_smoother for what transformers means by it."""

    def __init__(self, smoothing: float, ignore_index: int = -100) -> None:
        self.smoothing = smoothing
        self.ignore_index = ignore_index

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        flat, targets = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        return F.cross_entropy(flat, targets, label_smoothing=self.smoothing, ignore_index=self.ignore_index)


def make_loss(shift: int) -> Callable[[Tensor, Tensor], Tensor]:
    """``init = { shift = 1 }``: a function that makes the loss."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return shifted_loss(logits, labels, shift)

    return loss


def shifted_loss(logits: Tensor, labels: Tensor, shift: int) -> Tensor:
    """``kwargs = { shift = 1 }``: an argument that no case has."""
    return F.cross_entropy(logits[:, :-shift].flatten(0, 1).float(), labels[:, shift:].flatten())
