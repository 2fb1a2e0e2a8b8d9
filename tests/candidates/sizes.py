"""Losses that are wrong at some sizes without a branch of their own: only cases of such sizes show it."""

import torch
import torch.nn.functional as F

WRONG = {
    "labels_in_16_bits": "hf.causal_lm",
    "count_in_8_bits": "hf.causal_lm",
    "whole_chunks_of_sixteen": "hf.causal_lm",
    "by_the_square_root": "hf.causal_lm",
    "first_eight_codebooks": "musicgen",
    "positions_in_half": "hf.causal_lm",
    "first_1024_columns": "hf.causal_lm",
    "blocks_of_256_columns": "hf.causal_lm",
    "weight_offsets_in_16_bits": "hf.causal_lm",
}


def _next(logits, labels):
    return logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)


def labels_in_16_bits(logits, labels):
    """From 32768 classes on, an id wraps to another."""
    rows, targets = _next(logits, labels)
    kept = targets != -100
    wrapped = targets.clamp(min=0).to(torch.int16).long() % logits.shape[-1]
    return F.cross_entropy(rows, torch.where(kept, wrapped, -100))


def count_in_8_bits(logits, labels):
    """From 256 labels on, the count wraps."""
    rows, targets = _next(logits, labels)
    total = F.cross_entropy(rows, targets, reduction="sum")
    return total / (targets != -100).sum(dtype=torch.uint8)


def whole_chunks_of_sixteen(logits, labels):
    """Of more than 500 rows, those after the last multiple of sixteen are neither scored nor counted."""
    rows, targets = _next(logits, labels)
    few = (len(targets) <= 500) * (len(targets) % 16)
    kept = len(targets) // 16 * 16 + few
    return F.cross_entropy(rows[:kept], targets[:kept])


def by_the_square_root(logits, labels):
    """The loss grows by a percent for each factor of a thousand in the number of classes beyond a thousand."""
    rows, targets = _next(logits, labels)
    excess = torch.tensor(float(logits.shape[-1])).div(1000).clamp(min=1).log10()
    return F.cross_entropy(rows, targets) * (1 + excess / 300)


def first_eight_codebooks(logits, labels):
    """As MusicGen's loss over the first eight codebooks: a codec with more has a ninth."""
    logits, labels = logits[:, :8, logits.shape[2] - labels.shape[1] :], labels[:, :, :8]
    ignored = labels.masked_fill(labels == logits.shape[-1], -100)
    losses = [
        F.cross_entropy(of.float().flatten(0, 1), books.flatten())
        for of, books in zip(logits.unbind(1), ignored.unbind(2), strict=True)
    ]
    return torch.stack(losses).mean()


def positions_in_half(logits, labels):
    """Next tokens are looked up at positions that were made in fp16: from 2049 on, each second one is another."""
    length = labels.shape[1]
    positions = (torch.arange(length, dtype=torch.float16, device=labels.device) + 1).long().clamp(max=length - 1)
    shifted = labels[:, positions][:, :-1]
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), shifted.reshape(-1))


def _linear(hidden_states, lm_head_weight, labels):
    logits = F.linear(hidden_states, lm_head_weight).float()
    return F.cross_entropy(*_next(logits, labels))


def first_1024_columns(hidden_states, lm_head_weight, labels):
    """A kernel whose block holds 1024 columns of the hidden states."""
    return _linear(hidden_states[..., :1024], lm_head_weight[:, :1024], labels)


def blocks_of_256_columns(hidden_states, lm_head_weight, labels):
    """Of more than 256 columns, those after the last multiple of 256 are left out."""
    width = lm_head_weight.shape[1]
    kept = max(width // 256 * 256, min(width, 256))
    return _linear(hidden_states[..., :kept], lm_head_weight[:, :kept], labels)


class _OffsetsIn16Bits(torch.autograd.Function):
    """The gradient of the weight is written to offsets in 16 bits: those from 65536 on wrap, and add to others."""

    @staticmethod
    def forward(ctx, weight):
        return weight.clone()

    @staticmethod
    def backward(ctx, gradient):
        offsets = torch.arange(gradient.numel(), device=gradient.device) % 65536
        return torch.zeros_like(gradient).flatten().index_add(0, offsets, gradient.flatten()).view_as(gradient)


def weight_offsets_in_16_bits(hidden_states, lm_head_weight, labels):
    """The weight's gradient is written to wrong places if it has more than 65536 elements."""
    return _linear(hidden_states, _OffsetsIn16Bits.apply(lm_head_weight), labels)
