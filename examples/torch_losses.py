"""torch's own cross-entropy as a next-token loss, in the common right ways.

Each is the mean of CE(logits[t], labels[t+1]) over the labels that are not −100, scored in float32.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def sliced(logits: Tensor, labels: Tensor) -> Tensor:
    """Drop the last logit and the first label, then flatten. Slice before flattening, or rows leak into each other."""
    shift_logits = logits[:, :-1, :].float()
    shift_labels = labels[:, 1:]
    return F.cross_entropy(shift_logits.reshape(-1, shift_logits.shape[-1]), shift_labels.reshape(-1))


def class_axis_second(logits: Tensor, labels: Tensor) -> Tensor:
    """Do not flatten: cross_entropy takes the classes on axis 1, [B, V, S−1] against [B, S−1]."""
    return F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:])


def padded_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Keep all logits, which saves a copy of them, and give the last position an ignored label."""
    shift_labels = F.pad(labels, (0, 1), value=-100)[:, 1:]
    return F.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), shift_labels.reshape(-1))


def sum_over_num_items(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """Divide the sum by the count over all micro-batches, if the trainer gives one (for gradient accumulation)."""
    scores = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    targets = labels[:, 1:].reshape(-1)
    if num_items_in_batch is None:
        return F.cross_entropy(scores, targets, reduction="mean")
    return F.cross_entropy(scores, targets, reduction="sum") / num_items_in_batch


def with_ignore_index(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """Let the caller choose the marker of ignored labels."""
    scores = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    return F.cross_entropy(scores, labels[:, 1:].reshape(-1), ignore_index=ignore_index)


class ModuleLoss(nn.Module):
    """nn.CrossEntropyLoss inside a module."""

    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.cross_entropy = nn.CrossEntropyLoss(ignore_index=ignore_index)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten())
        return loss
