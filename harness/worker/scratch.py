"""The private folder through which tensors pass between two processes. Standard library only."""

from __future__ import annotations

import os
import shutil
import tempfile

SHARED_MEMORY = "/dev/shm"
PREFIX = "shiftproof-worker-"
CASE_FILE = "case.safetensors"
RESULT_FILE = "result.safetensors"


class ScratchFolder:
    """A folder in shared memory, and one on disk for files that do not fit there. Each is made when first needed.

    A container often has only 64 MiB of shared memory.
    """

    def __init__(self) -> None:
        self._in_memory: str | None = None
        self._on_disk: str | None = None

    def for_bytes(self, size: int) -> str:
        """The path of a folder in shared memory, if it has room for `size` bytes, and else on disk."""
        # A folder may have vanished: the candidate's process can remove it.
        if _free_bytes(SHARED_MEMORY) >= size:
            if self._in_memory is None or not os.path.isdir(self._in_memory):
                self._in_memory = tempfile.mkdtemp(prefix=PREFIX, dir=SHARED_MEMORY)
            return self._in_memory
        if self._on_disk is None or not os.path.isdir(self._on_disk):
            self._on_disk = tempfile.mkdtemp(prefix=PREFIX)
        return self._on_disk

    def remove(self) -> None:
        """Remove both folders. May be called again."""
        for folder in (self._in_memory, self._on_disk):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        self._in_memory = self._on_disk = None


def remove_orphan(file: str) -> None:
    """Remove the scratch folder of `file`, in place of a harness that vanished. Any other folder stays."""
    folder = os.path.dirname(file)
    if os.path.basename(folder).startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _free_bytes(folder: str) -> int:
    """The free bytes in `folder`, or -1 if it does not exist or we may not write to it."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return -1
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize
