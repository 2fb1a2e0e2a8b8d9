"""The interface to a device: waiting, time marks, memory, name. Runs in the candidate's process.

CUDA's functions for this are taken when this module is imported, before a candidate is loaded that could replace them.
No other module of the project calls ``torch.cuda``, so that a CPU can stand in for a GPU in tests.
"""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import torch

WATCHED: tuple[tuple[Any, str], ...] = (
    (torch.cuda, "synchronize"),
    (torch.cuda.Event, "record"),
    (torch.cuda.Event, "elapsed_time"),
    (torch.cuda.Event, "synchronize"),
)
"""CUDA's clocks, as owners and names. No candidate may replace them."""

_Event = torch.cuda.Event
_synchronize = torch.cuda.synchronize
_current_stream = torch.cuda.current_stream
_allocated = torch.cuda.memory_allocated
_most_allocated = torch.cuda.max_memory_allocated
_reset_peak = torch.cuda.reset_peak_memory_stats
_free_and_total = torch.cuda.mem_get_info
_properties = torch.cuda.get_device_properties
_name = torch.cuda.get_device_name
_is_available = torch.cuda.is_available
_count = torch.cuda.device_count
_is_initialized = torch.cuda.is_initialized

_now = time.perf_counter_ns
_RESET, _STATUS, _PROCESSOR = "/proc/self/clear_refs", "/proc/self/status", "/proc/cpuinfo"
_FLUSHED = 256 << 20  # bytes that are written to empty an L2 cache: more than any L2 cache has


class Device:
    """A CPU. A call has finished its work when it returns, so there is nothing to wait for."""

    has_stream = False
    """Whether work is done in a stream with its own time marks."""

    def __init__(self, device: torch.device) -> None:
        self.torch = device

    def settle(self) -> None:
        """Wait until all submitted work of the device is done."""

    def mark(self) -> Any:
        """Mark this moment in the current stream, for :meth:`between`."""
        return _now()

    def between(self, start: Any, stop: Any) -> int:
        """Nanoseconds between two marks. If there is a stream, call :meth:`settle` first."""
        return int(stop - start)

    def flush(self) -> None:
        """Empty the cache of the device's memory. Does not wait for it."""

    def reset_peak(self) -> None:
        """Restart the count of :meth:`most_in_use`. Raises OSError if the system does not support it."""
        with open(_RESET, "w", encoding="ascii") as file:
            file.write("5")  # reset the peak to the current resident memory

    def in_use(self) -> int:
        """Bytes in use: of torch's allocator on CUDA, of resident pages on a CPU. Raises OSError if not available."""
        return _resident("VmRSS")

    def most_in_use(self) -> int:
        """The peak of the bytes in use. Raises OSError if not available."""
        return _resident("VmHWM")

    def free_memory(self) -> int:
        """Free bytes."""
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def total_memory(self) -> int:
        """All bytes of memory."""
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def name(self) -> str:
        """The product name."""
        try:
            with open(_PROCESSOR, encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.startswith("model name"):
                        return line.partition(":")[2].strip()
        except OSError:
            pass
        return platform.processor() or platform.machine() or "cpu"


class Cuda(Device):
    """A GPU. Calls return at once, and their work runs in a stream."""

    has_stream = True

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._flushed: torch.Tensor | None = None

    def settle(self) -> None:
        _synchronize(self.torch)

    def mark(self) -> Any:
        event = _Event(enable_timing=True)
        event.record(_current_stream(self.torch))
        return event

    def between(self, start: Any, stop: Any) -> int:
        milliseconds: float = start.elapsed_time(stop)
        return round(milliseconds * 1e6)

    def flush(self) -> None:
        if self._flushed is None:
            self._flushed = torch.empty(_FLUSHED, dtype=torch.uint8, device=self.torch)
        self._flushed.zero_()

    def reset_peak(self) -> None:
        _reset_peak(self.torch)

    def in_use(self) -> int:
        return int(_allocated(self.torch))

    def most_in_use(self) -> int:
        return int(_most_allocated(self.torch))

    def free_memory(self) -> int:
        free, _ = _free_and_total(self.torch)
        return int(free)

    def total_memory(self) -> int:
        return int(_properties(self.torch).total_memory)

    def name(self) -> str:
        return str(_name(self.torch))


def device_of(device: torch.device | str) -> Device:
    """The device with this torch name. Does not access it yet."""
    device = torch.device(device)
    return Cuda(device) if device.type == "cuda" else Device(device)


def cuda_devices() -> int:
    """The number of CUDA devices that torch can use."""
    return _count() if _is_available() else 0


def _resident(field: str) -> int:
    with open(_STATUS, encoding="ascii") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    raise OSError(f"{_STATUS} has no {field}")


def is_cuda_initialised() -> bool:
    """Whether this process uses CUDA already. Then its forks cannot."""
    return bool(_is_initialized())  # type: ignore[no-untyped-call]
