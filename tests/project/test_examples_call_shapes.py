"""The commands of docs/call-shapes.md, as they are printed there, where no other library is needed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "call-shapes.md").read_text(encoding="utf-8")
NEEDS = {"trainer_subclass", "lightning_module", "x_transformers_model", "torchtune_loss", "liger_model", "jax_loss"}
"""Examples that need another library: tests/peers/test_call_shapes.py and known.py, and jax_loss a test of its own."""


def rows() -> list[tuple[str, str]]:
    """The command and the verdict of each row, without the numpy one, which has a test of its own."""
    found = re.findall(r"^\|[^|]*\| `((?:call_shapes|other_languages)/[^`]+)` \| ([^|]*) \|", PAGE, re.MULTILINE)
    return [(command, verdict) for command, verdict in found if "--python" not in command]


def name_of(command: str) -> str:
    return Path(command.partition(":")[0]).stem


def test_the_page_has_every_example() -> None:
    folder = ROOT / "examples" / "call_shapes"
    assert {name_of(command) for command, _ in rows()} == {file.stem for file in folder.glob("*.py")} - {"networks"}
    assert len(rows()) >= 10


OWN = [row for row in rows() if name_of(row[0]) not in NEEDS]


@pytest.mark.representatives(4)
@pytest.mark.parametrize(("command", "verdict"), OWN, ids=[command for command, _ in OWN])
def test_a_command_of_the_page(tmp_path: Path, command: str, verdict: str) -> None:
    target, *others = shlex.split(command)
    arguments = [str(ROOT / "examples" / target), *others, "--profile", "brief", "--seed", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "shiftproof", "check", *arguments],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert verdict.partition(",")[0] in done.stdout
    if "," in verdict:
        assert verdict.partition(", ")[2] in done.stdout, "the page names a limit"
