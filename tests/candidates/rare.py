"""Losses that are wrong in structures that are rare by chance and common in use."""

import torch
import torch.nn.functional as F

WRONG = {
    "books_counted_before_the_shift": "higgs.mean_nonempty",
    "text_without_the_sentinel_of_audio": "moshi",
    "audio_ids_for_text": "higgs.hf",
    "no_more_than_counted": "hf.causal_lm",
    "weights_in_bf16": "weighted",
    "without_weight_not_counted": "weighted.count",
    "frames_as_long_as_text": "higgs.hf",
}


def _ce(logits, labels, count=None):
    rows, targets = logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1)
    if count is None:
        return F.cross_entropy(rows, targets)
    return F.cross_entropy(rows, targets, reduction="sum") / count


def _next(logits, labels, count=None):
    return _ce(logits[:, :-1], labels[:, 1:], count)


def books_counted_before_the_shift(logits, labels, audio_logits, audio_labels):
    """The mean over the codebooks that have a label, also if the shift drops it. Rows are concatenated."""
    audio_labels = audio_labels.T
    losses = []
    for book in range(audio_labels.shape[1]):
        of_book = audio_labels[:, book]
        if bool((of_book != -100).any()):
            sums = F.cross_entropy(audio_logits[:-1, book].float(), of_book[1:], reduction="sum")
            losses.append(sums / (of_book[1:] != -100).sum().clamp(min=1))
    return _next(logits, labels) + (torch.stack(losses).mean() if losses else audio_logits.sum() * 0.0)


def text_without_the_sentinel_of_audio(logits, labels, audio_logits, audio_labels, num_items_in_batch=None):
    """The id that marks an ignored code is an ordinary one of the text."""
    marker = audio_logits.shape[-1]
    text, audio = (of.masked_fill(of == marker, -100) for of in (labels, audio_labels))
    return _next(logits, text, num_items_in_batch) + _ce(audio_logits, audio)


def audio_ids_for_text(logits, labels, audio_logits, audio_labels, num_items_in_batch=None):
    """Ids of the text beyond the codes of audio are taken for the last code."""
    text = labels.clamp(max=audio_logits.shape[-1] - 1)
    books = audio_labels.shape[-1]
    audio = [_next(audio_logits[:, :, k], audio_labels[:, :, k], num_items_in_batch) for k in range(books)]
    return _next(logits, text, num_items_in_batch) + torch.stack(audio).sum()


def no_more_than_counted(logits, labels, num_items_in_batch=None):
    """A count below the labels that count is taken for a mistake."""
    valid = int((labels[:, 1:] != -100).sum())
    count = None if num_items_in_batch is None else max(int(num_items_in_batch), valid)
    return _next(logits, labels, count)


def _per_token(logits, labels):
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:]
    losses = F.cross_entropy(logits.float().flatten(0, 1), shifted.flatten(), reduction="none")
    return losses.view(labels.shape), shifted != -100


def weights_in_bf16(logits, labels, token_weights):
    losses, kept = _per_token(logits, labels)
    weights = F.pad(token_weights, (0, 1))[:, 1:].bfloat16().float() * kept
    return (losses * weights).sum() / weights.sum()


def without_weight_not_counted(logits, labels, token_weights):
    """A token of weight 0 is one of those that count."""
    losses, kept = _per_token(logits, labels)
    weights = F.pad(token_weights, (0, 1))[:, 1:] * kept
    return (losses * weights).sum() / (weights > 0).sum()


def frames_as_long_as_text(logits, labels, audio_logits, audio_labels, num_items_in_batch=None):
    """What the longer of two streams has more is cut off."""
    length = min(labels.shape[1], audio_labels.shape[1])
    audio = [
        _next(audio_logits[:, :length, k], audio_labels[:, :length, k], num_items_in_batch)
        for k in range(audio_labels.shape[-1])
    ]
    return _next(logits[:, :length], labels[:, :length], num_items_in_batch) + torch.stack(audio).sum()
