"""The small form of `nox -s benchmark`: one benchmark of a tiny task, and what of it is recorded."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytest_benchmark.stats import Stats

from shiftproof.harness.speed.shapes import Shape

from . import test_losses, weigh
from .contenders import CAUSAL, OF_LAYERS, OF_NEXT_TOKENS, Absent
from .tasks import Task

GIVEN_LOGITS = Task("tiny", CAUSAL, Shape("tiny", 1, 8, 64))
OF_A_LAYER = Task("tiny-linear", CAUSAL, Shape("tiny-linear", 1, 8, 64), hidden=4)
IN_DOCS = {
    "task", "shape", "hidden", "profile", "contender", "dtype", "device", "threads", "torch", "limit_seconds",
    "logits_bytes", "returned_bytes", "peak_bytes",
}  # fmt: skip


class Once(SimpleNamespace):
    """In place of the fixture of pytest-benchmark: one round, and nothing is timed."""

    def pedantic(self, function: Callable[..., object], setup: Callable[[], Any], rounds: int) -> None:
        arguments, named = setup()
        self.rounds = rounds
        function(*arguments, **named)


@pytest.mark.parametrize("task", [GIVEN_LOGITS, OF_A_LAYER], ids=lambda task: task.name)
def test_a_benchmark_records_what_its_page_is_made_of(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_losses, "DEVICE", "cpu")
    monkeypatch.setattr(test_losses, "weighed", lambda *asked: 1)
    once = Once(extra_info={})
    test_losses.test_forward_and_backward(once, task, "torch", "float32")
    assert set(once.extra_info) == IN_DOCS
    assert test_losses.FEWEST <= once.rounds <= test_losses.MOST
    assert once.extra_info["limit_seconds"] > 0


def test_what_pytest_benchmark_records_is_what_the_page_keeps() -> None:
    assert {"median", "min", "iqr", "rounds"} <= set(Stats.fields)


@pytest.mark.parametrize("task", [GIVEN_LOGITS, OF_A_LAYER], ids=lambda task: task.name)
def test_a_contender_is_weighed(
    task: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weigh, "TASKS", (task,))
    weigh.main(task.name, "torch", "float32", "cpu")
    said = capsys.readouterr().out.strip()
    assert said == "None" or int(said) >= 0


@pytest.mark.parametrize("contender", ["yardstick", "F.linear_cross_entropy", "F.linear_cross_entropy, chunked"])
def test_contenders_of_a_layer_agree(contender: str) -> None:
    arguments = OF_A_LAYER.arguments("float32", "cpu")
    right = OF_LAYERS["torch"](OF_A_LAYER.spec, "cpu")(**arguments)
    try:
        loss = OF_LAYERS[contender](OF_A_LAYER.spec, "cpu")
    except Absent as absent:  # this torch is older
        pytest.skip(str(absent))
    torch.testing.assert_close(loss(**arguments), right)


@pytest.mark.parametrize("contenders", [OF_NEXT_TOKENS, OF_LAYERS], ids=["logits", "layer"])
def test_other_peoples_losses_are_absent_where_they_need_a_gpu(contenders: dict[str, Any]) -> None:
    for name in ("Liger", "fla-core", "quack"):
        with pytest.raises(Absent, match=r"not installed|need a GPU"):
            contenders[name](GIVEN_LOGITS.spec, "cpu")


def test_what_takes_minutes_on_this_machine_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_losses, "DEVICE", "cpu")
    monkeypatch.setattr(test_losses, "_least", lambda task, dtype: 150.0)
    with pytest.raises(pytest.skip.Exception, match="takes 150 s on this machine; 20 s at most"):
        test_losses.test_forward_and_backward(Once(extra_info={}), GIVEN_LOGITS, "torch", "float32")
