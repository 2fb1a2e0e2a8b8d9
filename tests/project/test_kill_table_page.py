"""docs/kill-table.md is of the mutants of today, and none of them survives."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.kill_table.subjects import subjects
from shiftproof.reference.profiles import PROFILES

PAGE = (Path(__file__).parents[2] / "docs" / "kill-table.md").read_text(encoding="utf-8")


def test_the_page_has_every_profile_that_the_session_judges(scripts: Any) -> None:
    asked = scripts.kill_table.arguments(["--seeds", "1"])
    specs = [value for flag, value in pairwise(asked) if flag == "--spec"]
    assert re.findall(r"^## (\S+)$", PAGE, re.MULTILINE) == specs == list(scripts.comparison.SPECS)
    assert asked[-2:] == ["--seeds", "1"]


def test_no_mutant_survives() -> None:
    (row,) = re.findall(r"^\| all \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", PAGE, re.MULTILINE)
    tried, killed, survived, equivalent = map(int, row)
    assert (survived, killed + equivalent) == (0, tried)


@pytest.mark.parametrize("profile", ["hf.causal_lm", "csm", "parler"])
def test_every_mutant_of_a_profile_is_in_its_table(profile: str) -> None:
    _, _, part = PAGE.partition(f"## {profile}\n")
    shown = set(re.findall(r"^\| ([\w-]+) \| (?:\d+ )?(?:killed|equivalent)", part.partition("\n## ")[0], re.MULTILINE))
    assert {subject.name for subject in subjects(PROFILES[profile]) if not subject.reason} == shown
