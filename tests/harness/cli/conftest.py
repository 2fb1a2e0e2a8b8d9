"""Running a command, in this process or another; and two losses to run it on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shiftproof.harness.cli.main import main

from .command import DOUBLE_SHIFT, GOOD, Ran, Run, briefly, environment, ran


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in tmp_path, in this process, which has imported torch already."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name not in environment()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(briefly(*arguments))
        return ran(tmp_path, arguments, code, *capsys.readouterr())

    return run


@pytest.fixture
def run_apart(tmp_path: Path) -> Run:
    """Run the command in tmp_path, in another process."""

    def run(*arguments: str, timeout: float = 300) -> Ran:
        command = [sys.executable, "-m", "shiftproof", *briefly(*arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )
        return ran(tmp_path, arguments, done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with one right and one wrong loss."""
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(DOUBLE_SHIFT)
    return tmp_path
