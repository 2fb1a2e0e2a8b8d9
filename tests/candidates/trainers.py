"""Loops that take one optimizer step over micro-batches: right ones, and wrong ones, each in its own way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = dict[str, Tensor]

IGNORED = -100


def trained(labels: Tensor, first: int = 1) -> int:
    """How many labels count, from column ``first`` on."""
    return int((labels[:, first:] != IGNORED).sum())


def accumulate(model: nn.Module, micro_batches: list[Batch], loss_of: Callable[[Batch], Tensor]) -> Tensor:
    """One step on the sum of the losses of all micro-batches, which is returned."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = torch.zeros(())
    for batch in micro_batches:
        loss = loss_of(batch)
        loss.backward()
        total += loss.detach()
    optimizer.step()
    optimizer.zero_grad()
    return total


# Right


def right(model, micro_batches):
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    return accumulate(model, micro_batches, lambda batch: model(**batch, num_items_in_batch=count).loss)


def right_aligned(model, micro_batches):
    """For labels that the loss does not shift."""
    count = sum(trained(batch["labels"], first=0) for batch in micro_batches)
    return accumulate(model, micro_batches, lambda batch: model(**batch, num_items_in_batch=count).loss)


def right_from_logits(model, micro_batches, label_smoothing, ignore_index):
    """With a loss of its own, and a model that sees no labels."""
    count = sum(trained(batch["labels"]) for batch in micro_batches)

    def loss_of(batch: Batch) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1]
        targets = batch["labels"][:, 1:]
        return (
            F.cross_entropy(
                logits.flatten(0, 1),
                targets.flatten(),
                ignore_index=ignore_index,
                label_smoothing=label_smoothing,
                reduction="sum",
            )
            / count
        )

    return accumulate(model, micro_batches, loss_of)


def right_silent(model, micro_batches):
    right(model, micro_batches)


def right_without_optimizer(model, micro_batches):
    """It leaves the gradients for others to use."""
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        total += float(loss.detach())
    return total


def right_by_closure(model, micro_batches):
    """The optimizer calls for the backward itself, as Lightning has it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    count = sum(trained(batch["labels"]) for batch in micro_batches)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sum(model(**batch, num_items_in_batch=count).loss for batch in micro_batches)
        loss.backward()
        return loss

    return optimizer.step(closure)


def right_packed(model, micro_batches):
    """Every micro-batch as one row without padding; where a sequence begins, the label is ignored."""
    count = sum(trained(batch["labels"]) for batch in micro_batches)

    def loss_of(batch: Batch) -> Tensor:
        kept = batch["attention_mask"].bool()
        labels = batch["labels"].clone()
        labels[:, 0] = IGNORED
        return model(batch["input_ids"][kept][None], labels=labels[kept][None], num_items_in_batch=count).loss

    return accumulate(model, micro_batches, loss_of)


def right_window_by_window(model, micro_batches, gradient_accumulation_steps):
    """One step a window, the last one of whatever is left."""
    total = 0.0
    for start in range(0, len(micro_batches), gradient_accumulation_steps):
        total += float(right(model, micro_batches[start : start + gradient_accumulation_steps]))
    return total


# Wrong


def mean_of_means(model, micro_batches):
    return accumulate(model, micro_batches, lambda batch: model(**batch).loss / len(micro_batches))


def sum_of_means(model, micro_batches):
    return accumulate(model, micro_batches, lambda batch: model(**batch).loss)


def overcount_rows(model, micro_batches):
    count = sum(trained(batch["labels"], first=0) for batch in micro_batches)
    return accumulate(model, micro_batches, lambda batch: model(**batch, num_items_in_batch=count).loss)


def double_divide(model, micro_batches):
    count = sum(trained(batch["labels"]) for batch in micro_batches) * len(micro_batches)
    return accumulate(model, micro_batches, lambda batch: model(**batch, num_items_in_batch=count).loss)


def tail_accumulation(model, micro_batches, gradient_accumulation_steps):
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    short = len(micro_batches) / gradient_accumulation_steps
    return accumulate(model, micro_batches, lambda batch: model(**batch, num_items_in_batch=count).loss * short)


def smoothing_no_shift(model, micro_batches, label_smoothing):
    """Only the smoothed loss is made outside of the model, and there nobody shifts."""
    count = sum(trained(batch["labels"], first=0) for batch in micro_batches)

    def loss_of(batch: Batch) -> Tensor:
        logits = model(batch["input_ids"]).logits
        losses = F.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=label_smoothing, reduction="sum"
        )
        return losses / count

    return accumulate(model, micro_batches, loss_of)


def sum_of_means_silent(model, micro_batches):
    sum_of_means(model, micro_batches)


def right_value_wrong_gradient(model, micro_batches):
    """Logs the right loss, and learns from the mean of means."""
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    with torch.no_grad():
        logged = sum(right_loss(model, batch, count) for batch in micro_batches)
    mean_of_means(model, micro_batches)
    return logged


def right_loss(model: Any, batch: Batch, count: int) -> Tensor:
    loss: Tensor = model(**batch, num_items_in_batch=count).loss
    return loss


def steps_at_every_one(model, micro_batches):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        loss = right_loss(model, batch, count)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += float(loss.detach())
    return total


def drops_the_tail(model, micro_batches, gradient_accumulation_steps):
    """Steps at every full window, and never after the last micro-batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    total = 0.0
    for number, batch in enumerate(micro_batches, 1):
        loss = right_loss(model, batch, count)
        loss.backward()
        total += float(loss.detach())
        if number % gradient_accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
    return total


def keeps_its_gradients(model, micro_batches, _kept=[]):  # noqa: B006  (what is kept is the bug)
    """Adds what it learnt the last time once more."""
    total = right(model, micro_batches)
    _kept.append(total)
    return total + sum(_kept[:-1][-1:])


def raises(model, micro_batches):
    raise RuntimeError("no device")


def sometimes_silent(model, micro_batches):
    total = right(model, micro_batches)
    return None if len(micro_batches[0]["labels"]) > 1 else total
