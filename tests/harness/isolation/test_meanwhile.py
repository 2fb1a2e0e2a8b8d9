"""What the judge does while a candidate computes takes nothing from the candidate's time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call, Returned, TimedOut

SLOW = """
import time

def loss(logits, seconds):
    time.sleep(seconds)
    return logits.sum()
"""


def test_an_answer_that_came_meanwhile_is_in_time_and_none_is_not(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    settings = WorkerSettings(cwd=str(tmp_path), call_deadline=1.0)
    logits = torch.ones(2, 3)
    with Worker("slow.py:loss", settings) as worker:
        worker.describe()
        answer = worker.call(Call({"logits": logits}, {"seconds": 0.0}), lambda: time.sleep(2))
        assert isinstance(answer, Returned)
        assert float(answer.value) == 6.0
        answer = worker.call(Call({"logits": logits}, {"seconds": 60.0}), lambda: time.sleep(2))
        assert isinstance(answer, TimedOut)


def test_what_is_raised_meanwhile_leaves_no_answer_behind(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)

    def fail() -> None:
        raise KeyError("mine")

    with Worker("slow.py:loss", WorkerSettings(cwd=str(tmp_path))) as worker:
        with pytest.raises(KeyError, match="mine"):
            worker.call(Call({"logits": torch.ones(2)}, {"seconds": 0.0}), fail)
        answer = worker.call(Call({"logits": torch.ones(5)}, {"seconds": 0.0}))
        assert isinstance(answer, Returned)
        assert float(answer.value) == 5.0
