"""Losses that score the wrong pairs: too many, too few, or with weights nobody asked for.

Unless a docstring says otherwise, the right spec is the ordinary next-token loss: the mean of CE(z_t, y_{t+1}) over the
labels that are not −100. z = logits, y = labels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _causal_lm(logits: Tensor, labels: Tensor) -> Tensor:
    scores = logits[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


def ignore_unused(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: no ignore index; −100 is clamped to class 0, to keep gather happy, and scored with the rest.

    Right: ordinary next-token. Seen: Liger#974.
    """
    shift_labels = labels[:, 1:].clamp(min=0)
    logp = logits[:, :-1].float().log_softmax(dim=-1)
    return -logp.gather(-1, shift_labels.unsqueeze(-1)).mean()


def negative_label_wrap(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the target is picked by plain indexing, where −100 counts from the end and means class V − 100.

    Right: ordinary next-token. Seen: optax#1185. Raises IndexError when V < 100 and a label is ignored.
    """
    shift_labels = labels[:, 1:].reshape(-1)
    logp = logits[:, :-1].float().log_softmax(-1).reshape(-1, logits.shape[-1])
    return -logp[torch.arange(len(shift_labels), device=labels.device), shift_labels].mean()


def hardcoded_ignore(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: id 0 is taken for padding and dropped, though it is a legal token.

    Right: ordinary next-token. Seen: transformers#23530, trl#976.
    """
    labels = torch.where(labels == 0, -100, labels)
    return _causal_lm(logits, labels)


def eos_masked(logits: Tensor, labels: Tensor, eos_token_id: int) -> Tensor:
    """Wrong: pad = eos, and all padding is masked: the end of a sequence is never trained.

    Right: ordinary next-token. Seen: transformers#23530, parler-tts#208.
    """
    pad_token_id = eos_token_id  # tokenizer.pad_token = tokenizer.eos_token
    labels = labels.clone()
    labels[labels == pad_token_id] = -100
    return _causal_lm(logits, labels)


def prompt_included(logits: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Wrong: the labels are rebuilt from input_ids, masked only where there is padding, so the prompt is scored.

    Right: ordinary next-token over `labels`. Seen: TRL's ORPO trainer, 0.12–0.13.
    """
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    return _causal_lm(logits, labels)


def cross_document(logits: Tensor, labels: Tensor, position_ids: Tensor) -> Tensor:
    """Wrong: documents are packed and their positions restart, but the last token of one predicts the next one's first.

    Right: packed_by_position_ids. Seen: trl#4170 (0.22.2–0.23.0), torchtune 0.6.1. Invisible when each document's first
    label is ignored.
    """
    assert position_ids.shape == labels.shape  # the model's attention uses them; the loss forgets to
    return _causal_lm(logits, labels)


def segment_weight(logits: Tensor, labels: Tensor, segment_ids: Tensor) -> Tensor:
    """Wrong: the segment ids 1, 2, 3… are used as the loss mask without `!= 0`, so document n weighs n times as much.

    Right: packed_by_segment_ids. Seen: MaxText#4756. Invisible with one document in each row.
    """
    shift_labels, target_mask = labels[:, 1:], segment_ids[:, 1:].float()
    target_mask = target_mask * (segment_ids[:, 1:] == segment_ids[:, :-1]) * (shift_labels != -100)
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), shift_labels, reduction="none")
    return (losses * target_mask).sum() / target_mask.sum()


class _FusedCausalLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        valid = targets != -100
        count = valid.sum()
        logp = logits.float().log_softmax(-1)
        losses = F.nll_loss(logp, targets, ignore_index=-100, reduction="none")
        gradient = logp.exp()
        gradient.scatter_add_(-1, targets.clamp(min=0).unsqueeze(-1), -torch.ones_like(losses).unsqueeze(-1))
        gradient.masked_fill_(~valid.unsqueeze(-1), 0.0)
        ctx.save_for_backward(gradient / count)
        ctx.dtype = logits.dtype
        return losses.sum() / count

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream).to(ctx.dtype), None


def all_ignored_nan_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the gradient is divided by the count in the forward: 0/0 = NaN in every row when nothing is valid.

    Right: ordinary next-token, whose gradient is then 0. Seen: torch 2.13.0, F.linear_cross_entropy with chunks. Right
    on every batch that has a valid pair.
    """
    targets = F.pad(labels[:, 1:], (0, 1), value=-100)
    loss: Tensor = _FusedCausalLoss.apply(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    return loss
