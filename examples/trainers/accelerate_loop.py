"""Accelerate's loop with gradient accumulation, as in its guide: it counts the labels of all micro-batches first."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader


def step(model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int) -> Tensor:
    """Multiply each loss by the window, because backward() divides by the configured window, even a short one."""
    count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro_batches)
    return _train(
        model,
        micro_batches,
        gradient_accumulation_steps,
        lambda batch: model(**batch, num_items_in_batch=count).loss * gradient_accumulation_steps,
    )


def mean_of_means(model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int) -> Tensor:
    """Train with the loop that most people write."""
    return _train(model, micro_batches, gradient_accumulation_steps, lambda batch: model(**batch).loss)


def _train(model: Any, micro_batches: list[dict[str, Tensor]], window: int, loss_of: Any) -> Tensor:
    accelerator = Accelerator(gradient_accumulation_steps=window, cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(micro_batches, batch_size=None)  # type: ignore[arg-type]
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    total = torch.zeros(())
    for batch in loader:
        with accelerator.accumulate(prepared):
            loss = loss_of(batch)
            accelerator.backward(loss)
            total += loss.detach() / window
            optimizer.step()
            optimizer.zero_grad()
    accelerator.free_memory()
    return total
