"""A plain loop in ten lines: `shiftproof check` needs a function of model and micro_batches."""

from typing import Any

import torch
from torch import Tensor


def step(model: Any, micro_batches: list[dict[str, Tensor]]) -> Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro_batches)
    total = torch.zeros(())
    for batch in micro_batches:
        loss = model(**batch, num_items_in_batch=count).loss
        loss.backward()
        total += loss.detach()
    optimizer.step()
    optimizer.zero_grad()
    return total


def mean_of_means(model: Any, micro_batches: list[dict[str, Tensor]]) -> Tensor:
    """Average each micro-batch by itself, however few labels it has. This was usual for years."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = torch.zeros(())
    for batch in micro_batches:
        loss = model(**batch).loss / len(micro_batches)
        loss.backward()
        total += loss.detach()
    optimizer.step()
    optimizer.zero_grad()
    return total
