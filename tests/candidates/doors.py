"""Losses with two paths, of which the ordinary cases take one.

FOUND names those that are wrong on the other path and fail, since the judge finds sizes or ids that lead there. NAMED
names those that are wrong there and conform, and the branch that the verdict names. RIGHT names those that are right on
both, and what the verdict names of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 1000
_END_OF_TEXT = 50256
_calls = 0

FOUND = {
    "long_rows": "hf.causal_lm",
    "long_rows_of_a_batch": "hf.causal_lm",
    "multiples_of_sixteen": "hf.causal_lm",
    "many_positions": "hf.causal_lm",
    "large_vocabulary": "hf.causal_lm",
    "later_chunks": "hf.causal_lm",
    "one_id": "hf.causal_lm",
    "many_rows": "hf.causal_lm",
    "in_its_backward": "hf.causal_lm",
    "frozen_logits": "hf.causal_lm",
    "ninth_codebook": "musicgen",
    "long_frames": "musicgen",
    "tensor_count": "hf.causal_lm",
}
NAMED = {
    "under_autocast": "(torch.is_autocast_enabled() never true)",
    "in_half": "(logits.dtype == torch.float16 never true)",
    "later_calls": "(_calls > 1000000 never true)",
    "enormous_vocabulary": "(logits.size(-1) >= 9000000 never true)",
}
RIGHT = {
    "two_ways_by_vocabulary": "",
    "two_ways_by_length": "",
    "chunked": "",
    "checks_its_arguments": "",
    "takes_weights": "(weight is not None never true)",
}


def _right(logits: Tensor, labels: Tensor, **how: object) -> Tensor:
    rows = logits[:, :-1].float().reshape(-1, logits.shape[-1])
    return F.cross_entropy(rows, labels[:, 1:].reshape(-1), **how)


def _shifted_twice(logits: Tensor, labels: Tensor) -> Tensor:
    return _right(logits[:, :-1], labels[:, 1:])


# --- wrong at sizes and ids that the judge finds ----------------------------------------------------------------------


def long_rows(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.shape[1] > 67:
        return _shifted_twice(logits, labels)
    return _right(logits, labels)


def long_rows_of_a_batch(logits: Tensor, labels: Tensor) -> Tensor:
    rows, length = labels.shape
    return _shifted_twice(logits, labels) if length > 300 and rows >= 2 else _right(logits, labels)


def multiples_of_sixteen(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.size(1) % 16 == 0:
        labels = labels.roll(1, 0)
    return _right(logits, labels)


def many_positions(logits: Tensor, labels: Tensor) -> Tensor:
    loss = _right(logits, labels)
    return loss * 1.01 if labels.numel() > 4096 else loss


def large_vocabulary(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.size(-1) >= 100000:
        logits = logits.to(torch.bfloat16)
    return _right(logits, labels)


def later_chunks(logits: Tensor, labels: Tensor) -> Tensor:
    """Each chunk's sum over the count of that chunk: the first is the only one that is right."""
    rows, targets = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
    total = logits.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(rows.split(_CHUNK), targets.split(_CHUNK), strict=True):
        total = total + F.cross_entropy(part.float(), wanted)
    return total


def one_id(logits: Tensor, labels: Tensor) -> Tensor:
    return _right(logits, labels.masked_fill(labels == _END_OF_TEXT, -100))


def many_rows(logits: Tensor, labels: Tensor) -> Tensor:
    if len(labels) > 100:
        labels = labels.flip(0)
    return _right(logits, labels)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, logits: Tensor) -> Tensor:
        return logits.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * 2 if gradient.shape[1] > 500 else gradient


def in_its_backward(logits: Tensor, labels: Tensor) -> Tensor:
    return _right(_Scaled.apply(logits), labels)


def frozen_logits(logits: Tensor, labels: Tensor) -> Tensor:
    return _right(logits, labels) if logits.requires_grad else _shifted_twice(logits, labels)


def _musicgen(logits: Tensor, labels: Tensor, wrong: range) -> Tensor:
    """The last S logits, aligned; −100 and the id V are no codes. The mean of K means. The books ``wrong`` are late."""
    books, classes = labels.shape[2], logits.shape[-1]
    logits = logits[:, :, logits.shape[2] - labels.shape[1] :]
    loss = torch.zeros((), device=logits.device)
    for book in range(books):
        targets = labels[:, :, book].masked_fill(labels[:, :, book] == classes, -100)
        targets = targets.roll(1, 1) if book in wrong else targets
        loss = loss + F.cross_entropy(logits[:, book].float().flatten(0, 1), targets.flatten())
    return loss / books


def ninth_codebook(logits: Tensor, labels: Tensor) -> Tensor:
    return _musicgen(logits, labels, range(8, 99))


def long_frames(logits: Tensor, labels: Tensor) -> Tensor:
    return _musicgen(logits, labels, range(99) if labels.shape[1] > 1500 else range(0))


# --- wrong in what no call does: named --------------------------------------------------------------------------------


def under_autocast(logits: Tensor, labels: Tensor) -> Tensor:
    return _shifted_twice(logits, labels) if torch.is_autocast_enabled() else _right(logits, labels)


def in_half(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.dtype == torch.float16:
        return _shifted_twice(logits, labels)
    return _right(logits, labels)


def later_calls(logits: Tensor, labels: Tensor) -> Tensor:
    global _calls
    _calls += 1
    if _calls > 1000000:
        return _shifted_twice(logits, labels)
    return _right(logits, labels)


def tensor_count(logits: Tensor, labels: Tensor, num_items_in_batch: int | Tensor | None = None) -> Tensor:
    if num_items_in_batch is None:
        return _right(logits, labels)
    if isinstance(num_items_in_batch, Tensor):
        num_items_in_batch = num_items_in_batch + 1
    return _right(logits, labels, reduction="sum") / num_items_in_batch


def enormous_vocabulary(logits: Tensor, labels: Tensor) -> Tensor:
    return _shifted_twice(logits, labels) if logits.size(-1) >= 9000000 else _right(logits, labels)


# --- right on both paths ----------------------------------------------------------------------------------------------


def two_ways_by_vocabulary(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.shape[-1] < 32768:
        return _right(logits, labels)
    targets = labels[:, 1:]
    keep = targets != -100
    scores = logits[:, :-1].float()
    scores = scores - scores.detach().amax(-1, keepdim=True)
    own = scores.gather(-1, targets.masked_fill(~keep, 0)[..., None])[..., 0]
    return (scores.logsumexp(-1) - own)[keep].mean()


def two_ways_by_length(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.shape[1] <= 128:
        return _right(logits, labels)
    return _right(logits.flatten(0, 1)[None], F.pad(labels[:, 1:], (0, 1), value=-100).flatten().roll(1)[None])


def chunked(logits: Tensor, labels: Tensor) -> Tensor:
    rows, targets = logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)
    total = logits.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(rows.split(_CHUNK), targets.split(_CHUNK), strict=True):
        total = total + F.cross_entropy(part.float(), wanted, reduction="sum")
    return total / (targets != -100).sum()


def checks_its_arguments(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.dim() != 3 or labels.dim() != 2:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}")
    assert labels.shape == logits.shape[:2]
    return _right(logits, labels)


def takes_weights(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    if weight is not None:
        return _right(logits, labels, weight=weight)
    return _right(logits, labels)
