"""The tables of docs/branches.md: rows from a report, and every loss of doors.py in one of them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def branch(ran: tuple[bool, bool], raises: tuple[bool, bool] = (False, False)) -> dict[str, Any]:
    return {"ran": ran, "only_raises": raises}


REPORT: dict[str, Any] = {
    "found": [
        branch((True, True)),
        branch((True, False)),
        branch((True, False), (False, True)),
        branch((False, False)),
    ],
    "regions": 4,
    "traces": 2,
    "trace_seconds": 1.5,
    "exceptions": ["a.py:1 (x | y never true)", "b", "c"],
    "sizes_unread": "",
    "is_named": True,
}


def test_a_row(scripts: Any) -> None:
    words = "a.py:1 (x \\| y never true); b; and 1 more"
    assert scripts.branches.of_branches(REPORT) == ["3", "2", "4", "2", "0.75", words]
    assert scripts.branches.of_branches({**REPORT, "exceptions": [], "traces": 0}) == ["3", "2", "4", "0", "–", "–"]
    assert (
        scripts.branches.of_branches({**REPORT, "exceptions": [], "is_named": False})[-1] == "in the JSON report only"
    )
    assert (
        scripts.branches.of_branches({**REPORT, "exceptions": [], "sizes_unread": "E: m"})[-1] == "trace stopped: E: m"
    )
    assert scripts.branches.of_branches(None)[-1] == "not watched"


def test_every_loss_with_a_door_is_tried(scripts: Any) -> None:
    tree = ast.parse(scripts.branches.DOORS.read_text(encoding="utf-8"))
    losses = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")}
    assert {name for name, _, _ in scripts.branches.doors()} == losses


def test_the_page_has_a_row_of_each_of_them(scripts: Any) -> None:
    text = (DOCS / "branches.md").read_text(encoding="utf-8")
    assert [name for name, _, _ in scripts.branches.doors() if f"| {name} |" not in text] == []
