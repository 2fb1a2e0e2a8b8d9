"""Models whose arguments have other names than those of transformers, or that make their labels themselves."""

from __future__ import annotations

import torch.nn.functional as F
from networks import TinyNetwork
from torch import Tensor, nn


class NanoGPT(nn.Module):
    """As in nanoGPT: the data has shifted the targets already, and −1 is ignored. It returns (logits, loss)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TinyNetwork()

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.network(idx)
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


class Autoregressive(nn.Module):
    """As in x-transformers' AutoregressiveWrapper: tokens alone go in, and the loss alone comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.network = TinyNetwork()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x[:, :-1])
        return F.cross_entropy(logits.transpose(1, 2), x[:, 1:])
