"""The start of the command. One that judges imports torch first, and forks the process that its workers come from.

Nothing else is loaded at that time: no plan, no seed, no reference, which a candidate could find in its own memory.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys

_OBJECTS = 10_000  # made between two collections; with Python's 700, they are a tenth of a check's processor time
_JUDGES = ("check", "identify", "replay")


def main() -> int:
    """Run the command of ``sys.argv`` and return its exit code."""
    try:
        if _will_judge(sys.argv[1:]):
            with contextlib.suppress(Exception):  # whatever it is, it is raised again where the command can report it
                _fork_nursery()
        if sys.argv[1:]:  # after the fork: a candidate has memory as everywhere else
            from ..isolation.heap import give_back_large_blocks

            give_back_large_blocks()
            gc.freeze()  # else each full collection reads all objects of torch again
            gc.set_threshold(_OBJECTS)
        from .main import main as run
    except KeyboardInterrupt:
        print("shiftproof: interrupted", file=sys.stderr)
        return 130
    return run()


def _will_judge(arguments: list[str]) -> bool:
    return bool(arguments) and arguments[0] in _JUDGES and not {"-h", "--help"} & set(arguments)


def _fork_nursery() -> None:
    # The judge's own tensors are tiny too, and without threads its fork is as good as a new process.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch  # noqa: F401

    from ..isolation.nursery import fork_here

    fork_here()
