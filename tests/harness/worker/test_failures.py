"""Candidates that take their process with them, and a harness that outlives every one."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.inprocess import InProcess
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call, Died, NotAnswered, OutOfMemory, Raised, Returned, TimedOut

CallOf = Callable[..., Call]


def is_running(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def assert_right_again(worker: Worker, call_of: CallOf) -> None:
    outcome = worker.call(call_of("int"))
    assert isinstance(outcome, Returned), outcome
    assert outcome.value.item() == 3.0


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("exit", "exited with code 3"),
        ("exit with words", "exited with code 1"),
        ("os exit", "exited with code 3"),
        ("segfault", "was killed by SIGSEGV"),
    ],
)
def test_death_is_an_outcome_and_the_next_call_is_right(
    fragile: Worker, call_of: CallOf, action: str, words: str
) -> None:
    fragile.describe()
    restarts = fragile.restarts
    outcome = fragile.call(call_of(action))
    assert isinstance(outcome, Died)
    assert outcome.describe() == words
    assert {"exit": "", "exit with words": "no more", "os exit": "last words", "segfault": "Segmentation fault"}[
        action
    ] in outcome.stderr
    assert_right_again(fragile, call_of)
    assert fragile.restarts == restarts + 1


def test_exit_in_process_is_the_same_outcome(zoo: Path, call_of: CallOf) -> None:
    with InProcess("zoo.py:candidate", WorkerSettings(cwd=str(zoo))) as worker:
        for action, code in (("exit", 3), ("exit with words", 1)):
            outcome = worker.call(call_of(action))
            assert isinstance(outcome, Died)
            assert outcome.exit_code == code


def test_sigkill_that_is_not_ours_is_the_kernel_short_of_memory(fragile: Worker, call_of: CallOf) -> None:
    assert isinstance(fragile.call(call_of("kill")), OutOfMemory)
    assert_right_again(fragile, call_of)


def test_keyboard_interrupt_is_the_candidates(fragile: Worker, call_of: CallOf) -> None:
    outcome = fragile.call(call_of("interrupt"))
    assert isinstance(outcome, Raised)
    assert outcome.type == "KeyboardInterrupt"


@pytest.mark.parametrize("action", ["hang", "spin", "orphan"])
def test_hang_ends_at_its_deadline_with_all_its_children(zoo: Path, call_of: CallOf, action: str) -> None:
    with Worker("zoo.py:candidate", WorkerSettings(cwd=str(zoo), call_deadline=1)) as worker:
        worker.describe()
        pid = worker._held.child.pid  # type: ignore[union-attr]
        begun = time.monotonic()
        outcome = worker.call(call_of(action))
        assert outcome == TimedOut(1.0)
        assert 1.0 <= time.monotonic() - begun < 2.5
        assert not Path(f"/proc/{pid}").exists(), "a zombie is left"
        if action == "orphan":
            assert wait_until(lambda: not is_running(int((zoo / "orphan.pid").read_text())))
        if action == "hang":
            assert_right_again(worker, call_of)
            assert worker.restarts == 1


def test_flood_neither_blocks_nor_is_kept(fragile: Worker, call_of: CallOf) -> None:
    assert isinstance(fragile.call(call_of("flood")), Returned)
    outcome = fragile.call(call_of("os exit"))
    assert isinstance(outcome, Died)
    assert 60_000 < len(outcome.stderr) <= 65_536
    assert outcome.stderr.endswith("last words\n")


@pytest.mark.parametrize("action", ["hog", "hog lists"])
def test_memory_is_limited(fragile: Worker, call_of: CallOf, action: str) -> None:
    fragile.describe()
    restarts = fragile.restarts
    outcome = fragile.call(call_of(action))
    assert isinstance(outcome, OutOfMemory), outcome
    assert outcome.limit == 512 << 20
    assert "limit 512 MiB" in outcome.describe()
    assert_right_again(fragile, call_of)
    assert fragile.restarts == restarts + 1


def test_a_forged_answer_is_none(fragile: Worker, call_of: CallOf) -> None:
    outcome = fragile.call(call_of("forge"))
    assert isinstance(outcome, NotAnswered)
    assert "expected the answer to message" in outcome.message
    assert_right_again(fragile, call_of)


def test_a_candidate_killed_between_calls(fragile: Worker, call_of: CallOf) -> None:
    fragile.describe()
    os.kill(fragile._held.child.pid, signal.SIGTERM)  # type: ignore[union-attr]
    outcome = fragile.call(call_of("int"))
    assert isinstance(outcome, Died)
    assert outcome.signal == "SIGTERM"
    assert_right_again(fragile, call_of)


@pytest.mark.parametrize("how", ["close", "garbage"])
def test_nothing_is_left_behind(zoo: Path, call_of: CallOf, how: str) -> None:
    worker = Worker("zoo.py:candidate", WorkerSettings(cwd=str(zoo)))
    worker.call(call_of("int"))
    assert worker.seconds_in_candidate > 0
    pid = worker._held.child.pid  # type: ignore[union-attr]
    folder = Path(worker._held.scratch.for_bytes(0))  # type: ignore[union-attr]
    assert folder.is_dir()
    if how == "close":
        worker.close()
        worker.close()
        with pytest.raises(RuntimeError, match="closed"):
            worker.start()
    else:
        del worker
        gc.collect()
    assert not Path(f"/proc/{pid}").exists()
    assert not folder.exists()


HARNESS = """
import sys, torch
from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.worker.exchange import Call
from shiftproof.harness.isolation.settings import WorkerSettings
worker = Worker("zoo.py:candidate", WorkerSettings(cwd=sys.argv[1]))
tensors = {"logits": torch.zeros(1, 2, 3), "labels": torch.zeros(1, 2, dtype=torch.int64)}
worker.call(Call(tensors, {"action": "int"}))
print(worker._held.child.pid, worker._held.scratch.for_bytes(0), flush=True)
if sys.argv[2] == "hang":
    worker.call(Call(tensors, {"action": "hang"}))
elif sys.argv[2] == "idle":
    import time; time.sleep(600)
"""


@pytest.mark.representatives(1)
@pytest.mark.parametrize("end", ["hang", "idle", "leave"])
def test_the_worker_ends_with_the_harness(zoo: Path, end: str) -> None:
    harness = subprocess.Popen([sys.executable, "-c", HARNESS, str(zoo), end], stdout=subprocess.PIPE, text=True)
    with harness:
        assert harness.stdout is not None
        pid, folder = harness.stdout.readline().split()
        if end != "leave":
            time.sleep(0.2)
            harness.kill()
    assert wait_until(lambda: not is_running(int(pid)))
    assert wait_until(lambda: not Path(folder).exists())
