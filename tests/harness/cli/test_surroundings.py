"""Files, variables and terminals of the user that could be in the way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .command import EXTRA, GOOD, GOOD_CHECK, Run, environment


def test_surroundings_that_could_be_in_the_way(run_apart: Run, tmp_path: Path) -> None:
    """Folders and files called as ours and torch's, and pytest files of his own that are broken."""
    trap = "raise RuntimeError('not what was wanted')\n"
    for folder in ("harness", "shiftproof_harness", "torch_utils", "laws", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(trap)
    for name in ("oracle.py", "conftest.py", "torchmetrics.py", "recipe.py", "test_mine.py", "tests/conftest.py"):
        (tmp_path / name).write_text(trap)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --nonsense\n")
    (tmp_path / "reference.py").write_text("import helper\n" + GOOD + "    # helped\n")
    (tmp_path / "helper.py").write_text("")
    ran = run_apart(
        *("check", "reference.py:loss", "--spec", "hf.causal_lm", "--json", "r.json"),
        *("--profile", "brief", "--pytest", "-k", "CONTRACT-1 or ALIGN-1"),
    )
    assert ran.code == 3, ran.out + ran.err
    assert ran.candidates["loss"]["verdict"] == "partial"
    assert ran.candidates["loss"]["message"].startswith("no violation in 2 of ")


def test_no_control_characters_where_stdout_is_no_terminal(run_apart: Run, files: Path) -> None:
    ran = run_apart(*GOOD_CHECK, "--seed", "3", "--profile", "brief", "--pytest", "-k", "VALUE-1 or CONTRACT")
    assert ran.err == ""
    assert ran.out.splitlines()[0].endswith(" · seed 3 · profile brief")
    assert not {"\x1b", "\r", "━"} & set(ran.out)
    assert "test session starts" not in ran.out


def test_variables_that_are_meant_for_the_users_tests(
    run_apart: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRA, "PYTEST_ADDOPTS", "--nonsense")
    assert run_apart(*GOOD_CHECK, "--in-process", "--profile", "brief").code == 0


def test_a_candidate_called_torch(files: Path) -> None:
    (files / "torch.py").write_text(GOOD)
    command = [sys.executable, "-m", "shiftproof", "check", "torch.py:loss", "--spec", "hf.causal_lm"]
    command += ["--profile", "brief"]
    done = subprocess.run(
        [*command, "--pytest", "-k", "CONTRACT-1"], cwd=files, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 3
    assert b"PARTIAL" in done.stdout
