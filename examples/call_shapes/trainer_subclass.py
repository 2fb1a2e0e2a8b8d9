"""A subclass of transformers' Trainer that computes the loss itself. The model and its inputs are stood in for."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from transformers import Trainer


class MyTrainer(Trainer):
    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """``inputs`` are a batch of the collator: ``input_ids``, ``labels`` and ``attention_mask`` [B, S]."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        logits, targets = outputs.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        count = (targets != -100).sum() if num_items_in_batch is None else num_items_in_batch
        loss = F.cross_entropy(logits, targets, reduction="sum") / count
        return (loss, outputs) if return_outputs else loss
