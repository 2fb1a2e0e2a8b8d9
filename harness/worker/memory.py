"""A limit on the memory of a candidate, enforced by the kernel. On Linux only."""

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
    """The limit of one process, counted from its usage at construction."""

    def __init__(self, limit: int | None) -> None:
        """`limit`: bytes beyond the present usage. None means no limit."""
        self.limit = limit if sys.platform.startswith("linux") else None
        if self.limit is not None:
            _start_threads()
        self._baseline = _data_bytes() if self.limit is not None else 0

    @contextmanager
    def applied(self, arguments: int) -> Iterator[None]:
        """Apply the limit. `arguments` bytes of tensors do not count.

        Within it, an allocation beyond the limit fails: MemoryError in Python, RuntimeError in torch, and in C as the
        caller of malloc handles it. Afterwards the limit is lifted, so that there is memory to report what happened.
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
    """Whether an exception means that memory, of the machine or of the GPU, ran out."""
    # By the class: `isinstance` also asks the error object, and a candidate's may raise.
    if issubclass(type(error), (MemoryError, torch.OutOfMemoryError)):
        return True
    signs = ("can't allocate memory", "not enough memory", "std::bad_alloc", "CUDA out of memory")
    return issubclass(type(error), RuntimeError) and any(sign in exception_message(error) for sign in signs)


def _data_bytes() -> int:
    """Private writable memory of this process, in bytes, touched or not: the memory that RLIMIT_DATA limits."""
    # The sixth field is data and stack together. The stack is about 100 KiB, in the candidate's favour.
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def _start_threads() -> None:
    """Make torch start its threads now, so that their stacks, 8 MiB each, do not count as the candidate's memory."""
    with shielded(), torch.inference_mode(False), torch.enable_grad():
        torch.autograd.backward((torch.ones(1 << 17, requires_grad=True, device="cpu").exp().sum(),))
