"""The small form of `nox -s speed_gate`: one short race of each candidate, and the table that is made of races."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.speed.bench import Bench, Terms
from shiftproof.harness.speed.shapes import Shape
from shiftproof.reference.profiles import PROFILES

DOCS = Path(__file__).parents[2] / "docs"
TINY = Terms(PROFILES["hf.causal_lm"], Shape("tiny", 1, 8, 64))


def test_a_race_of_each_candidate_is_a_row_that_can_be_read_again(scripts: Any, tmp_path: Path) -> None:
    gate = scripts.speed_gate
    with Bench(TINY) as bench:
        for candidate in gate.SETS:
            [run] = gate.races(bench, candidate, runs=1, seconds=0.0)
            gate.record([run], tmp_path / "race.csv")
            assert list(map(str, gate.read(tmp_path / "race.csv"))) == [str(run)]  # as text: NaN is not NaN
            assert run.outcome == "inconclusive", "the one pair for which there is time proves nothing"


def test_the_races_of_docs_make_the_table_of_docs(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = scripts.speed_gate
    monkeypatch.setattr(gate, "DOCS", tmp_path)
    runs = {candidate: gate.read(DOCS / f"speed-{candidate}.csv") for candidate in gate.SETS}
    shutil.copy(DOCS / "speed.md", tmp_path)
    before = (tmp_path / "speed.md").read_text(encoding="utf-8")
    for candidate in gate.SETS:
        shutil.copy(DOCS / f"speed-{candidate}.csv", tmp_path)
    gate.main(["table"])
    assert (tmp_path / "speed.md").read_text(encoding="utf-8") == before, "`nox -s speed_gate -- table` writes it anew"
    gate.write({"same": runs["same"][:1]}, tmp_path)
    assert (tmp_path / "speed.md").read_text(encoding="utf-8") != before
