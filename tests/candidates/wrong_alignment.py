"""Losses that pair the wrong logit with the wrong label. Each re-enacts a bug that shipped and carries its name.

Unless a docstring says otherwise, the right spec is the ordinary next-token loss: the mean of CE(z_t, y_{t+1}) over the
labels that are not −100. z = logits, y = labels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _mean(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=-100)


def _causal_lm(logits: Tensor, labels: Tensor) -> Tensor:
    """A model's own loss, which shifts: pad the labels with −100, drop the first, flatten."""
    return _mean(logits, F.pad(labels, (0, 1), value=-100)[..., 1:])


def no_shift(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: CE(z_t, y_t); nobody shifts.

    Right: ordinary next-token. Seen: transformers#27161 (label smoothing); XLM and Flaubert, whose docs say shifted.
    """
    return _mean(logits, labels)


def double_shift(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: CE(z_t, y_{t+2}); the trainer shifts, then hands the result to a model whose loss shifts.

    Right: ordinary next-token. Seen: open-instruct#1549, Qwen3-TTS#371, ms-swift#9752.
    """
    shift_logits = logits[:, :-1, :]
    shift_labels = labels[:, 1:]
    return _causal_lm(shift_logits, shift_labels)


def flat_double_shift(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: shift, flatten to B·(T−1), and shift the flat vector again, so that targets leak across rows.

    Right: ordinary next-token. Seen: transformers#47394, GIT, released in 4.48–5.14. Equals
    double_shift when there is one row.
    """
    shifted_logits = logits[:, :-1, :].contiguous()
    shifted_labels = labels[:, 1:].contiguous()
    return _causal_lm(shifted_logits.view(-1, logits.shape[-1]), shifted_labels.view(-1))


def aligned_shift(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: CE(z_t, y_{t+1}) where the decoder's inputs were already shifted right.

    Right: k=0 (aligned_mean). Seen: transformers#46784, Moonshine and its relatives, up to 5.12.
    """
    return _causal_lm(logits, labels)


def reverse_shift(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: CE(z_{t+1}, y_t); the slices are on the wrong sides.

    Right: ordinary next-token. Seen: no release known; an easy slip.
    """
    return _mean(logits[..., 1:, :], labels[..., :-1])


def flatten_then_shift(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: flatten first, then shift, so a row's last logit predicts the next row's first label.

    Right: ordinary next-token. Seen: transformers#47394. Invisible when each row's first label is ignored.
    """
    flat_logits = logits.reshape(-1, logits.shape[-1])
    flat_labels = labels.reshape(-1)
    return _mean(flat_logits[:-1], flat_labels[1:])


def roll_wrap(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: torch.roll brings y_0 round to the last position, and nobody masks it.

    Right: ordinary next-token. Seen: verl#6268, ms-swift. Invisible when each row's first label is ignored.
    """
    return _mean(logits, torch.roll(labels, shifts=-1, dims=-1))


def tail_pad_target(logits: Tensor, labels: Tensor, pad_token_id: int) -> Tensor:
    """Wrong: the vacated last position is filled with the pad id, so the mean has an extra CE(z_T, pad) in each row.

    Right: ordinary next-token. Seen: transformers XGLM, up to 4.48.
    """
    shift_labels = labels.new_zeros(labels.shape)
    shift_labels[:, :-1] = labels[:, 1:].clone()
    shift_labels[:, -1] = pad_token_id
    return _mean(logits, shift_labels)


def prefix_slice(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the prefix is taken to be one position shorter than it is, so each label meets the logit before its own.

    Right: prefix_logits (P leading extra logits, k=1 within the last S). Seen: GIT and BLIP-2 in transformers. Right
    when P = 0.
    """
    num_prefix_tokens = max(logits.shape[1] - labels.shape[1] - 1, 0)  # forgets the prefix's own start token
    text_logits = logits[:, num_prefix_tokens : num_prefix_tokens + labels.shape[1]]
    return _mean(text_logits[:, :-1, :], labels[:, 1:])


def drop_first_response(logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Wrong: labels are shifted and the mask is not: the first response token is lost, one past the last is gained.

    Right: masked_mean (loss_mask at the label's own position). Seen: verl#3287, torchtitan#2755.
    """
    shift_labels = labels[:, 1:]
    mask = loss_mask[:, :-1].bool() & (shift_labels != -100)
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), shift_labels, reduction="none")
    return losses[mask].sum() / mask.sum()


def drop_last_response(logits: Tensor, labels: Tensor, loss_mask: Tensor) -> Tensor:
    """Wrong: each response is the inclusive range [a, b], and its labels are copied with [a:b] instead of [a:b+1].

    Right: masked_mean. Seen: OpenRLHF#781, multi-turn fine-tuning with packed samples.
    """
    kept = torch.full_like(labels, -100)
    for row, mask in enumerate(loss_mask.bool().tolist()):
        edges = [0, *mask, 0]
        starts = [i for i in range(len(mask)) if edges[i + 1] and not edges[i]]
        ends = [i for i in range(len(mask)) if edges[i + 1] and not edges[i + 2]]
        for start, end in zip(starts, ends, strict=True):
            kept[row, start:end] = labels[row, start:end]
    return _causal_lm(logits, kept)


def shard_then_shift(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: the sequence is cut into two shards and each shifts on its own, so the target across the cut is lost.

    Right: ordinary next-token. Seen: transformers#48491, axolotl and DeepSpeed sequence parallelism.
    """
    total, count = logits[..., :0].float().sum(), labels[:, :0].sum()
    for local_logits, local_labels in zip(logits.chunk(2, dim=1), labels.chunk(2, dim=1), strict=True):
        targets = local_labels[:, 1:].reshape(-1)
        scores = local_logits[:, :-1].float().reshape(-1, logits.shape[-1])
        total = total + F.cross_entropy(scores, targets, reduction="sum")
        count = count + (targets != -100).sum()
    return total / count


def index_minus_one(logits: Tensor, labels: Tensor) -> Tensor:
    """Wrong: each valid label looks up the logit at t − 1, and for t = 0 that index is −1: the row's last logit.

    Right: ordinary next-token. Seen: transformers CSM. The same pairs as roll_wrap, by another road.
    """
    batch_idx, train_idx = (labels != -100).nonzero(as_tuple=True)
    return F.cross_entropy(logits[batch_idx, train_idx - 1].float(), labels[batch_idx, train_idx])
