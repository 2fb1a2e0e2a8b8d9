"""The engine of a sweep on Ray: a cluster of two workers on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.sweep.engine import hands_of, run
from shiftproof.harness.sweep.executor import NotStarted
from shiftproof.harness.sweep.result import Outcome, Row
from shiftproof.harness.sweep.settings import Settings
from shiftproof.harness.sweep.store import Header, Store

CANDIDATES = Path(__file__).parents[2] / "candidates"
JUDGE = "sweep_judge:judge"
HEADER = Header("0.1.0", "lib", {}, "", (), 3, "quick", "cpu", "float32")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log of what the judge was given, on a cluster that can find it."""
    ray: Any = pytest.importorskip("ray")
    log = tmp_path_factory.mktemp("ray") / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(CANDIDATES))
        patch.setenv("JUDGED", str(log))
        ray.init(num_cpus=2, log_to_driver=False)
        yield log
        ray.shutdown()


def swept(folder: Path, *names: str, deadline: float = 60.0) -> dict[str, Row]:
    settings = Settings(seed=3, deadline=deadline)
    with Store(folder / "s.jsonl", HEADER) as store:
        run([f"lib:{name}" for name in names], hands_of("ray", JUDGE, settings, 2), settings, store)
        return {row.name: row for row in store.rows.values()}


@pytest.mark.peers
def test_each_class_is_judged_once_by_two_workers(tmp_path: Path, log: Path) -> None:
    names = [f"Slow{index}" for index in range(8)]
    rows = swept(tmp_path, *names, "Wrong", "Unbuilt")
    assert rows["Wrong"].diagnosis == ("double-shift",)
    assert rows["Unbuilt"].outcome is Outcome.NOT_BUILT
    assert all(rows[name].outcome is Outcome.CONFORMS for name in names)
    begun = [line.split() for line in log.read_text().splitlines()]
    assert sorted(name for name, _ in begun) == sorted([*names, "Wrong", "Unbuilt"])
    assert len({process for _, process in begun}) == 2


@pytest.mark.peers
def test_a_class_that_misbehaves_costs_nobody_else(tmp_path: Path, log: Path) -> None:
    rows = swept(tmp_path, "Crash", "Hang", "Leave", "Raise", "Right1", "Right2", "Right3", deadline=5.0)
    assert rows["Crash"].reason.startswith("its process ended: Worker unexpectedly exits")
    assert rows["Leave"].reason.startswith("its process ended: Worker exits unexpectedly.")
    assert "exit code 3" in rows["Leave"].reason
    assert all(len(row.reason) < 120 for row in rows.values())
    assert rows["Hang"].reason == "it took longer than 5 s"
    assert rows["Raise"].reason == "judging it raised ValueError: two lines"
    assert [row.outcome for row in rows.values()].count(Outcome.CONFORMS) == 3


@pytest.mark.peers
def test_a_judge_that_cannot_be_started_is_no_fault_of_a_class(tmp_path: Path, log: Path) -> None:
    settings = Settings()
    with (
        Store(tmp_path / "s.jsonl", HEADER) as store,
        pytest.raises(NotStarted, match=r"ended: AttributeError: .*no_such"),
    ):
        run(["lib:Right"], hands_of("ray", "sweep_judge:no_such", settings, 1), settings, store)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'shiftproof\[ray\]'"):
        hands_of("ray", JUDGE, Settings(), 1)


def test_no_cluster_at_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("ray"), "is_initialized", lambda: False)
    with pytest.raises(UsageError, match=r"there is no Ray cluster at 127.0.0.1:1: "):
        hands_of("ray", JUDGE, Settings(), 1, address="127.0.0.1:1")
