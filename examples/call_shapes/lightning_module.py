"""A LightningModule. Its network runs as it is; its logits are found where the network returns them."""

from __future__ import annotations

from typing import Any

import lightning
import torch.nn.functional as F
from networks import TinyNetwork
from torch import Tensor


class LanguageModel(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = TinyNetwork()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Any:
        """``batch`` has ``input_ids`` and ``labels`` [B, S]."""
        logits = self.network(batch["input_ids"])
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
