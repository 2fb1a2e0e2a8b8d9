"""Reports of a candidate's processes add up, and one that makes no sense is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from shiftproof.harness.isolation.branch_record import BranchRecord
from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call, NotAnswered, Returned


def told(seen: list[int], **rest: Any) -> dict[str, Any]:
    return {"file": "f.py", "function": "loss", "number": 3, "seen": seen, **rest}


FIRST = told(
    [1, 0],
    branches=[[4, 7, "a", ["true", "false"], [False, False]], [5, 7, "b", ["true", "false"], [False, True]]],
    constants=[67],
    closed=True,
)


def test_reports_add_up() -> None:
    record = BranchRecord()
    record.add({"functions": [FIRST]})
    record.add({"functions": [told([1, 2])]})
    assert [(each.condition, each.ran) for each in record.result().found] == [
        ("a", (True, False)),
        ("b", (False, True)),
    ]
    record.add({"functions": [{**FIRST, "seen": [2, 0], "closed": False}]})  # from a process that was started again
    assert [each.ran for each in record.result().found] == [(True, True), (False, True)]
    assert record.constants == {67}
    assert not record.is_closed


def test_what_was_not_read() -> None:
    record = BranchRecord()
    assert record.result().unread == "none of its own Python code ran"
    record.add({"functions": [FIRST]})
    assert record.result().unread == ""
    record.add({"generated": ["inner"]})
    assert record.result().unread == "code that was made at run time stands in the place of inner"
    record.add({"unread": "it is a function of torch"})
    assert record.result().unread == "it is a function of torch"


@pytest.mark.parametrize(
    "report",
    [
        [],
        {"functions": [told([1, 0])]},
        {"functions": [{**FIRST, "seen": [1]}]},
        {"functions": [{**FIRST, "branches": [[4, "a"]], "seen": [1]}]},
        {"functions": [{**FIRST, "seen": ["x", "y"]}]},
        {"functions": [{}]},
    ],
)
def test_a_report_that_makes_no_sense(report: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        BranchRecord().add(report)


CANDIDATE = """
import os
def loss(logits, labels):
    if logits.shape[1] > 67:
        os._exit(1)
    return logits.sum() * (2 if logits.shape[0] > 1 else 1)
"""


def call(rows: int, length: int) -> Call:
    labels = torch.ones(rows, length, dtype=torch.int64)
    return Call({"logits": torch.zeros(rows, length, 5), "labels": labels}, scalars={}, gradients=("logits",))


def test_what_ran_before_a_crash_is_kept(tmp_path: Path) -> None:
    (tmp_path / "candidate.py").write_text(CANDIDATE)
    settings = WorkerSettings(cwd=str(tmp_path), watches_branches=True)
    with Worker("candidate.py:loss", settings) as worker:
        assert isinstance(worker.call(call(1, 3)), Returned)
        worker.call(call(1, 70))
        assert worker.restarts == 0
        assert isinstance(worker.call(call(2, 3)), Returned)
        assert worker.restarts == 1
        assert [each.ran for each in worker.branches.result().found] == [(False, True), (True, True)]
    with Worker("candidate.py:loss", WorkerSettings(cwd=str(tmp_path))) as worker:
        worker.call(call(1, 3))
        assert worker.branches.result().found == ()


FORGES = """
import sys
watch = next(module for name, module in list(sys.modules.items()) if name.endswith("worker.branches"))
watch.BranchWatch.news = lambda self: {"functions": [{}]}
"""


def test_a_report_that_makes_no_sense_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "candidate.py").write_text(FORGES + CANDIDATE)
    with Worker("candidate.py:loss", WorkerSettings(cwd=str(tmp_path), watches_branches=True)) as worker:
        outcome = worker.call(call(1, 3))
    assert isinstance(outcome, NotAnswered)
    assert outcome.side == "candidate"
    assert "branches" in outcome.message
