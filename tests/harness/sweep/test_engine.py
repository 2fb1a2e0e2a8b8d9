"""The engine of a sweep, on processes of this machine: whatever a class does, the others are judged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shiftproof.harness.sweep.engine import hands_of, run
from shiftproof.harness.sweep.executor import NotStarted, judged
from shiftproof.harness.sweep.processes import Processes
from shiftproof.harness.sweep.result import Outcome, Row
from shiftproof.harness.sweep.settings import Settings
from shiftproof.harness.sweep.store import Header, Store

CANDIDATES = Path(__file__).parents[2] / "candidates"
JUDGE = "sweep_judge:judge"
HEADER = Header("0.1.0", "lib", {}, "", (), 3, "quick", "cpu", "float32")


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The judge can be found, and says here which classes it was given, in which process."""
    monkeypatch.syspath_prepend(str(CANDIDATES))
    monkeypatch.setenv("JUDGED", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s.jsonl", HEADER) as store:
        yield store


def swept(store: Store, *names: str, processes: int = 2, deadline: float = 60.0) -> dict[str, Row]:
    settings = Settings(seed=3, deadline=deadline)
    ticked: list[Row] = []
    run(
        [f"lib:{name}" for name in names],
        hands_of("local", JUDGE, settings, len(names), processes),
        settings,
        store,
        ticked.append,
    )
    assert ticked == list(store.rows.values())
    return {row.name: row for row in ticked}


def begun(log: Path) -> list[tuple[str, str]]:
    """Each class that was begun, and the process."""
    return [(line.split()[0], line.split()[1]) for line in log.read_text().splitlines()]


def test_each_class_is_judged_once_in_processes_that_last(store: Store, log: Path) -> None:
    names = [*(f"Right{index}" for index in range(7)), "Wrong", "UnshiftedBy", "Unbuilt"]
    rows = swept(store, *names)
    assert {name: row.outcome for name, row in rows.items()} == {
        **dict.fromkeys(names[:7], Outcome.CONFORMS),
        "Wrong": Outcome.FAILS,
        "UnshiftedBy": Outcome.UNSHIFTED,
        "Unbuilt": Outcome.NOT_BUILT,
    }
    assert rows["Wrong"].diagnosis == ("double-shift",)
    assert rows["Wrong"].seed == 3
    assert sorted(name for name, _ in begun(log)) == sorted(names)
    assert len({process for _, process in begun(log)}) <= 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Crash", "its process was killed by SIGABRT"),
        ("Leave", "its process exited with code 3"),
        ("Raise", "judging it raised ValueError: two lines"),
    ],
)
def test_a_class_that_misbehaves_is_told_and_the_rest_goes_on(store: Store, name: str, reason: str) -> None:
    rows = swept(store, "Right1", name, "Right2", "Right3", processes=1)
    assert (rows[name].outcome, rows[name].reason) == (Outcome.NOT_JUDGED, reason)
    assert [row.outcome for row in rows.values()].count(Outcome.CONFORMS) == 3


def test_a_class_that_eats_memory_meets_a_limit(store: Store) -> None:
    targets = ["lib:Hog", "lib:Right"]
    run(targets, Processes(JUDGE, Settings(), 1, memory=2 << 30), Settings(), store)
    assert [row.reason for row in store.rows.values()] == ["judging it raised MemoryError", ""]


def test_a_class_that_hangs_costs_its_deadline_alone(store: Store, log: Path) -> None:
    started = time.monotonic()
    rows = swept(store, "Hang", "Right1", "Right2", "Slow", deadline=3.0)
    assert rows["Hang"].reason == "it took longer than 3 s"
    assert rows["Hang"].seconds >= 3.0
    assert all(row.outcome is Outcome.CONFORMS for name, row in rows.items() if name != "Hang")
    assert time.monotonic() - started < 60
    (process,) = (int(process) for name, process in begun(log) if name == "Hang")
    assert not Path(f"/proc/{process}").exists()


def test_a_judge_that_cannot_be_started_is_no_fault_of_a_class(store: Store) -> None:
    settings = Settings()
    with pytest.raises(NotStarted, match="exited with code 1, before it got any class"):
        run(["lib:Right"], hands_of("local", "sweep_judge:no_such", settings, 1), settings, store)
    assert store.rows == {}


def test_what_a_judge_raises_is_one_line() -> None:
    def quiet(target: str, settings: Settings) -> Row:
        raise KeyError

    assert judged(quiet, "lib:X", Settings()).reason == "judging it raised KeyError"
