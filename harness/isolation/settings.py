"""The settings with which a candidate runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Where a candidate runs, and how much time and memory it may use.

    Raises:
        ValueError: a deadline is not a positive number, the memory limit is negative, or the device is neither cpu nor
            cuda.
    """

    python: str | None = None
    """The interpreter. None means the running one. It needs only torch and safetensors."""

    cwd: str | None = None
    """The candidate's working directory, first on its `sys.path`. None means the current one."""

    device: str = "cpu"
    """"cpu", "cuda" or "cuda:N"."""

    load_deadline: float = 120.0
    """Seconds from the start of the process until the candidate is imported."""

    call_deadline: float = 20.0
    """Seconds for one call with its backward, including the transport of its tensors."""

    memory_limit: int | None = 2 << 30
    """Bytes that the candidate may allocate beyond the memory in use after loading and beyond its arguments. None means
    no limit. The limit applies only on Linux, in another process, on the cpu."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its process that differ from ours."""

    watches_branches: bool = False
    """Whether its process notes which branches of its own code run. See ``worker/branches.py``."""

    may_fork: bool = True
    """Whether the process may be a fork of one that has imported torch. Else it starts from nothing, in seconds."""

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
