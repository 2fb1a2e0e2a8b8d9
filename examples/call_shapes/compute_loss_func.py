"""transformers' Trainer(compute_loss_func=…): the loss gets the model's output and the count of the whole window."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def compute_loss_func(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """``outputs.logits`` [B, S, V] and ``labels`` [B, S], −100 where ignored."""
    logits, targets = outputs.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
    if num_items_in_batch is None:
        return F.cross_entropy(logits, targets)
    return F.cross_entropy(logits, targets, reduction="sum") / num_items_in_batch
