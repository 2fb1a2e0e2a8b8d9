"""The memory of the judge's own process, which makes and frees large tensors for hours."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3  # its number in glibc's malloc.h
_LARGE = 4 << 20  # bytes; the page faults of a smaller block would take longer than what is done with it


def give_back_large_blocks() -> None:
    """Make glibc give each large block back to the system when it is freed. With another C library, do nothing.

    By default glibc keeps blocks of up to 32 MB in its heap once one was freed. Small ones that live longer settle
    between them, and the heap grows: that of `shiftproof speed` to 22 GB in ten minutes.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
