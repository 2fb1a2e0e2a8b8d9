"""A process of one part: in a group of its own, which ends with it, and on a clock of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

OUT_OF_TIME = "out of time"


def run_child(command: Sequence[str], log: Path, seconds: float, environment: Mapping[str, str], cwd: Path) -> str:
    """Run a command, all it says appended to ``log``. Returns how it ended: ``exit N``, ``signal N`` or OUT_OF_TIME.

    What is left of its process group is killed, however it ended and whatever is raised here meanwhile.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout=max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return OUT_OF_TIME
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            _reap(child)
    return f"signal {-code}" if code < 0 else f"exit {code}"


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Wait for a killed process, though not for ever: one that hangs in the driver cannot even be killed."""
    finish = time.monotonic() + 5
    while child.poll() is None and time.monotonic() < finish:
        time.sleep(0.05)
