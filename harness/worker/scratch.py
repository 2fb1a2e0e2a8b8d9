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
    """A folder in shared memory, and one on disk for whatever does not fit there; each made when first needed.

    A container often has 64 MiB of shared memory only.
    """

    def __init__(self) -> None:
        self._in_memory: str | None = None
        self._on_disk: str | None = None

    def for_bytes(self, size: int) -> str:
        """The path of a folder with room for `size` bytes, if shared memory or the disk has that much."""
        # A folder may be gone: the candidate's process can remove it.
        if _free_bytes(SHARED_MEMORY) >= size:
            if self._in_memory is None or not os.path.isdir(self._in_memory):
                self._in_memory = tempfile.mkdtemp(prefix=PREFIX, dir=SHARED_MEMORY)
            return self._in_memory
        if self._on_disk is None or not os.path.isdir(self._on_disk):
            self._on_disk = tempfile.mkdtemp(prefix=PREFIX)
        return self._on_disk

    def remove(self) -> None:
        """Remove what was made. May be called again."""
        for folder in (self._in_memory, self._on_disk):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        self._in_memory = self._on_disk = None


def remove_orphan(file: str) -> None:
    """Remove the scratch folder that `file` lies in, on behalf of a harness that vanished; any other folder stays."""
    folder = os.path.dirname(file)
    if os.path.basename(folder).startswith(PREFIX):
        shutil.rmtree(folder, ignore_errors=True)


def _free_bytes(folder: str) -> int:
    """Bytes that may be written in `folder`; -1 if it is not there or not ours to write in."""
    if not os.access(folder, os.W_OK | os.X_OK):
        return -1
    usage = os.statvfs(folder)
    return usage.f_bavail * usage.f_frsize
