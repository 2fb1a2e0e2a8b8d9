"""Losses that are wrong in two ways at once, as real trainers are; each re-enacts two bugs with names of their own.

WRONG, at the end, says which profile each one breaks, and what its two bugs are called. z = logits, y = labels; B rows,
T positions, K codebooks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """CE of every label [B, T] at its own logits, 0 where it is −100."""
    return F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none")


def _mean(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=-100)


def _divided(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    """The mean, or Σ / num_items_in_batch where it is given."""
    if num_items_in_batch is None:
        return _mean(logits, labels)
    return _losses(logits, labels).sum() / num_items_in_batch


def _causal_lm(logits: Tensor, labels: Tensor, num_items_in_batch: int | None = None) -> Tensor:
    return _divided(logits[:, :-1], labels[:, 1:], num_items_in_batch)


def double_shift_over_all(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the collator has shifted, the loss shifts again; Σ / (B·T), ignored tokens counted."""
    return _losses(logits[:, :-2], labels[:, 2:]).sum() / labels.numel()


def double_shift_counted_before(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: y_{t+2}, over the tokens counted before any shift, so that the count looks right for the labels."""
    return _losses(logits[:, :-2], labels[:, 2:]).sum() / labels.ne(-100).sum()


def double_shift_by_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: y_{t+2}, and the mean of the rows' means."""
    losses, counts = _losses(logits[:, :-2], labels[:, 2:]).sum(1), labels[:, 2:].ne(-100).sum(1)
    kept = counts > 0
    return (losses[kept] / counts[kept]).mean()


def no_shift_ignored_scored(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: z_t on y_t, and ignored labels are scored as class 0."""
    return _mean(logits, labels.clamp(min=0))


def no_shift_over_all(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: z_t on y_t, and ignored tokens are averaged in."""
    return _losses(logits, labels).mean()


def leaking_and_halved(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: flattens, then shifts; and the mean is divided by the 2 accumulation steps, which it spans already."""
    flat, targets = logits.flatten(0, 1)[:-1], labels.flatten()[1:]
    return F.cross_entropy(flat.float(), targets, ignore_index=-100) / 2


def wrapped_first_id_dropped(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: torch.roll brings y_0 round to the last position, and id 0 is taken for padding."""
    targets = labels.roll(-1, dims=1)
    return _mean(logits, targets.masked_fill(targets == 0, -100))


def packed_rows_averaged(logits: Tensor, labels: Tensor, position_ids: Tensor) -> Tensor:
    """Wrong: the last token of a document predicts the next one's first, and the mean is one of rows' means.

    position_ids are taken, as the padding-free collator hands them over, and never looked at.
    """
    losses, counts = _losses(logits[:, :-1], labels[:, 1:]).sum(1), labels[:, 1:].ne(-100).sum(1)
    kept = counts > 0
    return (losses[kept] / counts[kept]).mean()


def higgs_text_twice_audio_not_shifted(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the text is shifted twice, and the audio not at all."""
    loss = _divided(logits[:, :-2], labels[:, 2:], num_items_in_batch)
    for book in range(audio_labels.shape[2]):
        loss = loss + _divided(audio_logits[:, :, book], audio_labels[:, :, book], num_items_in_batch)
    return loss


def higgs_text_twice_codebooks_averaged(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: the text is shifted twice, and the codebooks are averaged where their sum was promised."""
    books = [
        _causal_lm(audio_logits[:, :, book], audio_labels[:, :, book], num_items_in_batch)
        for book in range(audio_labels.shape[2])
    ]
    return _divided(logits[:, :-2], labels[:, 2:], num_items_in_batch) + torch.stack(books).mean()


def higgs_codebooks_apart_and_averaged(
    logits: Tensor,
    labels: Tensor,
    audio_logits: Tensor,
    audio_labels: Tensor,
    num_items_in_batch: int | None = None,
) -> Tensor:
    """Wrong: head k is scored on codebook k+1, round the end, and the codebooks are averaged, not summed."""
    codes = audio_labels.roll(-1, dims=2)
    books = [
        _causal_lm(audio_logits[:, :, book], codes[:, :, book], num_items_in_batch) for book in range(codes.shape[2])
    ]
    return _causal_lm(logits, labels, num_items_in_batch) + torch.stack(books).mean()


def csm_backbone_twice_depth_not_shifted(
    logits: Tensor, labels: Tensor, depth_logits: Tensor, num_items_in_batch: int | None = None
) -> Tensor:
    """Wrong: the backbone is shifted twice, and head j of the depth decoder is scored on code j, which it was given."""
    codes = labels.flatten(0, 1)[:, :-1]
    first = labels[..., 0]
    backbone = _divided(logits[:, :-2], first[:, 2:], num_items_in_batch)
    return backbone + _divided(depth_logits, codes, num_items_in_batch)


WRONG = {
    "double_shift_over_all": ("hf.causal_lm", {"double-shift", "denominator-all"}),
    "double_shift_counted_before": ("hf.causal_lm", {"double-shift", "overcount-rows"}),
    "double_shift_by_rows": ("hf.causal_lm", {"double-shift", "row-mean"}),
    "no_shift_ignored_scored": ("hf.causal_lm", {"no-shift", "ignore-unused"}),
    "no_shift_over_all": ("hf.causal_lm", {"no-shift", "denominator-all"}),
    "leaking_and_halved": ("hf.causal_lm", {"flatten-then-shift", "double-divide"}),
    "wrapped_first_id_dropped": ("hf.causal_lm", {"roll-wrap", "hardcoded-ignore"}),
    "packed_rows_averaged": ("packed.position_ids", {"cross-document", "row-mean"}),
    "higgs_text_twice_audio_not_shifted": ("higgs.hf", {"double-shift", "no-shift"}),
    "higgs_text_twice_codebooks_averaged": ("higgs.hf", {"double-shift", "codebook-mean"}),
    "higgs_codebooks_apart_and_averaged": ("higgs.hf", {"codebook-axis-shift", "codebook-mean"}),
    "csm_backbone_twice_depth_not_shifted": ("csm", {"double-shift", "codebook-axis-shift"}),
}
