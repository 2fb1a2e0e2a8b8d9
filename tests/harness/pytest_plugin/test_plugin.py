"""The plugin in a user's own repository, beside his own tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

LOSSES = """
import torch.nn.functional as F

def good(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))

def bad(logits, labels):
    return good(logits[:, :-1], labels[:, 1:])
"""
CHECK = ("--shiftproof-spec", "hf.causal_lm", "--shiftproof-seed", "7", "--shiftproof-in-process")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small project with a test of its own."""
    (tmp_path / "losses.py").write_text(LOSSES)
    (tmp_path / "test_own.py").write_text("def test_one(): pass\ndef test_two(): assert 1 + 1 == 2\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    return tmp_path


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_it_is_inert_without_its_option(repository: Path) -> None:
    (repository / "test_own.py").write_text(
        "import sys\n"
        "def test_torch_is_not_loaded():\n"
        "    ours = [name for name in sys.modules if name.startswith('shiftproof.reference')]\n"
        "    assert 'torch' not in sys.modules and 'hypothesis.strategies' not in sys.modules and not ours\n"
    )
    ran = pytest_in(repository, "-q", "-p", "no:hypothesispytest")
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout
    assert "shiftproof" not in ran.stdout


def test_laws_are_tests_beside_the_users_own(repository: Path) -> None:
    ran = pytest_in(repository, "-v", "--shiftproof", "losses:good", *CHECK, "-k", "ALIGN-1 or PURE-1 or test_")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "shiftproof: seed 7, profile quick" in ran.stdout
    for name in ("ALIGN-1", "PURE-1", "test_one", "test_two"):
        assert name in ran.stdout
    assert "4 passed" in ran.stdout
    assert "losses:good against hf.causal_lm: PARTIAL" in ran.stdout
    assert "no violation in 2 of " in ran.stdout


def test_a_broken_law_is_a_failed_test_without_a_traceback(repository: Path) -> None:
    ran = pytest_in(
        *(repository, "--shiftproof", "losses.py:bad", *CHECK, "--shiftproof-json", "r.json"),
        *("-k", "CONTRACT-1 or ALIGN-1 or test_one", "--junitxml", "j.xml"),
    )
    assert ran.returncode == 1
    assert "1 failed, 2 passed" in ran.stdout
    assert "ALIGN-1 (MUST) every logit row is scored on its own label and on no other" in ran.stdout
    assert "are scored on label" in ran.stdout
    assert "Traceback" not in ran.stdout
    assert "run.py" not in ran.stdout
    assert "the bug is called double-shift" in ran.stdout
    report = json.loads((repository / "r.json").read_text())
    assert (report["seed"], report["verdict"]) == (7, "fails")
    assert "ALIGN-1" in (repository / "j.xml").read_text()


def test_its_report_is_as_long_as_pytests_own(repository: Path) -> None:
    def told(*more: str) -> str:
        arguments = ("--shiftproof", "losses.py:bad", *CHECK, "-k", "CONTRACT-1 or ALIGN-1", "--tb=no")
        return pytest_in(repository, *more, *arguments).stdout

    row = re.compile(r"CONTRACT-1 +MUST +pass")
    assert not row.search(told())
    assert row.search(told("-v"))
    assert "a second;" in told("-vv")
    quiet = told("-q")
    assert "losses.py:bad against hf.causal_lm: DOES NOT CONFORM (double-shift)" in quiet
    assert "smallest counterexample" not in quiet


@pytest.mark.slow
def test_it_stops_at_the_first_failure_where_asked_to(repository: Path) -> None:
    ran = pytest_in(repository, "-x", "--shiftproof", "losses.py:bad", *CHECK, "-k", "not CONTRACT-1")
    assert ran.returncode == 1
    assert "1 failed, 1 passed, 1 deselected" in ran.stdout  # CONTRACT-2 holds, ALIGN-1 does not, and that is all


@pytest.mark.slow
def test_a_should_is_told_and_does_not_fail(repository: Path) -> None:
    (repository / "losses.py").write_text("from torch import nan_to_num\n" + LOSSES + "    \n" + HIDES)
    ran = pytest_in(repository, "-rx", "--shiftproof", "losses.py:zero_when_empty", *CHECK, "-k", "EDGE-1 or ALIGN-1")
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout
    assert "1 xfailed" in ran.stdout


HIDES = """
def zero_when_empty(logits, labels):
    return nan_to_num(good(logits, labels))
"""


def test_only_collected_where_asked_to(repository: Path) -> None:
    ran = pytest_in(repository, "--collect-only", "-q", "--shiftproof", "losses.py:good", *CHECK)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "ALIGN-1[losses.py:good]" in ran.stdout
    assert "test_own.py::test_one" in ran.stdout


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shiftproof", "losses.py:goo", *CHECK), "did you mean 'good'?"),
        (("--shiftproof", "losses.py:good"), "losses.py:good has no spec"),
        (("--shiftproof-declared",), "nothing to judge"),
        (("--shiftproof", "losses.py:good", *CHECK, "--shiftproof-json", "-"), "name a file"),
    ],
)
def test_usage(repository: Path, arguments: tuple[str, ...], words: str) -> None:
    ran = pytest_in(repository, *arguments)
    assert ran.returncode == 4  # pytest's own code for it
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.slow
def test_declared_candidates_in_several_processes(repository: Path) -> None:
    (repository / "pyproject.toml").write_text(
        '[tool.shiftproof.candidates.text]\ncall = "losses:bad"\nspec = "hf.causal_lm"\nexpect = "fails"\n'
    )
    laws = "CONTRACT or ALIGN-1 or EDGE"
    ran = pytest_in(repository, "-n", "2", "--shiftproof-declared", "--shiftproof-in-process", "-k", laws)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.slow
def test_declared_candidates(repository: Path) -> None:
    (repository / "pyproject.toml").write_text(
        '[tool.shiftproof.candidates.text]\ncall = "losses:bad"\nspec = "hf.causal_lm"\n'
        'expect = "fails"\ndiagnosis = "double-shift"\n'
    )
    ran = pytest_in(repository, "--shiftproof-declared", "-k", "CONTRACT-1 or ALIGN-1", "-rs")
    assert ran.returncode == 0, ran.stdout
    assert "2 skipped" in ran.stdout
    assert "(as expected)" in ran.stdout
