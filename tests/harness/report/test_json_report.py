"""The JSON report is valid against its schema, whatever was found, and the schema forgets nothing."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shiftproof.harness.cases.recipe import Mask, Recipe
from shiftproof.harness.report.events import CandidateJudged, Event, RunFinished, RunStarted
from shiftproof.harness.report.json_report import SCHEMA, JsonReport, as_json, worst_of
from shiftproof.harness.results import (
    CandidateResult,
    Counterexample,
    Coverage,
    Difference,
    LawResult,
    Level,
    NamedBug,
    Overall,
    Picture,
    Verdict,
)

SCHEMA_DATA: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
RECIPE = Recipe(rows=2, length=3, masks=(Mask.NONE, Mask.ALL), seed=7).to_json()

CONFORMING = CandidateResult(
    candidate="good",
    call="good.py:loss",
    spec="hf.causal_lm",
    device="cpu",
    dtypes=("float32",),
    verdict=Overall.CONFORMS,
    laws=(
        LawResult("ALIGN-1", "a law", Level.MUST, Verdict.PASS, cases=129, vacuous=1, seconds=0.25),
        LawResult("ALIGN-2", "another", Level.MUST, Verdict.SKIP, message="its gradient shows the same"),
    ),
    coverage=Coverage(
        {"holes × calm × float32 × mean": 3, "left padding × calm × float32 × mean": 0},
        {"holes × nan_ignored × float32 × mean": 2},
        due_after=40,
    ),
    calls=200,
    seconds=2.5,
    environment={"torch": "2.13.0"},
)
FAILING = replace(
    CONFORMING,
    candidate="bad",
    verdict=Overall.FAILS,
    laws=tuple(
        LawResult(
            f"LAW-{index}",
            "a law",
            Level.MUST,
            verdict,
            cases=3,
            message="2 of 2 logit rows: …",
            counterexample=Counterexample("0123abcd", RECIPE) if verdict.is_failure else None,
            follows="LAW-0" if index else None,
        )
        for index, verdict in enumerate(Verdict)
    ),
    diagnosis=(NamedBug("roll-wrap", 1.0, "", "the last target is y_0", "verl#6268", ("index-minus-one",)),),
    pairing=Picture(
        recipe=RECIPE,
        of="logits",
        labels=[[0, 1], [2, 3]],
        expected=[{"logits": [0, 0], "labels": [[0, 1]]}],
        found=[{"logits": [0, 0], "labels": [[0, 1], [-1, 7]]}],
        drawing="●",
    ),
    difference=Difference(8, 133, 42, 1, {"+1": 3}, 499, 490, (1.25, 3.5)),
    expect="fails",
    expected_diagnosis="roll-wrap",
)
UNLOADABLE = CandidateResult(
    candidate="broken",
    call="broken.py:loss",
    spec=None,
    device="cuda",
    dtypes=("bfloat16",),
    verdict=Overall.ERROR,
    message="importing broken.py raised ValueError",
)


def run_of(*results: CandidateResult) -> RunFinished:
    return RunFinished("0.1.0", 7, "quick", 12.5, results)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def written(folder: Path, *events: Event) -> Any:
    """What the reporter writes, read by a strict reader and validated."""
    report = JsonReport(folder / "report.json")
    for event in events:
        report.tell(event)
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    jsonschema.validate(data, SCHEMA_DATA)
    return data


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA_DATA)


@pytest.mark.parametrize(
    "results",
    [(CONFORMING,), (FAILING,), (UNLOADABLE,), (), (CONFORMING, FAILING, UNLOADABLE)],
    ids=["conforming", "failing", "unloadable", "nothing", "all"],
)
def test_valid(tmp_path: Path, results: tuple[CandidateResult, ...]) -> None:
    data = written(tmp_path, run_of(*results))
    assert [candidate["candidate"] for candidate in data["candidates"]] == [result.candidate for result in results]
    assert data["cases"] == sum(result.cases for result in results)
    assert data["seed"] == 7


def test_nothing_is_written_before_the_end(tmp_path: Path) -> None:
    report = JsonReport(tmp_path / "report.json")
    report.tell(RunStarted("0.1.0", 7, "quick", ("good",), 100))
    report.tell(CandidateJudged(CONFORMING))
    assert not (tmp_path / "report.json").exists()


def test_missing_cells_are_named(tmp_path: Path) -> None:
    covered = written(tmp_path, run_of(CONFORMING))["candidates"][0]["coverage"]
    assert (covered["demanded"], covered["hit"]) == (2, 1)
    assert covered["missing"] == ["left padding × calm × float32 × mean"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_never_appears(number: float) -> None:
    found = as_json(run_of(replace(FAILING, pairing=replace(FAILING.pairing, recipe={"odd": [number]}))))  # type: ignore[type-var]
    assert json.loads(json.dumps(found, allow_nan=False))["candidates"][0]["pairing"]["recipe"] == {"odd": [None]}


def test_words_of_ours_are_plain_strings(tmp_path: Path) -> None:
    (candidate,) = as_json(run_of(FAILING))["candidates"]
    assert type(candidate["verdict"]) is str
    assert type(candidate["laws"][0]["level"]) is str


def test_what_is_written_can_be_read_back(tmp_path: Path) -> None:
    data = written(tmp_path, run_of(CONFORMING, FAILING, UNLOADABLE))
    assert [CandidateResult.from_json(candidate) for candidate in data["candidates"]] == [
        CONFORMING,
        FAILING,
        UNLOADABLE,
    ]


@pytest.mark.parametrize(
    ("results", "verdict"),
    [
        ((), "inconclusive"),
        ((CONFORMING,), "conforms"),
        ((CONFORMING, UNLOADABLE), "error"),
        ((CONFORMING, UNLOADABLE, FAILING), "fails"),
        ((CONFORMING, replace(CONFORMING, verdict=Overall.INCONCLUSIVE)), "inconclusive"),
        ((UNLOADABLE, replace(CONFORMING, verdict=Overall.INCONCLUSIVE)), "error"),
    ],
)
def test_the_verdict_on_all_is_the_worst(results: tuple[CandidateResult, ...], verdict: str) -> None:
    assert worst_of(results) == verdict


def named_in_schema(definition: str) -> set[str]:
    part = SCHEMA_DATA["$defs"][definition]
    assert part["additionalProperties"] is False
    assert set(part["required"]) == set(part["properties"])
    return set(part["properties"])


@pytest.mark.parametrize(
    ("definition", "kind", "more"),
    [
        ("candidate", CandidateResult, {"cases", "modes", "as_expected"}),
        ("law", LawResult, set()),
        ("bug", NamedBug, set()),
        ("picture", Picture, set()),
        ("coverage", Coverage, {"demanded", "hit", "missing"}),
    ],
)
def test_every_field_is_in_the_schema(definition: str, kind: type, more: set[str]) -> None:
    assert named_in_schema(definition) == {field.name for field in fields(kind)} | more


def test_every_field_of_a_counterexample_is_in_the_schema() -> None:
    part = SCHEMA_DATA["$defs"]["law"]["properties"]["counterexample"]["oneOf"][1]
    assert set(part["required"]) == set(part["properties"]) == {field.name for field in fields(Counterexample)}


def test_every_word_is_in_the_schema() -> None:
    definitions = SCHEMA_DATA["$defs"]
    assert set(definitions["verdict"]["enum"]) == {str(verdict) for verdict in Verdict}
    assert set(definitions["overall"]["enum"]) == {str(verdict) for verdict in Overall}
    assert set(definitions["law"]["properties"]["level"]["enum"]) == {str(level) for level in Level}


@pytest.mark.parametrize("name", sorted(as_json(run_of(CONFORMING))))
def test_the_schema_misses_what_is_missing(name: str) -> None:
    data = as_json(run_of(CONFORMING))
    del data[name]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA_DATA)
