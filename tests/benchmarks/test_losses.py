"""Forward and backward of the yardstick and of whatever else is installed: time, peak memory, and what limits both.

``nox -s benchmark`` runs these, keeps what pytest-benchmark records, and draws it. One benchmark follows another, so
that a machine whose speed drifts spoils a ratio: each has its limit measured right before it and right after.
``shiftproof speed`` compares in turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from shiftproof.harness.worker.device import cuda_devices, device_of

from .contenders import Absent
from .tasks import DTYPES, Task, forward_and_backward, leaves_of, on

pytestmark = pytest.mark.benchmark
DEVICE = "cuda" if cuda_devices() else "cpu"
SECONDS = 6.0  # for the rounds of one benchmark
FEWEST, MOST = 5, 30  # rounds
LONGEST = 20.0  # for what nobody can do without: a CPU without a unit for bf16 takes minutes for its products
CASES = [(task, contender) for task in on(DEVICE) for contender in task.contenders]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("task", "contender"), CASES, ids=[f"{task.name}-{contender}" for task, contender in CASES])
def test_forward_and_backward(benchmark: BenchmarkFixture, task: Task, contender: str, dtype: str) -> None:
    try:
        loss = task.contenders[contender](task.spec, DEVICE)
    except Absent as absent:
        pytest.skip(str(absent))
    if (least := _least(task, dtype)) > LONGEST:
        pytest.skip(f"the limit of {task.name} in {dtype} takes {least:.0f} s on this machine; {LONGEST:g} s at most")
    benchmark.group = f"{task.name}, {dtype}"
    arguments = task.arguments(dtype, DEVICE)

    def fresh() -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (loss, leaves_of(arguments)), {}

    forward_and_backward(*fresh()[0])  # what is to be compiled is compiled
    started = perf_counter()
    forward_and_backward(*fresh()[0])
    rounds = min(max(int(SECONDS / (perf_counter() - started)), FEWEST), MOST)
    before = task.limit(dtype, DEVICE)
    benchmark.pedantic(forward_and_backward, setup=fresh, rounds=rounds)
    limit = mean((before, task.limit(dtype, DEVICE)))
    benchmark.extra_info.update(
        task=task.name,
        shape=str(task.shape),
        hidden=task.hidden,
        profile=task.profile,
        contender=contender,
        dtype=dtype,
        device=device_of(DEVICE).name() if DEVICE == "cuda" else DEVICE,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        limit_seconds=limit,
        logits_bytes=task.logits_bytes(dtype),
        returned_bytes=task.returned_bytes(dtype),
        peak_bytes=weighed(task, contender, dtype),
    )


@cache
def _least(task: Task, dtype: str) -> float:
    """Seconds of the limit, measured once for all contenders."""
    return task.limit(dtype, DEVICE)


def weighed(task: Task, contender: str, dtype: str) -> int | None:
    """Bytes at the worst moment of a call; None where the system does not say."""
    command = [sys.executable, "-m", "benchmarks.weigh", task.name, contender, dtype, DEVICE]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()[-1]
    return None if said == "None" else int(said)
