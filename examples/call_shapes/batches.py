"""Losses of a batch: a dict with all that they need, or with a model beside it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def of_a_batch(batch: dict[str, Tensor]) -> Tensor:
    """``batch`` has ``logits`` [B, S, V] and ``labels`` [B, S]."""
    return F.cross_entropy(batch["logits"][:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten())


def of_a_model_and_a_batch(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The model gives bare logits [B, S, V] for ``input_ids`` [B, S]; no shift is done before."""
    logits = model(batch["input_ids"])
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten())
