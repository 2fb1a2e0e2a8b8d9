"""The examples in numpy and JAX, judged by a worker without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker.exchange import Call, Outcome, Raised, Returned, Unusable
from shiftproof.harness.worker.target import LoadFailure, Target

FOLDER = Path(__file__).parents[2] / "examples" / "other_languages"
WORKER = str(FOLDER / "worker")


@pytest.fixture(scope="module")
def only_numpy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that can import numpy, and no other package."""
    folder = tmp_path_factory.mktemp("numpy") / "env"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    for found in Path(np.__file__).parents[1].glob("numpy*"):  # on Linux, with the libraries beside it
        (packages / found.name).symlink_to(found)
    return str(folder / "bin" / "python")


def check(folder: Path, python: str, target: str, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    command = [
        sys.executable,
        "-m",
        "shiftproof",
        "check",
        str(FOLDER / target),
        "--spec",
        "hf.causal_lm",
        "--seed",
        "0",
    ]
    command += ["--python", WORKER, "--json", "found.json", *arguments]
    environment = {**os.environ, "WORKER_PYTHON": python, "COLUMNS": "200"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    [found] = json.loads((folder / "found.json").read_text())["candidates"]
    return done.returncode, done.stdout + done.stderr, found


def test_the_loss_in_numpy_conforms_and_says_what_was_not_judged(only_numpy: str, tmp_path: Path) -> None:
    code, told, found = check(tmp_path, only_numpy, "numpy_loss.py:causal_lm", "--dtype", "float32")
    assert code == 0, told
    assert ": CONFORMS, except its branches, which were not read: its worker does not report them" in told
    [scope] = found["scope"]
    assert scope.startswith("what its worker can do, without torch.autocast, torch.compile, torch.inference_mode")
    assert "a backward pass of its own" in scope
    skipped = {law["id"] for law in found["laws"] if "its worker lacks" in law["message"]}
    assert {"STATE-3", "MODE-1", "MODE-2", "LAYOUT-1", "LAYOUT-3", "GRAD-3", "GRAD-5", "PURE-4"} <= skipped
    assert not any("torch" in name for name in found["environment"])


@pytest.mark.parametrize(("name", "bug"), [("double_shift", "double-shift"), ("no_shift", "no-shift")])
def test_the_wrong_losses_in_numpy_are_named(name: str, bug: str, only_numpy: str, tmp_path: Path) -> None:
    code, told, _ = check(tmp_path, only_numpy, f"numpy_loss.py:{name}", "--dtype", "float32", "--profile", "brief")
    assert code == 1, told
    assert f"the bug is called {bug}" in told


def test_bfloat16_without_ml_dtypes_is_no_verdict(only_numpy: str, tmp_path: Path) -> None:
    code, told, _ = check(tmp_path, only_numpy, "numpy_loss.py:causal_lm", "--dtype", "bfloat16", "--profile", "brief")
    assert code == 3, told
    assert "INCONCLUSIVE" in told
    assert "numpy has no bfloat16; install ml_dtypes" in " ".join(told.split())


@pytest.mark.parametrize("option", ["init", "kwargs"])
def test_what_it_does_not_follow_it_refuses(only_numpy: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_PYTHON", only_numpy)
    target = Target(str(FOLDER / "numpy_loss.py") + ":causal_lm", **{option: {"shift": 2}})
    with (
        Worker(target, WorkerSettings(python=WORKER)) as worker,
        pytest.raises(LoadFailure, match=f"this worker follows no {option}"),
    ):
        worker.describe()


@pytest.fixture
def jax_python() -> str:
    pytest.importorskip("jax")
    return sys.executable


@pytest.mark.peers
def test_the_loss_in_jax_conforms(jax_python: str, tmp_path: Path) -> None:
    code, told, found = check(tmp_path, jax_python, "jax_loss.py:causal_lm", "--profile", "brief")
    assert code == 0, told
    assert ": CONFORMS, except its branches" in told
    assert {"jax", "numpy"} <= found["environment"].keys()
    assert found["dtypes"] == ["float32", "bfloat16"]
    passed = {law["id"] for law in found["laws"] if law["verdict"] == "pass"}
    assert {"GRAD-3", "GRAD-5", "STATE-1", "MODE-1"} <= passed  # JAX has a backward, and calls without one


@pytest.mark.peers
@pytest.mark.parametrize(("name", "bug"), [("double_shift", "double-shift"), ("no_shift", "no-shift")])
def test_the_wrong_losses_in_jax_are_named(name: str, bug: str, jax_python: str, tmp_path: Path) -> None:
    code, told, _ = check(tmp_path, jax_python, f"jax_loss.py:{name}", "--profile", "brief")
    assert code == 1, told
    assert f"the bug is called {bug}" in told


# The worker itself -------------------------------------------------------------------------------------------------

LOSSES = """
import numpy as np
print("a loss may print")
def loss(logits, factor=2.0, **others):
    return {"loss": factor * np.square(logits).sum()}
def with_gradient(logits, factor=2.0):
    return factor * np.square(logits).sum(), {"logits": 2 * factor * logits}
def writes(logits):
    logits += 1
    return float(logits.sum())
def raises(logits):
    raise ValueError("no")
def returns_words(logits):
    return "words"
number = 3
"""


@pytest.fixture
def losses(only_numpy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSettings:
    monkeypatch.setenv("WORKER_PYTHON", only_numpy)
    (tmp_path / "losses.py").write_text(LOSSES)
    return WorkerSettings(python=WORKER, cwd=str(tmp_path))


def called(settings: WorkerSettings, name: str, call: Call) -> Outcome:
    with Worker(f"losses.py:{name}", settings) as worker:
        return worker.call(call)


def returned(settings: WorkerSettings, name: str, call: Call) -> Returned:
    outcome = called(settings, name, call)
    assert isinstance(outcome, Returned), outcome
    return outcome


def test_the_worker_describes_a_loss(losses: WorkerSettings) -> None:
    with Worker("losses.py:loss", losses) as worker:
        found = worker.describe()
    assert [(each.name, each.required) for each in found.parameters] == [("logits", True), ("factor", False)]
    assert found.accepts_any_keyword
    assert {"backward", "autocast", "branches"} <= found.lacks
    assert found.versions["numpy"] == np.__version__


def test_the_worker_hands_back_a_gradient(losses: WorkerSettings) -> None:
    logits = torch.arange(6.0).reshape(2, 3)
    call = Call({"logits": logits}, {"factor": 3.0}, gradients=("logits",), grad_output=0.5, n_backward=2)
    found = returned(losses, "with_gradient", call)
    assert (found.value.item(), found.requires_grad, found.mutated) == (165.0, True, ())
    assert found.gradients["logits"] is not None
    torch.testing.assert_close(found.gradients["logits"], 6 * logits)
    assert returned(losses, "with_gradient", Call({"logits": logits}, gradients=("logits",), grad_mode="no_grad"))


def test_the_worker_tells_what_a_loss_did(losses: WorkerSettings) -> None:
    call = Call({"logits": torch.ones(2)}, gradients=("logits",))
    assert returned(losses, "loss", call).gradients == {"logits": None}
    wrote = returned(losses, "writes", call)
    assert (wrote.kind, wrote.value.item(), wrote.mutated) == ("number", 4.0, ("logits",))
    outcome = called(losses, "raises", call)
    assert isinstance(outcome, Raised)
    assert (outcome.type, outcome.message, outcome.during) == ("ValueError", "no", "call")
    outcome = called(losses, "returns_words", call)
    assert isinstance(outcome, Unusable)
    assert "returned str" in outcome.description


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nothing.py:loss", "no such file"),
        ("nothing:loss", "no such module"),
        ("losses.py:nothing", "no such attribute"),
        ("losses.py:number", "not callable"),
        ("broken.py:loss", "import failed"),
    ],
)
def test_the_worker_says_why_it_cannot_load(target: str, reason: str, losses: WorkerSettings) -> None:
    assert losses.cwd is not None
    (Path(losses.cwd) / "broken.py").write_text("1 / 0\n")
    with Worker(target, losses) as worker, pytest.raises(LoadFailure) as caught:
        worker.describe()
    assert caught.value.reason == reason


def test_the_worker_answers_a_question_that_it_does_not_know(losses: WorkerSettings) -> None:
    with Worker("losses.py:loss", losses) as worker:
        answer = worker.ask("models", {"package": "numpy"})
        assert isinstance(answer, tuple)
        assert (answer[0], answer[1]["message"]) == ("failed", "this worker knows no 'models'")
        assert isinstance(worker.call(Call({"logits": torch.ones(2)})), Returned)


def test_the_environment_is_as_bare_as_it_claims(only_numpy: str) -> None:
    (packages,) = (Path(only_numpy).parents[1] / "lib").glob("python*/site-packages")
    assert {path.name.partition("-")[0].partition(".")[0] for path in packages.iterdir()} == {"numpy"}
