"""How much more memory is in use at the worst moment than at the first. Runs in the candidate's process."""

from __future__ import annotations

import torch

_RESET = "/proc/self/clear_refs"
_STATUS = "/proc/self/status"


class Peak:
    """Counts from its construction: by torch's allocator on CUDA, by resident pages on the CPU (Linux only)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before: int | None = torch.cuda.memory_allocated(device)
            return
        try:
            with open(_RESET, "w", encoding="ascii") as file:
                file.write("5")  # the peak begins anew from what is resident now
            self._before = _resident("VmRSS")
        except OSError:
            self._before = None

    def bytes(self) -> int | None:
        """Bytes above the beginning at the worst moment since; None where the system does not say."""
        if self._before is None:
            return None
        if self._device.type == "cuda":
            return max(torch.cuda.max_memory_allocated(self._device) - self._before, 0)
        return max(_resident("VmHWM") - self._before, 0)


def _resident(field: str) -> int:
    with open(_STATUS, encoding="ascii") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) << 10
    raise OSError(f"{_STATUS} has no {field}")
