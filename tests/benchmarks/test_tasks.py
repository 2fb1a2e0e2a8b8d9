"""What is timed can be called, and returns a loss: a benchmark is run too seldom to find out by itself."""

from __future__ import annotations

import pytest
import torch

from .tasks import DTYPES, Task, on


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("contender", ["yardstick", "torch"])
@pytest.mark.parametrize("task", [task for task in on("cpu") if task.hidden is None], ids=lambda task: task.name)
def test_a_few_tokens_of_each_task(task: Task, contender: str, dtype: str) -> None:
    arguments = task.arguments(dtype, "cpu", tokens=8)
    logits = [each for name, each in arguments.items() if "logits" in name]
    assert logits
    assert all(each.isfinite().all() and each.std() > 1 for each in logits)
    loss = task.contenders[contender](task.spec, "cpu")(**arguments)
    assert torch.isfinite(loss)
