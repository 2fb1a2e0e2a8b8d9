"""A tiny network from tokens to logits, for the models of these examples."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyNetwork(nn.Module):
    def __init__(self, classes: int = 61, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(classes, width)
        self.mixer = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=2.0)  # with equally likely tokens, the loss would show nothing

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, S] -> logits [B, S, V]."""
        logits: Tensor = self.head(self.mixer(self.embedding(tokens))[0])
        return logits
