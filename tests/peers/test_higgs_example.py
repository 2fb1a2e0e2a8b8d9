"""The Higgs-audio example around transformers' own model: judged as model, as step and as labels, and trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shiftproof.harness.cli.main import main

pytestmark = pytest.mark.peers

FOLDER = Path(__file__).parents[2] / "examples" / "higgs_audio"


@pytest.fixture(autouse=True)
def _needs_transformers_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", minversion="5")
    monkeypatch.chdir(tmp_path)  # stored cases go to the working directory


def check(target: str, spec: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["check", str(FOLDER / target), "--spec", spec, "--profile", "brief"])
    done = capsys.readouterr()
    return code, " ".join((done.out + done.err).split())


@pytest.mark.parametrize(
    ("target", "spec"),
    [
        ("hf_model.py:Right", "higgs.hf"),
        ("hf_step.py:step", "hf.causal_lm"),
        ("hf_labels.py:build_labels", "delay.labels.hf"),
    ],
)
def test_what_is_right_conforms(target: str, spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = check(target, spec, capsys)
    assert code == 0, told
    assert ": CONFORMS" in told


@pytest.mark.parametrize(
    ("target", "spec", "said"),
    [
        ("hf_model.py:ShiftedTwice", "higgs.hf", "the bug is called double-shift (in text)"),
        ("hf_model.py:NotShifted", "higgs.hf", "the bug is called no-shift"),
        ("hf_step.py:shifted_twice", "hf.causal_lm", "the bug is called double-shift"),
        ("hf_step.py:not_shifted", "hf.causal_lm", "the bug is called no-shift"),
        ("hf_step.py:cut_by_one", "hf.causal_lm", "the bug is called length-mismatch"),
        ("hf_labels.py:shifted", "delay.labels.hf", "the bug is called double-shift"),
        ("hf_labels.py:cut", "delay.labels.hf", "DOES NOT CONFORM"),
    ],
)
def test_what_is_wrong_is_named(target: str, spec: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = check(target, spec, capsys)
    assert code == 1, told
    assert said in told


def test_a_model_that_always_raises_is_told_why(capsys: pytest.CaptureFixture[str]) -> None:
    code, told = check("hf_model.py:CutByOne", "higgs.hf", capsys)
    assert code == 2
    assert "with 3 codebooks it raised ValueError: Expected input batch_size (7) to match target batch_size (6)" in told


@pytest.mark.parametrize(("step", "right"), [("step", "100%"), ("shifted_twice", "0%"), ("not_shifted", "0%")])
def test_the_loss_falls_whatever_is_learned(step: str, right: str) -> None:
    command = [sys.executable, str(FOLDER / "hf_train.py"), "--step", step]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout.splitlines()
    assert float(lines[-2].split()[4]) < 0.1, lines
    assert lines[-1] == f"fresh samples: the next token is right {right} of the time, the next code {right}"
