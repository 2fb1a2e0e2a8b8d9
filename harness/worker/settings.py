"""How a candidate is to be run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Where a candidate runs, and what it may use up.

    Raises:
        ValueError: a deadline is not a positive number, the memory limit is negative, or the device is neither cpu nor
            cuda.
    """

    python: str | None = None
    """The interpreter; None is the running one. It needs torch and safetensors, and nothing else."""

    cwd: str | None = None
    """The candidate's working directory, first on its `sys.path`; None is the current one."""

    device: str = "cpu"
    """"cpu", "cuda" or "cuda:N"."""

    load_deadline: float = 120.0
    """Seconds from the start of the process until the candidate is imported."""

    call_deadline: float = 20.0
    """Seconds for one call with its backward, the transport of its tensors included."""

    memory_limit: int | None = 2 << 30
    """Bytes the candidate may allocate beyond what was there after loading and beyond its arguments. None: no limit.
    Kept on Linux, in a process of its own, on the cpu; a GPU's memory limits itself."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of its process that are not as they are in ours."""

    def __post_init__(self) -> None:
        for name in ("load_deadline", "call_deadline"):
            seconds = getattr(self, name)
            if not (seconds > 0 and math.isfinite(seconds)):
                raise ValueError(f"{name} must be a positive number of seconds, got {seconds!r}")
        if self.memory_limit is not None and self.memory_limit < 0:
            raise ValueError(f"memory_limit must not be negative, got {self.memory_limit!r}")
        kind, colon, index = self.device.partition(":")
        if not (self.device == "cpu" or (kind == "cuda" and (not colon or index.isdigit()))):
            raise ValueError(f'device must be "cpu", "cuda" or "cuda:N", got {self.device!r}')
