"""The loop in the README, as it is printed there, and the declared examples of trainers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def printed_loop() -> str:
    """The Python block of the README's section on trainers."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("### Trainers\n")[2].partition("\n### ")[0]
    [block] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return str(block)


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shiftproof", "check", *arguments, "--seed", "0"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_loop_in_the_readme_conforms(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(f"import torch\n\n{printed_loop()}")
    done = check(tmp_path, "loop.py:step", "--spec", "hf.causal_lm")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_declared_trainers_are_what_they_are_declared_to_be(tmp_path: Path) -> None:
    done = check(tmp_path, "trainer-loop", "trainer-mean-of-means", "--config", str(ROOT / "pyproject.toml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the bug is called mean-of-means" in done.stdout
