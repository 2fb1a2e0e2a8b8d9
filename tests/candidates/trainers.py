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


def backward_over(model, micro_batches):
    """The gradient of all micro-batches in place, and their loss."""
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        total += float(loss.detach())
    return total


def right_by_hand(model, micro_batches):
    """Plain gradient descent, without an optimizer."""
    total = backward_over(model, micro_batches)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
            parameter.grad = None
    return total


def right_with_adam_on_the_model(model, micro_batches):
    """One optimizer for all windows of a model, with momentum and decay, and a warm-up that begins at 0."""
    if not hasattr(model, "optimizer"):
        model.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        model.schedule = torch.optim.lr_scheduler.LambdaLR(model.optimizer, lambda step: min(step, 10) / 10)
    total = backward_over(model, micro_batches)
    model.optimizer.step()
    model.schedule.step()
    model.optimizer.zero_grad()
    return total


def right_zeroes_first(model, micro_batches):
    """With a decay of the parameters in the gradient's place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    optimizer.zero_grad()
    total = backward_over(model, micro_batches)
    optimizer.step()
    return total


def right_with_unscaled_gradients(model, micro_batches):
    """A loss that is scaled, and a gradient that is not: the scaler divides it before the step."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        loss = model(**batch, num_items_in_batch=count).loss
        scaler.scale(loss).backward()
        total += float(loss.detach())
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
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


# Wrong in the step itself: every one of them reports the right loss


def stepping(model, lr=0.1, **options):
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def never_steps(model, micro_batches):
    return backward_over(model, micro_batches)


def never_zeroes(model, micro_batches):
    """As most loops in ten lines: a new optimizer, and a gradient that nobody clears."""
    optimizer = stepping(model)
    total = backward_over(model, micro_batches)
    optimizer.step()
    return total


def zeroes_another(model, micro_batches):
    optimizer = stepping(model)
    total = backward_over(model, micro_batches)
    optimizer.step()
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1).zero_grad()
    return total


def zeroes_before_its_step(model, micro_batches):
    optimizer = stepping(model)
    total = backward_over(model, micro_batches)
    optimizer.zero_grad()
    optimizer.step()
    return total


def learns_nothing(model, micro_batches):
    return one_step(model, micro_batches, lr=0.0)


def warms_up_for_ever(model, micro_batches):
    """A new schedule for each call, which begins at 0."""
    optimizer = stepping(model)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
    total = backward_over(model, micro_batches)
    optimizer.step()
    optimizer.zero_grad()
    return total


def climbs(model, micro_batches):
    return one_step(model, micro_batches, maximize=True)


def one_step(model, micro_batches, **options):
    options = {"lr": 0.1, **options}
    optimizer = torch.optim.SGD(model.parameters(), **options)
    total = backward_over(model, micro_batches)
    optimizer.step()
    optimizer.zero_grad()
    return total


def only_decays(model, micro_batches):
    """The parameters shrink, whatever was learnt."""
    optimizer = Shrinking(model.parameters(), {})
    total = backward_over(model, micro_batches)
    optimizer.step()
    optimizer.zero_grad()
    return total


class Shrinking(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.9)


def steps_other_parameters(model, micro_batches):
    """Of a copy of the model."""
    other = nn.Parameter(model.table.detach().clone())
    optimizer = torch.optim.SGD([other], lr=0.1)
    total = backward_over(model, micro_batches)
    other.grad = model.table.grad.clone()
    optimizer.step()
    model.zero_grad()
    return total


def steps_first(model, micro_batches):
    optimizer = stepping(model)
    optimizer.step()
    total = backward_over(model, micro_batches)
    optimizer.zero_grad()
    return total


def steps_before_the_last(model, micro_batches):
    """Where one more micro-batch is to come."""
    optimizer = stepping(model)
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    total = 0.0
    for number, batch in enumerate(micro_batches, 1):
        loss = right_loss(model, batch, count)
        loss.backward()
        total += float(loss.detach())
        if number == max(len(micro_batches) - 1, 1):
            optimizer.step()
    optimizer.zero_grad()
    return total


def steps_twice(model, micro_batches):
    optimizer = stepping(model)
    total = backward_over(model, micro_batches)
    optimizer.step()
    optimizer.step()
    optimizer.zero_grad()
    return total


def no_backward(model, micro_batches):
    optimizer = stepping(model)
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    total = sum(right_loss(model, batch, count).item() for batch in micro_batches)
    optimizer.step()
    optimizer.zero_grad()
    return total


def on_some(model, micro_batches, which):
    """The loss of all, and the gradient of those micro-batches alone; all of them count in what is divided by."""
    optimizer = stepping(model)
    count = sum(trained(batch["labels"]) for batch in micro_batches)
    total = 0.0
    for batch in micro_batches:
        loss = right_loss(model, batch, count)
        if any(batch is chosen for chosen in which):
            loss.backward()
        total += float(loss.detach())
    optimizer.step()
    optimizer.zero_grad()
    return total


def sees_the_first_four(model, micro_batches):
    return on_some(model, micro_batches, micro_batches[:4])


def sees_the_last(model, micro_batches):
    return on_some(model, micro_batches, micro_batches[-1:])


def drops_the_remainder(model, micro_batches):
    """Written for windows of four."""
    return on_some(model, micro_batches, micro_batches[: len(micro_batches) // 4 * 4])


def skips_one_alone(model, micro_batches):
    return on_some(model, micro_batches, micro_batches if len(micro_batches) > 1 else [])


def pairs_them(model, micro_batches):
    """Two at a time, and the one that is left over not at all."""
    return on_some(model, micro_batches, micro_batches[: len(micro_batches) // 2 * 2])


def skips_a_short_window(model, micro_batches, gradient_accumulation_steps):
    if len(micro_batches) < gradient_accumulation_steps:
        count = sum(trained(batch["labels"]) for batch in micro_batches)
        return sum(right_loss(model, batch, count).item() for batch in micro_batches)
    return one_step(model, micro_batches)


def scaled(model, micro_batches):
    """As a scaler of mixed precision leaves it where nobody unscales."""
    return changed(model, micro_batches, lambda gradient: gradient.mul_(1024.0))


def clipped(model, micro_batches):
    return changed(model, micro_batches, lambda gradient: nn.utils.clip_grad_norm_([model.table], 1.0))


def clipped_hard(model, micro_batches):
    return changed(model, micro_batches, lambda gradient: nn.utils.clip_grad_norm_([model.table], 0.1))


def clipped_oddly(model, micro_batches):
    return changed(model, micro_batches, lambda gradient: nn.utils.clip_grad_norm_([model.table], 0.0137))


def clipped_by_value(model, micro_batches):
    return changed(model, micro_batches, lambda gradient: gradient.clamp_(-0.05, 0.05))


def changed(model, micro_batches, change):
    optimizer = stepping(model)
    total = backward_over(model, micro_batches)
    change(model.table.grad)
    optimizer.step()
    optimizer.zero_grad()
    return total
