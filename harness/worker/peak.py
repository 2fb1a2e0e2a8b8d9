"""How much more memory is in use at the worst moment than at the first. Runs in the candidate's process."""

from __future__ import annotations

import torch

from .device import device_of


class Peak:
    """Counts from its construction: by torch's allocator on CUDA, by resident pages on the CPU (Linux only)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device_of(device)
        self._before: int | None = None
        try:
            self._device.reset_peak()
            self._before = self._device.in_use()
        except OSError:
            pass

    def bytes(self) -> int | None:
        """Bytes above the beginning at the worst moment since; None where the system does not say."""
        return None if self._before is None else max(self._device.most_in_use() - self._before, 0)
