"""The page of a sweep in its small form: a made-up library, what was found of it, and what its source says."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shiftproof.harness.mutants import MUTANTS
from shiftproof.harness.mutants.behaviours import BEHAVIOURS
from shiftproof.harness.mutants.symptoms import SYMPTOMS
from shiftproof.harness.report.sweep import SCHEMA

DOCS = Path(__file__).parents[2] / "docs"
VERDICTS = tomllib.loads((DOCS / "scripts" / "sweep_verdicts.toml").read_text(encoding="utf-8"))
LIBRARY = """
class Wrong:
    def forward(self, logits, labels=None):
        hidden = logits
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels)
        return loss


class Own:
    def forward(self, logits, labels):
        return_loss = cross_entropy(logits, labels)
        return return_loss
"""
HEADER = {
    "schema": 1, "shiftproof": "0", "package": "madeup", "versions": {"madeup": "1.0", "torch": "2"}, "python": "",
    "patterns": [], "seed": 0, "profile": "brief", "device": "cpu", "dtype": "float32",
}  # fmt: skip
QUIET = {
    "outcome": "conforms", "reason": "", "laws": [], "diagnosis": [], "alignment": "k=1", "documentation": "",
    "sentence": "", "prefix": 0, "seconds": 0.1, "counterexample": None, "environment": {}, "seed": 0,
}  # fmt: skip


def swept(folder: Path, *rows: dict[str, Any], dtype: str = "float32") -> str:
    """The file of a sweep that found these rows, each unlike the row of a class that conforms."""
    (folder / "madeup.py").write_text(LIBRARY)
    counts = {row["outcome"]: 1 for row in rows}
    lines: list[dict[str, Any]] = [{"header": HEADER | {"dtype": dtype}}, *({"row": QUIET | row} for row in rows)]
    lines.append({"footer": {"counts": counts, "seconds": 1.0, "finished": True}})
    for line in lines:
        jsonschema.validate(line, json.loads(SCHEMA.read_text(encoding="utf-8")))
    (folder / "sweep.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder / "sweep.jsonl")


def alarm(target: str, bug: str) -> dict[str, Any]:
    return {
        "target": target, "outcome": "fails", "reason": "a bug", "laws": ["ALIGN-1"], "diagnosis": [bug],
        "counterexample": {"replay": "", "recipe": {}},
    }  # fmt: skip


def test_an_alarm_stands_under_its_verdict_and_beside_its_source(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = swept(
        tmp_path,
        alarm("madeup:Wrong", "aligned-shift"),
        {"target": "madeup:Own", "outcome": "unshifted", "reason": "as designed", "sentence": "Labels are yours."},
        {"target": "madeup:Unbuilt", "outcome": "not-built", "reason": "no config"},
    )
    assert scripts.sweep_page.main([file], tmp_path) == 0
    page = (tmp_path / "sweep-1.0.md").read_text(encoding="utf-8")
    assert f"## aligned-shift: 1\n\n{VERDICTS['bugs']['aligned-shift']}\n" in page
    assert "| Wrong | k=1 | ALIGN-1 | `madeup.py:5` |" in page
    assert "- Own: Labels are yours." in page
    assert "- Unbuilt: no config" in page


def test_another_dtype_has_a_page_of_its_own(scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = swept(tmp_path, alarm("madeup:Wrong", "aligned-shift"), dtype="bfloat16")
    assert scripts.sweep_page.main([file], tmp_path) == 0
    page = (tmp_path / "sweep-1.0-bfloat16.md").read_text(encoding="utf-8")
    assert page.startswith("# madeup 1.0 in bfloat16: every class")
    assert "torch 2, bfloat16, profile" in page
    assert not (tmp_path / "sweep-1.0.md").exists()


def test_what_changed_since_an_earlier_release_is_a_section_of_its_own(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "older").mkdir()
    same = {"target": "madeup:Same", "outcome": "conforms"}
    before = swept(
        tmp_path / "older",
        same,
        {"target": "madeup:Wrong", "outcome": "conforms"},
        {"target": "madeup:Went", "outcome": "conforms"},
    )
    now = swept(
        tmp_path,
        same,
        alarm("madeup:Wrong", "aligned-shift"),
        {"target": "madeup:Came", "outcome": "no-pairs", "reason": "CTC"},
    )
    assert scripts.sweep_page.main([now, "--since", before], tmp_path) == 0
    section = (
        (tmp_path / "sweep-1.0.md").read_text(encoding="utf-8").partition("## Since 1.0, as this judge finds both\n")[2]
    )
    assert section.strip().splitlines() == [
        "- New, no pairs: Came.",
        "- Gone: Went.",
        "- Wrong: fails (aligned-shift), where it was conforms.",
    ]
    assert scripts.sweep_page.main([now, "--since", now], tmp_path) == 0
    assert "finds both\n\nNothing.\n" in (tmp_path / "sweep-1.0.md").read_text(encoding="utf-8")


def test_an_alarm_that_nobody_has_read_is_printed_with_its_source(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = swept(tmp_path, alarm("madeup:Own", "double-shift"))
    assert scripts.sweep_page.main([file], tmp_path) == 1
    assert not (tmp_path / "sweep-1.0.md").exists()
    said = capsys.readouterr()
    assert "        return_loss = cross_entropy(logits, labels)\n" in said.out
    assert "1 of 1 alarms have no verdict" in said.err


def test_every_verdict_is_used_and_no_page_has_another() -> None:
    pages = [page.read_text(encoding="utf-8") for page in DOCS.glob("sweep-*.md")]
    verdicts = [verdict for table in VERDICTS.values() for verdict in table.values()]
    assert [verdict for verdict in verdicts if not any(f"\n{verdict}\n" in page for page in pages)] == []
    for page in pages:
        alarms = [part for part in page.split("\n## ")[1:] if "| class | scored |" in part]
        assert alarms
        for part in alarms:
            assert part.split("\n")[2] in verdicts, part.split("\n")[0]


def test_the_bugs_that_have_a_verdict_have_names() -> None:
    known = {*MUTANTS, *SYMPTOMS, *(behaviour.name for behaviour in BEHAVIOURS)}
    for kind in VERDICTS["bugs"]:
        assert set(kind.removeprefix("unshifted ").split(" + ")) <= known, kind
