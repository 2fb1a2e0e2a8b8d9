"""The clocks of a timed call, taken before any candidate is loaded. Runs in the candidate's process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from . import device as devices

_CPU, _OF_THREAD, _WALL = time.process_time_ns, time.thread_time_ns, time.perf_counter_ns
_SLEEP = time.sleep
_SCHEDULER = "/proc/thread-self/schedstat"

_WATCHED: tuple[tuple[Any, str], ...] = (
    *((time, name) for name in ("perf_counter", "process_time", "thread_time", "monotonic", "time")),
    *((time, f"{name}_ns") for name in ("perf_counter", "process_time", "thread_time", "monotonic", "time")),
    *devices.WATCHED,
)
_ORIGINALS = tuple(getattr(owner, name) for owner, name in _WATCHED)


def patched() -> list[str]:
    """The names of the clocks that have been replaced."""
    return [
        f"{getattr(owner, '__name__', owner)}.{name}"
        for (owner, name), original in zip(_WATCHED, _ORIGINALS, strict=True)
        if getattr(owner, name, None) is not original
    ]


def sleep(seconds: float) -> None:
    """Let other threads run."""
    if seconds:
        _SLEEP(seconds)


def busy() -> int:
    """The processor time of this process, in all its threads, in nanoseconds."""
    return _CPU()


@dataclass(frozen=True, slots=True)
class Reading:
    """All clocks at one moment, in nanoseconds.

    Attributes:
        wall: wall time.
        cpu, thread: processor time of this process, and of only the calling thread.
        waited: how long this thread was ready to run while another ran. None if the kernel does not report it.
        event: on CUDA, the device's own mark in the current stream. Else None.
    """

    wall: int
    cpu: int
    thread: int
    waited: int | None
    event: Any


class Clock:
    """Reads all clocks, after it has synchronised the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = devices.device_of(device)
        try:
            with open(_SCHEDULER, "rb"):
                self._scheduled = True
        except OSError:
            self._scheduled = False

    def start(self) -> Reading:
        """Read the clocks at the beginning of a window: slow ones first, so that they do not count in the others."""
        self._device.settle()
        event = self._mark()
        waited = self._waited()
        return Reading(_WALL(), _CPU(), _OF_THREAD(), waited, event)

    def stop(self) -> Reading:
        """Read the clocks at the end of a window, in the opposite order."""
        event = self._mark()
        self._device.settle()
        thread, cpu, wall = _OF_THREAD(), _CPU(), _WALL()
        return Reading(wall, cpu, thread, self._waited(), event)

    def window(self, start: Reading, stop: Reading) -> dict[str, int | None]:
        """The times between two readings, as the fields of a message, in nanoseconds."""
        both = start.waited is not None and stop.waited is not None
        return {
            "wall": stop.wall - start.wall,
            "cpu": stop.cpu - start.cpu,
            "waited": stop.waited - start.waited if both else None,  # type: ignore[operator]
            "stream": self._device.between(start.event, stop.event) if self._device.has_stream else None,
        }

    def _mark(self) -> Any:
        return self._device.mark() if self._device.has_stream else None

    def _waited(self) -> int | None:
        if not self._scheduled:
            return None
        with open(_SCHEDULER, "rb") as file:
            return int(file.read().split()[1])
