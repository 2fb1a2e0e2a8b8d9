"""The peak of memory use above its value at the start. Runs in the candidate's process."""

from __future__ import annotations

import torch

from .device import device_of


class Peak:
    """Measures from its construction on: by torch's allocator on CUDA, by resident pages on the CPU (Linux only)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device_of(device)
        self._before: int | None = None
        try:
            self._device.reset_peak()
            self._before = self._device.in_use()
        except OSError:
            pass

    def bytes(self) -> int | None:
        """The peak since construction, in bytes above the start. None if the system does not report it."""
        return None if self._before is None else max(self._device.most_in_use() - self._before, 0)
