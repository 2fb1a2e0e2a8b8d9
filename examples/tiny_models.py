"""Two tiny models: `input_ids` and `labels` in, `.loss` and `.logits` out."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Output(NamedTuple):
    """The output of a model."""

    loss: Tensor
    logits: Tensor


class Decoder(nn.Module):
    """A decoder that shifts its labels itself."""

    def __init__(self, classes: int = 61, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(classes, width)
        self.mixer = nn.GRU(width, width, batch_first=True)
        self.lm_head = nn.Linear(width, classes)
        nn.init.normal_(self.lm_head.weight, std=2.0)  # with equally likely tokens, the loss would show nothing

    def forward(self, input_ids: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Output:
        """input_ids and labels are [B, S], int64; labels are −100 where ignored."""
        hidden_states, _ = self.mixer(self.embedding(input_ids))
        logits = self.lm_head(hidden_states)
        return Output(self.loss(logits, labels, num_items_in_batch), logits)

    def loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: int | None) -> Tensor:
        """Return the mean over the labels that count, or their sum over the trainer's count."""
        shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
        total = F.cross_entropy(logits.flatten(0, 1), shifted.flatten(), ignore_index=-100, reduction="sum")
        return total / (num_items_in_batch or (shifted != -100).sum())


class ShiftsTwice(Decoder):
    """The same decoder with a bug: it shifts logits and labels, and then the loss shifts them again."""

    def loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: int | None) -> Tensor:
        """Return the loss of labels that were shifted already."""
        return super().loss(logits[:, :-1], labels[:, 1:], num_items_in_batch)
