"""A limit on what a candidate may allocate, kept by the kernel. Linux only; elsewhere there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .shield import shielded
from .tracebacks import exception_message

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]


class MemoryLimit:
    """The limit of one process, counted from its usage at the moment of construction."""

    def __init__(self, limit: int | None) -> None:
        """`limit`: bytes beyond the present usage, or None for no limit."""
        self.limit = limit if sys.platform.startswith("linux") else None
        if self.limit is not None:
            _start_threads()
        self._baseline = _data_bytes() if self.limit is not None else 0

    @contextmanager
    def applied(self, arguments: int) -> Iterator[None]:
        """Hold the limit, counting `arguments` bytes of tensors as not the candidate's.

        It is lifted afterwards, so that there is room to say what happened. Within, an allocation that would pass it
        fails: MemoryError in Python, RuntimeError in torch, and in C whatever the caller of malloc makes of it.
        """
        if self.limit is None:
            yield
            return
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = self._baseline + arguments + self.limit
        for bound in (soft, hard):
            if bound != resource.RLIM_INFINITY:
                wanted = min(wanted, bound)
        resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory, of the machine or of the GPU, ran out."""
    # By the class: `isinstance` asks the error too, and a candidate's may raise.
    if issubclass(type(error), (MemoryError, torch.OutOfMemoryError)):
        return True
    signs = ("can't allocate memory", "not enough memory", "std::bad_alloc", "CUDA out of memory")
    return issubclass(type(error), RuntimeError) and any(sign in exception_message(error) for sign in signs)


def _data_bytes() -> int:
    """Private writable memory of this process, in bytes: what RLIMIT_DATA limits, touched or not."""
    # The sixth field is data and stack together; the stack is some 100 KiB, in the candidate's favour.
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def _start_threads() -> None:
    """Let torch start its threads now: their stacks, 8 MiB each, are not the candidate's doing."""
    with shielded(), torch.inference_mode(False), torch.enable_grad():
        torch.autograd.backward((torch.ones(1 << 17, requires_grad=True, device="cpu").exp().sum(),))
