"""The part ``large``: losses of more logits than an int32 counts. What lies beyond is as right as what lies before."""

from __future__ import annotations

import time
from functools import partial

from shiftproof.harness.speed.shapes import Shape
from shiftproof.harness.worker.device import device_of

from ..benchmarks.contenders import CAUSAL, OF_NEXT_TOKENS, Absent
from ..benchmarks.tasks import Task
from .asked import Item, PartArguments, go_through
from .calls import Calls, memory_needed
from .findings import Finding, Result

_CLASSES, _ROWS = 131072, 2**31 // 131072 + 31
CONTENDERS = ("yardstick", "torch", "transformers", "Liger", "fla-core", "quack")


def judged(asked: PartArguments, name: str, task: Task, dtype: str, contender: str) -> Finding:
    """One call, of which the value is looked at and each row of the gradient."""
    started = time.monotonic()
    device = device_of(asked.device)
    needed = memory_needed(task, dtype, contender)

    def found(result: Result, said: str) -> Finding:
        return Finding(asked.part, name, result, said, round(time.monotonic() - started, 1))

    if device.free_memory() < needed:
        return found(
            Result.SKIPPED, f"needs {needed / 1e9:.0f} GB of memory, {device.free_memory() / 1e9:.0f} are free"
        )
    try:
        loss = task.contenders[contender](task.spec, asked.device)
    except Absent as absent:
        return found(Result.SKIPPED, str(absent))
    calls = Calls(task, dtype, asked.device)
    leaves = calls.leaves(1)
    value = loss(**leaves)
    value.backward()
    wrong = calls.wrong(1, value.detach(), leaves)
    count = f"{task.shape.tokens * task.shape.classes:,} logits"
    return found(Result.WRONG, f"{count}: {wrong}") if wrong else found(Result.PASSED, count)


def items(asked: PartArguments) -> dict[str, Item]:
    shape = Shape("large", 1, 40, 64) if asked.is_dry else Shape("large", 1, _ROWS, _CLASSES)
    task = Task("large", CAUSAL, shape)
    assert set(CONTENDERS) <= set(OF_NEXT_TOKENS)
    return {
        (name := f"{contender} [{dtype}]"): partial(judged, asked, name, task, dtype, contender)
        for contender in CONTENDERS
        for dtype in ("bfloat16", "float32")
    }


def main(asked: PartArguments) -> None:
    go_through(asked, items(asked))


if __name__ == "__main__":
    main(PartArguments.of_arguments())
