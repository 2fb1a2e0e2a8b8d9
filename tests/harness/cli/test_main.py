"""The command itself: lists, version, completion, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

import shiftproof
from shiftproof.harness.cli.main import main
from shiftproof.harness.cli.main import shiftproof as shiftproof_command


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for what, word in {
        "profiles": "hf.causal_lm",
        "laws": "ALIGN-1",
        "mutants": "double-shift",
        "arguments": "num_items_in_batch",
    }.items():
        assert main(["list", what]) == 0
        assert word in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"shiftproof {shiftproof.__version__}\n"


@pytest.mark.parametrize(("instruction", "word"), [("bash_source", "complete"), ("bash_complete", "plain,check")])
def test_shells_complete(
    instruction: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"_SHIFTPROOF_COMPLETE": instruction, "COMP_WORDS": "shiftproof ch", "COMP_CWORD": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert word in out
    assert err == ""


def test_a_variable_that_asks_for_completion_judges_nothing_right(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("_SHIFTPROOF_COMPLETE", "bash_source")
    assert main(["check", "bad.py:loss", "--spec", "hf.causal_lm", "--profile", "brief", "--in-process"]) == 1
    monkeypatch.setenv("_SHIFTPROOF_COMPLETE", "nonsense")
    assert main([]) == 2


@pytest.mark.parametrize("returned", [None, "0"])
def test_a_command_without_an_exit_code_is_no_success(
    returned: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shiftproof_command, "invoke", lambda context: returned)
    assert main(["list", "laws"]) == 3
