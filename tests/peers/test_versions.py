"""Releases of other people's libraries that are known to be wrong, and those that put it right, each under its own
interpreter.

`nox -s versions` makes an environment for every entry of [tool.versions] in pyproject.toml, and says in
SHIFTPROOF_VERSIONS which folder holds them; one that is not there is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .known import KNOWN, Known, example

pytestmark = pytest.mark.peers

FOLDER = "SHIFTPROOF_VERSIONS"


def python_of(version: str) -> str:
    """The interpreter of a version's environment."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        pytest.skip(f"{FOLDER} names no folder of environments; `nox -s versions` makes them")
    for name in ("bin/python", "Scripts/python.exe"):
        if (python := Path(folder, version, name)).exists():
            return str(python)
    pytest.skip(f"{folder} has no environment called {version}; `nox -s versions -- {version}` makes it")


def check(known: Known, folder: Path) -> Any:
    """What `shiftproof check` reports of it, run in ``folder``."""
    command = [sys.executable, "-m", "shiftproof", "check", known.target, "--spec", known.spec]
    command += ["--python", python_of(known.version), "--seed", "0", "--json", "report.json", *known.how]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["TRITON_INTERPRET"] = "1"  # for kernels without a GPU
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    [candidate] = json.loads((folder / "report.json").read_text(encoding="utf-8"))["candidates"]
    return candidate


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: f"{known.version}-{Path(known.target).name}-{known.spec}")
def test_a_version_is_what_it_is_known_to_be(known: Known, tmp_path: Path) -> None:
    found = check(known, tmp_path)
    if known.bug is None:
        assert found["verdict"] == "conforms", found
    else:
        assert found["verdict"] == "fails"
        assert known.bug in [name for bug in found["diagnosis"] for name in (bug["mutant"], *bug["also"])]
    left = {path.name for path in tmp_path.iterdir()} - {"report.json", ".shiftproof", ".hypothesis"}
    assert not left, "it leaves files behind"


def test_a_trl_that_lets_documents_run_together_fails_as_a_trainer_too(tmp_path: Path) -> None:
    known = example("trl-0.22.2", "sft_trainer.py:padding_free", "hf.causal_lm", "")
    found = check(known, tmp_path)
    assert found["verdict"] == "fails"
    assert "ALIGN-1" in [law["id"] for law in found["laws"] if law["verdict"] == "fail"]
