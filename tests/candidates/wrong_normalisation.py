"""Losses that score the right pairs and divide by the wrong thing.

Unless a docstring says otherwise, the right spec is the ordinary next-token loss: Σ CE(z_t, y_{t+1}) / N over the N
pairs whose label is not −100. z = logits, y = labels; B rows of T positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _sum_and_count(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Σ CE(z_t, y_{t+1}) over the valid pairs, and their number."""
    targets = labels[:, 1:].reshape(-1)
    scores = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    return F.cross_entropy(scores, targets, ignore_index=-100, reduction="sum"), (targets != -100).sum()


def _mean_or_zero(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over valid pairs; 0 when there is none."""
    total, count = _sum_and_count(logits, labels)
    return total / count.clamp(min=1)


def denominator_all(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: Σ / (B·(T−1)); ignored tokens have loss 0 and are averaged in.

    Right: ordinary next-token. Seen: Paddle#47418.
    """
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")
    return losses.mean()


def overcount_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: Σ / (N + rows); the tokens are counted before the shift, so each row's valid first label counts.

    Right: ordinary next-token. Seen: transformers#46204, Trainer 4.46–5.9.
    """
    num_items_in_batch = labels.ne(-100).sum()
    total, _ = _sum_and_count(logits, labels)
    return total / num_items_in_batch


def undercount_aligned(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: Σ / (N − rows); the trainer counts labels[..., 1:] although this decoder's labels are aligned.

    Right: k=0 (aligned_mean). Seen: transformers#46903.
    """
    num_items_in_batch = labels[..., 1:].ne(-100).sum()
    total = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")
    return total / num_items_in_batch


def mean_of_means(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: (1/G) Σ mean_i over G = 2 micro-batches, whatever their counts.

    Right: ordinary next-token over the whole batch. Seen: transformers#34191, unsloth#1134.
    """
    micro_batches = list(zip(logits.chunk(2), labels.chunk(2), strict=True))
    loss = torch.zeros((), device=logits.device)
    for micro_logits, micro_labels in micro_batches:
        loss = loss + _mean_or_zero(micro_logits, micro_labels) / len(micro_batches)
    return loss


def sum_of_means(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: Σ mean_i over G = 2 micro-batches, never divided by G.

    Right: ordinary next-token over the whole batch. Seen: transformers#37766, #47688.
    """
    loss = torch.zeros((), device=logits.device)
    for micro_logits, micro_labels in zip(logits.chunk(2), labels.chunk(2), strict=True):
        loss = loss + _mean_or_zero(micro_logits, micro_labels)
    return loss


def double_divide(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: Σ / N / G; the count already spans the G = 2 micro-batches, and the trainer divides by G once more.

    Right: ordinary next-token. Seen: unsloth-zoo#1023.
    """
    gradient_accumulation_steps = 2
    total, num_items_in_batch = _sum_and_count(logits, labels)
    return total / num_items_in_batch / gradient_accumulation_steps


def count_ignored(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """Wrong: Σ / N although the caller gave a count to divide by.

    Right: honours_num_items (Σ / num_items_in_batch when it is given). Seen: transformers#47688, 49 classes.
    """
    shift_logits, shift_labels = logits[:, :-1].float(), labels[:, 1:]
    return F.cross_entropy(shift_logits.reshape(-1, logits.shape[-1]), shift_labels.reshape(-1))


def packed_double_subtract(logits: Tensor, labels: Tensor, position_ids: Tensor) -> Tensor:
    """Wrong: Σ / (N − boundaries); the boundaries' labels are −100 already and so not in N, and are taken off again.

    With one row of n tokens in d documents that is (n − 1) − 2(d − 1). Right: packed_by_position_ids. Seen:
    unsloth-zoo#1066. With a very short document the denominator can reach zero or less.
    """
    labels = labels.masked_fill(position_ids == 0, -100)  # the collator
    total, count = _sum_and_count(logits, labels)
    boundaries = (position_ids[:, 1:] == 0).sum()
    return total / (count - boundaries)


def row_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the mean of the rows' means, over the rows that have a valid pair.

    Right: ordinary next-token (the token mean). Seen: a policy of some trainers, wrong where not declared.
    """
    shift_labels = labels[:, 1:]
    valid = shift_labels != -100
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), shift_labels, reduction="none")
    counts = valid.sum(dim=1)
    per_row = losses.sum(dim=1) / counts.clamp(min=1)
    return per_row[counts > 0].mean()


def rank_mean_of_means(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: two data-parallel ranks take every other row, and their local means are averaged.

    Right: ordinary next-token over the whole batch. Seen: transformers#34242. A rank with nothing valid contributes 0.
    """
    world_size = 2
    local = [_mean_or_zero(logits[rank::world_size], labels[rank::world_size]) for rank in range(world_size)]
    return torch.stack(local).mean()


def world_size_missing(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: × 1/W; the loss is divided by the global count, and DDP then averages the gradients over W = 2 ranks.

    Right: ordinary next-token. Seen: torchtune#2172.
    """
    world_size = 2
    total, global_count = _sum_and_count(logits, labels)
    return total / global_count * (1 / world_size)


def cp_undercount(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: × W; each of W = 2 context-parallel ranks divides by its own share of the tokens; the parts are summed.

    Right: ordinary next-token. Seen: verl#5983.
    """
    cp_size = 2
    total, count = _sum_and_count(logits, labels)
    return total / (count / cp_size)


def chunk_mean_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the flattened pairs are scored in chunks of 4, and the chunks' means are summed.

    Right: ordinary next-token. Seen: NeMo Automodel#3803. Invisible with one chunk.
    """
    scores, targets = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
    loss = logits[..., :0].float().sum()
    for chunk, wanted in zip(scores.split(4), targets.split(4), strict=True):
        if (wanted != -100).any():
            loss = loss + F.cross_entropy(chunk.float(), wanted, ignore_index=-100)
    return loss


def chunk_mean_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the flattened pairs are scored in chunks of 4, and the chunks' means are averaged, an empty one as 0.

    Right: ordinary next-token. Listed with NeMo Automodel#3803, which shows the sum.
    """
    scores, targets = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
    means = []
    for chunk, wanted in zip(scores.split(4), targets.split(4), strict=True):
        total = F.cross_entropy(chunk.float(), wanted, ignore_index=-100, reduction="sum")
        means.append(total / (wanted != -100).sum().clamp(min=1))
    return torch.stack(means).mean()


def tail_accumulation(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: rows are micro-batches, G = 4 is configured, and a short last window of B mod 4 rows is divided by 4 too.

    Right: ordinary next-token. Seen: LLaMA-Factory#10705. Right when B is a multiple of 4.
    """
    gradient_accumulation_steps = 4
    total, count = _sum_and_count(logits, labels)
    loss = total / count
    left_over = logits.shape[0] % gradient_accumulation_steps
    return loss * left_over / gradient_accumulation_steps if left_over else loss
