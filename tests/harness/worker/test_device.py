"""What is asked of CUDA is asked as torch has it; and a CPU answers the same questions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
import torch

from shiftproof.harness.worker import clock, device
from shiftproof.harness.worker.device import device_of

GPU = torch.device("cuda:0")
ROOT = Path(__file__).parents[3]
ASKED = {
    "synchronize": None,
    "current_stream": "the stream",
    "memory_allocated": 3,
    "max_memory_allocated": 7,
    "reset_peak_memory_stats": None,
    "mem_get_info": (5, 9),
    "get_device_properties": Mock(total_memory=9),
    "get_device_name": "a GPU",
    "is_available": True,
    "device_count": 2,
}


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module under test as it is where each function of torch.cuda is a mock that takes what torch's own takes."""
    for name, answer in ASKED.items():
        monkeypatch.setattr(torch.cuda, name, create_autospec(getattr(torch.cuda, name), return_value=answer))
    event = create_autospec(torch.cuda.Event)
    event.return_value.elapsed_time.return_value = 1.5
    monkeypatch.setattr(torch.cuda, "Event", event)
    assert device.__file__ is not None
    spec = importlib.util.spec_from_file_location("device_under_test", device.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_asked_of_cuda(cuda: Any) -> None:
    gpu = cuda.device_of(GPU)
    assert gpu.has_stream
    gpu.settle()
    torch.cuda.synchronize.assert_called_once_with(GPU)  # type: ignore[attr-defined]
    gpu.reset_peak()
    torch.cuda.reset_peak_memory_stats.assert_called_once_with(GPU)  # type: ignore[attr-defined]
    assert (gpu.in_use(), gpu.most_in_use(), gpu.free_memory(), gpu.total_memory()) == (3, 7, 5, 9)
    assert gpu.name() == "a GPU"
    assert cuda.cuda_devices() == 2


def test_marks_are_events_of_the_current_stream(cuda: Any) -> None:
    gpu = cuda.device_of("cuda:0")
    start, stop = gpu.mark(), gpu.mark()
    torch.cuda.Event.assert_called_with(enable_timing=True)  # type: ignore[attr-defined]
    start.record.assert_called_with("the stream")
    assert gpu.between(start, stop) == 1_500_000
    start.elapsed_time.assert_called_once_with(stop)


def test_the_cache_is_flushed_in_memory_that_is_taken_once(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Mock(wraps=lambda count, dtype, device: torch.ones(8, dtype=dtype))
    monkeypatch.setattr(torch, "empty", empty)
    gpu = cuda.device_of(GPU)
    gpu.flush()
    gpu.flush()
    empty.assert_called_once_with(256 << 20, dtype=torch.uint8, device=GPU)
    assert not gpu._flushed.any()


def test_a_clock_reads_the_stream_of_a_device_that_has_one(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.devices, "device_of", cuda.device_of)
    watch = clock.Clock(GPU)
    start = watch.start()
    assert watch.window(start, watch.stop())["stream"] == 1_500_000


def test_a_cpu_answers_the_same_questions() -> None:
    cpu = device_of("cpu")
    start = cpu.mark()
    cpu.settle()
    cpu.flush()
    assert cpu.between(start, cpu.mark()) >= 0
    assert 0 < cpu.free_memory() <= cpu.total_memory()
    assert cpu.name()
    watch = clock.Clock(torch.device("cpu"))
    begun = watch.start()
    assert watch.window(begun, watch.stop())["stream"] is None


def test_whoever_replaces_a_clock_of_cuda_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock.patched() == []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda.Event, "elapsed_time", lambda self, other: 0.0)
    assert clock.patched() == ["torch.cuda.synchronize", "Event.elapsed_time"]


def test_nobody_else_asks_cuda() -> None:
    """So that whatever runs on a GPU can be tried out on a CPU. A kernel may ask how large the L2 cache is."""
    own = {ROOT / "harness" / "worker" / "device.py", ROOT / "reference" / "yardstick" / "kernel.py"}
    folders = ("harness", "reference", "src", "tests/benchmarks", "tests/gpu")
    files = {file for folder in folders for file in (ROOT / folder).rglob("*.py")} - own
    assert [str(file) for file in files if "torch.cuda" in file.read_text(encoding="utf-8")] == []
