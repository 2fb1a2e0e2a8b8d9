"""The folder ``.shiftproof`` beside a user's code: git ignores it, and it does not grow without end."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(".shiftproof")
KEPT = 200  # files of one kind
_STARTED = time.time() - 1  # a file system may round times


def make(folder: Path) -> None:
    """Make a folder. If it is in ``.shiftproof``, that gets a ``.gitignore``.

    Raises:
        OSError: the folder cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for parent in (folder, *folder.parents):
        if parent.name == ROOT.name:
            ignored = parent / ".gitignore"
            if not ignored.exists():
                ignored.write_text("*\n", encoding="utf-8")
            return


def prune(folder: Path, pattern: str, kept: int = KEPT) -> None:
    """Delete all but the newest files that fit the pattern.

    What was written since this process began stays, however much it is: the report of this run names it.
    """
    times: dict[Path, float] = {}
    for file in folder.glob(pattern):
        with suppress(OSError):  # another process pruned it
            times[file] = file.stat().st_mtime
    for file in sorted(times, key=times.__getitem__, reverse=True)[kept:]:
        if times[file] < _STARTED:
            with suppress(OSError):
                file.unlink()
