"""A row of a sweep: what it may say, and that a line of the file has all of it."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import jsonschema
import pytest

from shiftproof.harness.report.sweep import SCHEMA
from shiftproof.harness.results import Counterexample
from shiftproof.harness.sweep.result import Documentation, Outcome, Row, not_judged

SCHEMA_DATA: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))

RIGHT = Row("lib:Right", Outcome.CONFORMS, alignment="k=1", prefix=4, seconds=1.5, environment={"torch": "2"}, seed=3)
WRONG = Row(
    "lib:Wrong",
    Outcome.FAILS,
    "2 of 2 logit rows …",
    laws=("ALIGN-1",),
    diagnosis=("double-shift",),
    counterexample=Counterexample("0123abcd", {"rows": 1}),
)
BESIDE = Row(
    "lib:Beside",
    Outcome.UNSHIFTED,
    "scored on the label beside",
    documentation=Documentation.AGAINST,
    sentence="labels are shifted inside the model",
)
ALL = (
    RIGHT,
    WRONG,
    replace(WRONG, counterexample=Counterexample("", {"rows": 1})),
    BESIDE,
    replace(BESIDE, documentation=Documentation.BY),
    Row("lib:Sound", Outcome.NO_PAIRS, "8 rows of logits for any labels"),
    Row("lib:Unbuilt", Outcome.NOT_BUILT, "needs a vision tower"),
    not_judged("lib:Crash", "its process was killed by SIGSEGV", 2.5, seed=3),
)


@pytest.mark.parametrize("row", ALL, ids=lambda row: f"{row.name}-{row.documentation}")
def test_there_and_back(row: Row) -> None:
    text = json.dumps({"row": row.to_json()}, allow_nan=False)
    jsonschema.validate(json.loads(text), SCHEMA_DATA)
    assert Row.from_json(json.loads(text)["row"]) == row


def test_the_schema_forgets_nothing() -> None:
    required = SCHEMA_DATA["$defs"]["row"]["required"]
    assert set(required) == {field.name for field in fields(Row)} == set(SCHEMA_DATA["$defs"]["row"]["properties"])


@pytest.mark.parametrize(
    "broken",
    [
        {"outcome": "fine"},
        {"reason": "two\nlines"},
        {"target": "no colon"},
        {"laws": ["ALIGN-1"]},
        {"more": 1},
    ],
)
def test_what_the_schema_refuses(broken: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"row": {**RIGHT.to_json(), **broken}}, SCHEMA_DATA)


def test_alarms_and_verdicts() -> None:
    assert [row.name for row in ALL if row.is_alarm] == ["Wrong", "Wrong", "Beside"]
    assert [row.name for row in ALL if not row.is_verdict] == ["Sound", "Unbuilt", "Crash"]
    assert [row.name for row in ALL if not row.is_settled] == ["Unbuilt", "Crash"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"laws": ("ALIGN-1",)}, "conforms, so it must have no law"),
        ({"outcome": Outcome.NOT_BUILT}, "expected a reason of one line, got ''"),
        ({"outcome": Outcome.FAILS, "reason": "two\nlines"}, "expected a reason of one line"),
        ({"documentation": Documentation.BY}, "only an unshifted class can be so by its documentation"),
    ],
)
def test_what_no_judge_can_have_found(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(RIGHT, **changes)


def test_a_reason_of_many_lines_is_cut_to_its_first() -> None:
    assert not_judged("lib:X", "\n one \n two").reason == "one"
    assert not_judged("lib:X", " \n ").reason == "no reason was given"
