"""A signal is the exit code, and what it interrupts does not conform."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .command import GOOD, Run, environment


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_the_exit_code(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    began = "\ndef slow(logits, labels):\n    open('began', 'w').close()\n    import time; time.sleep(60)\n"
    (tmp_path / "losses.py").write_text(GOOD + began)
    command = [sys.executable, "-m", "shiftproof", "check", "losses.py:slow", "--spec", "hf.causal_lm"]
    # A shell starts what runs in its background with SIGINT ignored, and so would this be.
    handled = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **handled,
    ) as running:
        until = time.monotonic() + 120
        while not (tmp_path / "began").exists() and time.monotonic() < until:
            time.sleep(0.05)
        running.send_signal(sent)
        _, err = running.communicate(timeout=60)
    assert running.returncode == code, err


def test_what_is_interrupted_does_not_conform(run_apart: Run, tmp_path: Path) -> None:
    stops = "\ncalls = 0\ndef stops(logits, labels):\n    global calls\n    calls += 1\n"
    stops += "    if calls > 60:\n        raise KeyboardInterrupt\n    return loss(logits, labels)\n"
    (tmp_path / "losses.py").write_text(GOOD + stops)
    ran = run_apart("check", "losses.py:stops", "--spec", "hf.causal_lm", "--in-process")
    assert ran.code == 130, ran.out
    assert "CONFORMS" not in ran.out
    assert re.search(r"PARTIAL · .*\n  no violation in \d+ of \d+ laws; the others were not asked", ran.out)
