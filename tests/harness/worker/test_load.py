"""Naming, finding and describing a candidate, and every way in which that fails."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.inprocess import InProcess
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call, Returned
from shiftproof.harness.worker.load import load
from shiftproof.harness.worker.target import LoadFailure, Parameter, TargetDescription

CANDIDATES = """
import functools
import torch

def text_loss(logits, labels, *args, ignore_index=-100, **kwargs):
    return logits.sum()

def only_positional(logits, scale=2.0, labels=None, /):
    return logits.sum() * scale + labels.sum()

class Losses:
    @staticmethod
    def text(logits, labels):
        return logits.sum()

class Module(torch.nn.Module):
    def __init__(self, scale=3.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale))

    def forward(self, logits, labels=None):
        return self.scale * logits.sum()

class NeedsArguments(torch.nn.Module):
    def __init__(self, vocabulary):
        super().__init__()

class Breaks(torch.nn.Module):
    def __init__(self):
        raise OSError("no weights")

class Function(torch.autograd.Function):
    pass

partial = functools.partial(text_loss, ignore_index=0)
instance = Module(5.0)
number = 5
"""


def describe(target: str, folder: Path) -> TargetDescription:
    """By way of this process: what is found is the same, and it takes no second process."""
    with InProcess(target, WorkerSettings(cwd=str(folder))) as worker:
        return worker.describe()


def failure(target: str, folder: Path) -> LoadFailure:
    with pytest.raises(LoadFailure) as caught:
        describe(target, folder)
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "candidates.py").write_text(CANDIDATES)
    package = tmp_path / "trainer"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '1.2.3'\n")
    (package / "losses.py").write_text(CANDIDATES)
    (package / "broken.py").write_text("import not_installed_anywhere\n")
    return tmp_path


def test_signature_and_versions(folder: Path) -> None:
    description = describe("candidates.py:text_loss", folder)
    assert description.parameters == (
        Parameter("logits", True, "either"),
        Parameter("labels", True, "either"),
        Parameter("ignore_index", False, "keyword"),
    )
    assert description.accepts_any_keyword
    assert description.file == str(folder / "candidates.py")
    assert description.versions["torch"] == torch.__version__
    assert set(description.versions) == {"python", "torch", "platform"}
    assert description.device_name


def test_module_target_has_its_packages_version(folder: Path) -> None:
    description = describe("trainer.losses:Losses.text", folder)
    assert [parameter.name for parameter in description.parameters] == ["logits", "labels"]
    assert description.versions["trainer"] == "1.2.3"
    assert description.file == str(folder / "trainer" / "losses.py")


@pytest.mark.parametrize(
    ("name", "scale"), [("Module", 3.0), ("instance", 5.0), ("partial", 1.0), ("only_positional", 2.0)]
)
def test_whatever_can_be_called(folder: Path, name: str, scale: float) -> None:
    call = Call({"logits": torch.ones(3), "labels": torch.zeros(3)}, gradients=("logits",))
    with InProcess(f"candidates.py:{name}", WorkerSettings(cwd=str(folder))) as worker:
        parameters = [parameter.name for parameter in worker.describe().parameters]
        assert {"logits", "labels"} <= set(parameters)
        outcome = worker.call(call)
    assert isinstance(outcome, Returned), outcome
    assert outcome.value.item() == pytest.approx(3 * scale)
    torch.testing.assert_close(outcome.gradients["logits"], torch.full((3,), scale))


@pytest.mark.parametrize(
    ("target", "reason", "words"),
    [
        ("candidate.py:text_loss", "no such file", "did you mean 'candidates.py'?"),
        ("gone/candidates.py:text_loss", "no such file", "there is no file"),
        ("traimer.losses:text_loss", "no such module", "did you mean 'trainer'?"),
        ("trainer.loses:text_loss", "no such module", "did you mean 'trainer.losses'?"),
        ("..trainer:text_loss", "no such module", "not the name of a module"),
        ("candidates.py:textloss", "no such attribute", "did you mean 'text_loss'?"),
        ("trainer.losses:Losses.Test", "no such attribute", "trainer.losses:Losses has no attribute 'Test'; did you"),
        ("candidates.py", "no such attribute", "write package.module:attribute or path/file.py:attribute"),
        ("candidates.py:number", "not callable", "is of type int"),
        ("candidates.py:NeedsArguments", "not callable", "'vocabulary'"),
        ("candidates.py:Function", "no signature", "wrap it in a function"),
        ("candidates.py:Function.apply", "no signature", "wrap it in a function"),
        ("builtins:max", "no signature", "wrap it in a function"),
    ],
)
def test_usage_errors(folder: Path, target: str, reason: str, words: str) -> None:
    error = failure(target, folder)
    assert error.reason == reason
    assert words in error.message
    assert error.is_usage


@pytest.mark.parametrize(
    ("target", "words", "trace"),
    [
        ("trainer.broken:loss", "ModuleNotFoundError: No module named 'not_installed_anywhere'", "broken.py"),
        ("trainer/broken.py:loss", "No module named 'not_installed_anywhere'", "broken.py"),
        ("candidates.py:Breaks", "OSError: no weights", "candidates.py"),
    ],
)
def test_import_errors_are_the_candidates_own(folder: Path, target: str, words: str, trace: str) -> None:
    error = failure(target, folder)
    assert error.reason == "import failed"
    assert not error.is_usage
    assert words in error.message
    assert trace in error.traceback
    assert "harness/worker" not in error.traceback


def test_missing_working_directory(tmp_path: Path) -> None:
    settings = WorkerSettings(cwd=str(tmp_path / "gone"))
    for worker in (Worker("x:y", settings), InProcess("x:y", settings)):
        with worker, pytest.raises(LoadFailure, match=r"working directory .*gone does not exist"):
            worker.describe()


def test_failure_crosses_the_process_whole(folder: Path) -> None:
    with Worker("trainer.broken:loss", WorkerSettings(cwd=str(folder))) as worker:
        with pytest.raises(LoadFailure, match="not_installed_anywhere") as caught:
            worker.describe()
        with pytest.raises(LoadFailure) as again:
            worker.call(Call({}))
    assert again.value is caught.value, "a load that failed is not tried again"
    assert caught.value.reason == "import failed"
    assert "broken.py" in caught.value.traceback
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.reason, copy.message, copy.traceback) == (
        caught.value.reason,
        caught.value.message,
        caught.value.traceback,
    )


def test_loads_that_never_end_well(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("import sys\nprint('goodbye')\nsys.exit(4)\n")
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(600)\n")
    leaves = Worker("leaves.py:loss", WorkerSettings(cwd=str(tmp_path)))
    sleeps = Worker("sleeps.py:loss", WorkerSettings(cwd=str(tmp_path), load_deadline=2))
    begun = time.monotonic()
    with leaves, sleeps:
        with pytest.raises(LoadFailure, match=r"loading leaves.py:loss exited with code 4") as died:
            leaves.describe()
        with pytest.raises(LoadFailure, match="took longer than 2 s") as late:
            sleeps.describe()
    assert (died.value.reason, late.value.reason) == ("died", "timed out")
    assert "goodbye" in died.value.traceback
    assert time.monotonic() - begun < 8
    in_process = failure("leaves.py:loss", tmp_path)
    assert (in_process.reason, in_process.message) == (died.value.reason, died.value.message)


COLLIDING = """
import torch
import harness.helper
from protocol import factor

def loss(logits):
    return logits.sum() * harness.helper.two * factor
"""


@pytest.mark.parametrize("name", ["reference", "torch", "call"])
@pytest.mark.parametrize("make", [Worker, InProcess], ids=["worker", "in-process"])
def test_names_that_collide_with_ours_and_with_torch(
    tmp_path: Path, name: str, make: Callable[[str, WorkerSettings], Worker | InProcess]
) -> None:
    (tmp_path / f"{name}.py").write_text(COLLIDING)
    (tmp_path / "harness").mkdir()
    (tmp_path / "harness" / "__init__.py").write_text("")
    (tmp_path / "harness" / "helper.py").write_text("two = 2\n")
    (tmp_path / "protocol.py").write_text("factor = 5\n")
    (tmp_path / "safetensors.py").write_text("raise ImportError('the wrong one')\n")
    with make(f"{name}.py:loss", WorkerSettings(cwd=str(tmp_path))) as worker:
        outcome = worker.call(Call({"logits": torch.ones(3)}))
    assert isinstance(outcome, Returned), outcome
    assert outcome.value.item() == 30.0


def test_own_folder_comes_before_the_working_directory(tmp_path: Path) -> None:
    for folder, factor in ((tmp_path, 2), (tmp_path / "deep", 3)):
        folder.mkdir(exist_ok=True)
        (folder / "shared_name.py").write_text(f"factor = {factor}\n")
    (tmp_path / "only_above.py").write_text("one = 1\n")
    (tmp_path / "deep" / "loss.py").write_text(
        "import only_above, shared_name\ndef loss(logits):\n    return logits.sum() * shared_name.factor\n"
    )
    for target, value in (("deep/loss.py:loss", 3.0), ("deep.loss:loss", 2.0)):
        with InProcess(target, WorkerSettings(cwd=str(tmp_path))) as worker:
            outcome = worker.call(Call({"logits": torch.ones(1)}))
        assert isinstance(outcome, Returned), outcome
        assert outcome.value.item() == value


def test_what_an_environment_within_the_folder_has_installed_stays_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch imports parts of itself late, and cannot do so twice."""
    installed = tmp_path / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "imported_late.py").write_text("one = 1\n")
    (tmp_path / "beside_it.py").write_text("one = 1\n")
    (tmp_path / "loss.py").write_text(
        "import beside_it\ndef loss(logits):\n    import imported_late\n    return logits.sum()\n"
    )
    monkeypatch.syspath_prepend(installed)
    with InProcess("loss.py:loss", WorkerSettings(cwd=str(tmp_path))) as worker:
        assert isinstance(worker.call(Call({"logits": torch.ones(1)})), Returned)
    assert "imported_late" in sys.modules
    assert "beside_it" not in sys.modules
    del sys.modules["imported_late"]


def test_a_file_that_was_edited_within_a_second_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "edited.py"
    for number in (1, 2):
        file.write_text(f"def loss(logits):\n    return {number}\n")
        os.utime(file, (1_000_000_000, 1_000_000_000))
        assert load(f"{file}:loss", str(tmp_path), torch.device("cpu")).function(None) == number
    assert not (tmp_path / "__pycache__").exists()
