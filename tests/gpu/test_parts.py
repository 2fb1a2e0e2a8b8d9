"""Every part of the GPU script on a CPU that stands in, on tiny sizes: no line of it is new to a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from . import figures, large, laws, marked, speed
from .asked import PartArguments
from .findings import Finding, Progress, Result
from .layout import lay_out
from .parts import PARTS
from .trial import judge
from .tried import Tried

Ask = Callable[[str], PartArguments]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """What the process of a part is told, in an environment as the command makes it."""
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    folder = tmp_path / "path"
    folder.mkdir()
    lay_out(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    return lambda part: PartArguments(part, "cpu", str(tmp_path), 120.0)


def found(asked: PartArguments) -> Progress:
    """What a part found, all of it: everything that was planned is passed or, not being here, skipped."""
    progress = asked.ledger.read(asked.part)
    assert [finding.name for finding in progress.found if finding.result not in (Result.PASSED, Result.SKIPPED)] == []
    assert {finding.name for finding in progress.found} == set(progress.planned)
    return progress


def results(progress: Progress) -> list[str]:
    return [finding.result for finding in progress.found]


@pytest.mark.parametrize("part", ["laws", "yardstick"])
def test_laws(ask: Ask, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laws, "tried", lambda entry, seconds: judge(entry))  # a process of its own has a test below
    monkeypatch.setattr(laws.importlib.util, "find_spec", lambda name: None)  # no Triton: `nox -s peers` interprets
    laws.main(ask(part))
    progress = found(ask(part))
    assert "passed" in results(progress)
    assert (part == "laws") is ("skipped" in results(progress))


def test_a_trial_says_what_is_wrong(ask: Ask) -> None:
    """A known bug passes under its name alone, and a wrong loss does not; what cannot be judged is neither."""
    asked = ask("laws")
    wrong = Tried(
        "laws", "w", "examples/torch_losses.py:sliced", "preshifted", "float32", "cpu", 0.02, diagnosis="double-shift"
    )
    fields = vars(wrong)
    assert judge(wrong).result is Result.WRONG
    assert judge(Tried(**{**fields, "expect": "fails"})).result is Result.PASSED
    assert judge(Tried(**{**fields, "needs": "no_such_function"})).result is Result.SKIPPED
    missing = laws.tried(Tried(**{**fields, "call": "examples/torch_losses.py:slcied"}), 60)
    assert missing.result is Result.NOT_RUN
    assert "slcied" in missing.said
    assert laws.tried(wrong, 0.01) == Finding("laws", "w [float32]", Result.NOT_RUN, "out of time", 0.0)
    assert asked.ledger.read("laws").found == []


def test_each_declared_loss_is_tried_or_said_to_be_left_out(ask: Ask) -> None:
    declared = {name for name in laws.declared_in(laws.ROOT / "pyproject.toml") if not name.startswith("trainer-")}
    entries = list(laws.real_losses(PartArguments("laws", "cuda", "", 1.0)))
    assert declared <= {(each.title if isinstance(each, Tried) else each.name).partition(" ")[0] for each in entries}
    assert [
        each for each in laws.yardsticks(PartArguments("yardstick", "cuda", "", 1.0)) if isinstance(each, Finding)
    ] == []


@pytest.mark.representatives(1)
@pytest.mark.parametrize("part", ["kernel", "worker"])
def test_marked_tests(ask: Ask, part: str) -> None:
    assert marked.main(ask(part)) == 0
    progress = found(ask(part))
    assert progress.planned


def test_the_marked_tests_are_all_in_one_part() -> None:
    files = {part: {file.name for file in marked.files_of(part)} for part in ("kernel", "worker")}
    assert files == {"kernel": {"test_kernel.py"}, "worker": {"test_cheats.py", "test_cuda.py"}}


def test_large(ask: Ask) -> None:
    large.main(ask("large"))
    assert results(found(ask("large"))).count("passed") >= 4


def test_figures(ask: Ask) -> None:
    figures.main(ask("figures"))
    measured = [finding.figures for finding in found(ask("figures")).found if finding.result is Result.PASSED]
    assert {"torch", "torch.compile", "F.linear_cross_entropy"} <= {each["contender"] for each in measured}
    assert {each["hidden"] for each in measured} == {None, 8}
    assert all(each["milliseconds"] > 0 and each["limit_ms"] > 0 and each["pairs"] == 8 for each in measured)


def test_an_answer_that_is_wrong_is_not_timed(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask("figures")
    task, layer = figures.tasks(asked)
    for each in (task, layer):
        right = each.contenders["torch"](each.spec, "cpu")
        monkeypatch.setitem(
            each.contenders, "torch", lambda spec, device, right=right: lambda **call: 2 * right(**call)
        )
        told = figures.measured(asked, "twice", each, "float32", "torch")
        assert told.result is Result.WRONG
        assert "torch: the loss is" in told.said
    monkeypatch.setitem(task.contenders, "torch", lambda spec, device: lambda logits, labels: _no_gradient(logits))
    assert figures.measured(asked, "none", task, "float32", "torch").result is Result.WRONG


def _no_gradient(logits):  # type: ignore[no-untyped-def]
    return logits.sum() * 0.0


def test_speed(ask: Ask) -> None:
    speed.main(ask("speed"))
    assert results(found(ask("speed"))) == ["passed"]


def test_each_part_has_its_module() -> None:
    modules = {part.module for part in PARTS.values()}
    assert modules == {"laws", "marked", "large", "figures", "speed"}
