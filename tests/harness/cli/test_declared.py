"""Candidates that pyproject.toml declares."""

from __future__ import annotations

from pathlib import Path

import pytest

from .command import GOOD, Run

DECLARED = """
[tool.shiftproof.candidates.renamed]
call = "renamed.py:loss"
spec = "hf.causal_lm"
rename = { logits = "scores", labels = "tokens" }

[tool.shiftproof.candidates.known-wrong]
call = "bad.py:loss"
spec = "hf.causal_lm"
expect = "fails"
diagnosis = "double-shift"
"""


def declare(folder: Path, text: str) -> None:
    (folder / "renamed.py").write_text(GOOD.replace("logits", "scores").replace("labels", "tokens"))
    (folder / "pyproject.toml").write_text(text)


def test_declared_candidates_are_judged_by_a_bare_check(run: Run, files: Path) -> None:
    declare(files, DECLARED)
    ran = run("check", "--json", "r.json", "--seed", "0", "--profile", "brief")
    assert ran.code == 0, ran.out
    assert {name: c["verdict"] for name, c in ran.candidates.items()} == {"renamed": "conforms", "known-wrong": "fails"}
    assert all(candidate["as_expected"] for candidate in ran.report["candidates"])
    assert ran.candidates["known-wrong"]["expected_diagnosis"] == "double-shift"
    assert "all 2 are as expected" in ran.out


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    "text",
    [
        DECLARED.replace('"double-shift"', '"no-shift"'),  # fails, and has another name
        DECLARED.replace('"bad.py:loss"', '"good.py:loss"'),  # passes
        DECLARED.replace('expect = "fails"\ndiagnosis = "double-shift"', ""),  # fails, unexpectedly
    ],
    ids=["another name", "passes", "fails"],
)
def test_a_candidate_that_is_not_as_declared(run: Run, files: Path, text: str) -> None:
    declare(files, text)
    ran = run("check", "known-wrong", "--in-process", "--json", "r.json", "--seed", "0", "--profile", "brief")
    assert ran.code == 1
    assert not ran.candidates["known-wrong"]["as_expected"]
