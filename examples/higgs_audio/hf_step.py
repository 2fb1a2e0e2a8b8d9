"""One optimizer step of transformers' HiggsAudioV2 over several micro-batches, right, and wrong in three ways.

    shiftproof check examples/higgs_audio/hf_step.py:step --spec hf.causal_lm

The step computes the losses itself: it logs text and audio apart, and each is the mean over its own labels in the whole
window. transformers' own loss divides all of them by the one count that it is given.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

IGNORE = -100
Batch = dict[str, Tensor]
Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes logits [B, S, V] and labels [B, S] where the tokens are. Returns the rows and labels that belong together."""

LOG: list[dict[str, float]] = []
"""The losses of each step: of text, and of audio if there is any."""


def step(model: Any, micro_batches: list[Batch], optimizer: Optimizer | None = None) -> Tensor:
    """Each row of logits is scored on the label after it, in each stream once."""
    return take(model, micro_batches, optimizer, lambda logits, labels: (logits[:, :-1], labels[:, 1:]))


def shifted_twice(model: Any, micro_batches: list[Batch], optimizer: Optimizer | None = None) -> Tensor:
    """The published fix: the labels were shifted by the collator, and are shifted again."""
    return take(model, micro_batches, optimizer, lambda logits, labels: (logits[:, :-2], labels[:, 2:]))


def not_shifted(model: Any, micro_batches: list[Batch], optimizer: Optimizer | None = None) -> Tensor:
    """Each row is scored on its own input."""
    return take(model, micro_batches, optimizer, lambda logits, labels: (logits, labels))


def cut_by_one(model: Any, micro_batches: list[Batch], optimizer: Optimizer | None = None) -> Tensor:
    """The first label of each row is cut off, and no logit: 167 rows of logits meet 166 labels."""
    return take(model, micro_batches, optimizer, lambda logits, labels: (logits, labels[:, 1:]))


def take(model: Any, micro_batches: list[Batch], optimizer: Optimizer | None, pair: Pair) -> Tensor:
    """Take one step. Return the loss, and log it by stream."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=3e-3)
    counts: dict[str, int] = {}
    for batch in micro_batches:
        for name, labels in labels_of(batch).items():
            counts[name] = counts.get(name, 0) + int((labels[:, 1:] != IGNORE).sum())
    log: dict[str, float] = {}
    for batch in micro_batches:
        output = model(**{name: value for name, value in batch.items() if "labels" not in name})
        labels = labels_of(batch)
        losses = {name: total(*pair(logits_of(output, name), labels[name])) / counts[name] for name in labels}
        torch.stack(list(losses.values())).sum().backward()
        for name, loss in losses.items():
            stream = name.partition(" ")[0]
            log[stream] = log.get(stream, 0.0) + loss.item()
    optimizer.step()
    optimizer.zero_grad()
    LOG.append(log)
    return torch.tensor(sum(log.values()))


def labels_of(batch: Batch) -> dict[str, Tensor]:
    """The labels [B, S] of the text, and of each codebook of the frames, if the batch has any."""
    books = batch["audio_labels"].unbind(-1) if "audio_labels" in batch else ()
    return {"text": batch["labels"], **{f"audio {book}": labels for book, labels in enumerate(books)}}


def logits_of(output: Any, name: str) -> Tensor:
    """The logits [B, S, V] of a stream, or of one of its codebooks."""
    stream, _, book = name.partition(" ")
    logits: Tensor = output.logits if stream == "text" else output.audio_logits[:, :, int(book)]
    return logits


def total(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of the losses of all rows whose label counts."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE, reduction="sum")
