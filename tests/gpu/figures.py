"""The part ``figures``: forward and backward of losses in pairs with the yardstick, beside a copy of as many bytes.

Times are the device's own, between marks in its stream. The cache is flushed before each call; the flush is not waited
for, so that the work of the call lies queued when the device comes to it, and what is timed is not how fast Python is.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import torch

from shiftproof.harness.speed.decision import interval
from shiftproof.harness.speed.shapes import Shape
from shiftproof.harness.worker.device import Device, device_of
from shiftproof.harness.worker.peak import Peak

from ..benchmarks.contenders import CAUSAL, Absent, Loss
from ..benchmarks.tasks import Task
from .asked import Item, PartArguments, go_through
from .calls import Calls, memory_needed
from .findings import Finding, Result

YARDSTICK = "yardstick"
FEWEST, MOST, SECONDS = 8, 40, 1.5  # pairs, and for how long more than the fewest are taken
_LEAD = 1.5  # times as long as the host takes for a call, the device is kept busy before it
_MOST_FLUSHES = 64


class Wrong(Exception):
    """An answer that was timed is not right."""


class Timed:
    """One contender: its calls, and how long before each the device has to be kept busy."""

    def __init__(self, name: str, loss: Loss, calls: Calls, device: Device) -> None:
        self.name, self.loss, self.calls, self.device = name, loss, calls, device
        self.flushes = 1
        self.call(0)  # what is to be compiled is compiled
        self.flushes = self._lead()

    def call(self, seed: int) -> int:
        """Nanoseconds of one forward and backward.

        Raises:
            Wrong: the answer is not right.
        """
        leaves = self.calls.leaves(seed)
        self.device.settle()
        taken, value = timed(lambda: self._work(leaves), self.device, self.flushes)
        if wrong := self.calls.wrong(seed, value, leaves):
            raise Wrong(f"{self.name}: {wrong}")
        return taken

    def peak(self) -> int | None:
        """Bytes above the arguments at the worst moment."""
        leaves = self.calls.leaves(0)
        gc.collect()
        self.device.settle()
        peak = Peak(self.device.torch)
        self._work(leaves)
        self.device.settle()
        return peak.bytes()

    def _work(self, leaves: dict[str, Any]) -> torch.Tensor:
        value = self.loss(**leaves)
        value.backward()
        return value.detach()

    def _lead(self) -> int:
        """How many flushes take as long as the host does to hand over one call."""
        leaves = self.calls.leaves(0)
        self.device.settle()
        started = time.perf_counter_ns()
        self._work(leaves)
        host = time.perf_counter_ns() - started
        flush, _ = timed(self.device.flush, self.device, 1)
        return min(max(math.ceil(_LEAD * host / max(flush, 1)), 1), _MOST_FLUSHES)


def timed(work: Callable[[], Any], device: Device, flushes: int) -> tuple[int, Any]:
    """Nanoseconds that the device took for ``work``, and what it returned."""
    for _ in range(flushes):
        device.flush()
    start = device.mark()
    given = work()
    stop = device.mark()
    device.settle()
    return device.between(start, stop), given


def measured(asked: PartArguments, name: str, task: Task, dtype: str, contender: str) -> Finding:
    """A contender in pairs with the yardstick, either first in turn, and a copy before each pair."""
    started = time.monotonic()
    device = device_of(asked.device)

    def found(result: Result, said: str, **figures: Any) -> Finding:
        return Finding(asked.part, name, result, said, round(time.monotonic() - started, 1), figures)

    needed = memory_needed(task, dtype, contender)
    if device.free_memory() < needed:
        return found(
            Result.SKIPPED, f"needs {needed / 1e9:.0f} GB of memory, {device.free_memory() / 1e9:.0f} are free"
        )
    calls = Calls(task, dtype, asked.device)
    try:
        theirs = task.contenders[contender](task.spec, asked.device)
        both = [
            Timed(YARDSTICK, task.contenders[YARDSTICK](task.spec, asked.device), calls, device),
            Timed(contender, theirs, calls, device),
        ]
        pairs, copies = in_turns(both, task.limiting(dtype, asked.device), device, FEWEST if asked.is_dry else MOST)
    except Absent as absent:
        return found(Result.SKIPPED, str(absent))
    except torch.OutOfMemoryError:
        return found(Result.SKIPPED, "out of memory")
    except Wrong as wrong:
        return found(Result.WRONG, str(wrong))
    of_yardstick, of_contender = (median(pair[which] for pair in pairs) for which in (0, 1))
    ratio = interval([math.log(pair[1] / pair[0]) for pair in pairs])
    return found(
        Result.PASSED,
        f"{of_contender / 1e6:.3f} ms, the yardstick {of_yardstick / 1e6:.3f} ms",
        shape=str(task.shape),
        hidden=task.hidden,
        dtype=dtype,
        contender=contender,
        limit_ms=median(copies) / 1e6,
        logits_bytes=task.logits_bytes(dtype),
        returned_bytes=task.returned_bytes(dtype),
        milliseconds=of_contender / 1e6,
        yardstick_ms=of_yardstick / 1e6,
        ratio=ratio.ratio,
        low=ratio.low,
        high=ratio.high,
        pairs=ratio.pairs,
        yardstick_peak=both[0].peak(),
        peak=both[1].peak(),
    )


def in_turns(
    both: list[Timed], limit: Callable[[], object], device: Device, most: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """Nanoseconds of each pair of calls, the yardstick's first, and of what nobody can do without."""
    pairs: list[tuple[int, int]] = []
    copies: list[int] = []
    finish = time.monotonic() + SECONDS
    timed(limit, device, 1)
    while len(pairs) < FEWEST or (len(pairs) < most and time.monotonic() < finish):
        copies.append(timed(limit, device, 1)[0])
        first = len(pairs) % 2
        seeds = iter((len(pairs) % 2, 1 - len(pairs) % 2))  # two kinds of inputs, each contender's in turn
        took = {which: both[which].call(next(seeds)) for which in (first, 1 - first)}
        pairs.append((took[0], took[1]))
    return pairs, copies


def tasks(asked: PartArguments) -> list[Task]:
    if asked.is_dry:
        return [
            Task("text", CAUSAL, Shape("text", 2, 9, 40)),
            Task("linear", CAUSAL, Shape("layer", 1, 9, 40), hidden=8),
        ]
    # Those first that matter most, since time may run out.
    shapes = [
        Shape("text", 4, tokens // 4, classes) for tokens, classes in product((8192, 2048), (128256, 32000, 152064))
    ]
    text = [Task("text", CAUSAL, shape) for shape in shapes]
    return [*text[:3], Task("linear", CAUSAL, Shape("layer", 2, 2048, 128256), hidden=4096), *text[3:]]


def items(asked: PartArguments) -> dict[str, Item]:
    return {
        (name := f"{task.shape}, {dtype}: {contender}"): partial(measured, asked, name, task, dtype, contender)
        for task, dtype in product(tasks(asked), ("bfloat16", "float32"))
        for contender in task.contenders
        if contender != YARDSTICK
    }


def main(asked: PartArguments) -> None:
    go_through(asked, items(asked))


if __name__ == "__main__":
    main(PartArguments.of_arguments())
