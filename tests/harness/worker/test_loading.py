"""A call that compiles or imports has the deadline of loading, and no other call has."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call, Returned, TimedOut
from shiftproof.harness.worker.loading import Stacks

COMPILED = f"{Path(__file__).parents[2] / 'candidates' / 'compiled.py'}:"


@pytest.fixture(scope="module")
def call() -> Call:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 5, 7, generator=generator)
    return Call({"logits": logits, "labels": torch.randint(0, 7, (2, 5), generator=generator)}, gradients=("logits",))


@pytest.fixture
def worker_of(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Makes workers whose calls have three seconds, and whose loading has the seconds that are asked for."""
    made: list[Worker] = []

    def make(name: str, load_deadline: float = 120.0) -> Worker:
        worker = Worker(COMPILED + name, WorkerSettings(call_deadline=3, load_deadline=load_deadline))
        made.append(worker)
        worker.describe()
        return worker

    yield make
    for worker in made:
        worker.close()


@pytest.mark.representatives(1)
@pytest.mark.parametrize("name", ["slowly", "when_called", "imports_late"])
def test_a_call_that_compiles_or_imports_may_take_longer(
    worker_of: Callable[..., Worker], call: Call, name: str
) -> None:
    worker = worker_of(name)
    begun = time.monotonic()
    outcome = worker.call(call)
    assert isinstance(outcome, Returned), outcome
    assert time.monotonic() - begun > 6  # twice its deadline
    assert worker.restarts == 0


def test_what_hangs_after_it_compiled_has_the_deadline_of_a_call(worker_of: Callable[..., Worker], call: Call) -> None:
    worker = worker_of("hangs_once_compiled")
    assert worker.call(call) == TimedOut(3.0)


@pytest.mark.slow
def test_compiling_for_ever_ends_with_the_deadline_of_loading(call: Call) -> None:
    with Worker(COMPILED + "for_ever", WorkerSettings(call_deadline=3, load_deadline=25)) as worker:
        worker.describe()
        begun = time.monotonic()
        assert worker.call(call) == TimedOut(25.0)
        assert 25 <= time.monotonic() - begun < 40


def test_this_thread_is_not_looked_at() -> None:
    assert not Stacks().is_loading()


def test_an_import_of_another_thread_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "takes_its_time.py").write_text("import test_gate\ntest_gate.reached.set()\ntest_gate.go.wait(60)\n")
    (tmp_path / "test_gate.py").write_text("import threading\nreached, go = threading.Event(), threading.Event()\n")
    monkeypatch.syspath_prepend(tmp_path)
    gate = importlib.import_module("test_gate")
    stacks = Stacks()
    importing = threading.Thread(target=importlib.import_module, args=("takes_its_time",))
    importing.start()
    gate.reached.wait(60)
    seen = stacks.is_loading()
    gate.go.set()
    importing.join()
    assert seen
    assert not stacks.is_loading()
