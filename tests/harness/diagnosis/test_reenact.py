"""No name is given against what the laws found, and what a name does not explain is told with it."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import resolve
from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.cases.recipe import Mask, Recipe, Regime
from shiftproof.harness.cli.main import main
from shiftproof.harness.diagnosis.bug import mutant_bug, symptom
from shiftproof.harness.diagnosis.reenact import held_against_the_laws
from shiftproof.harness.judge.loading import Job, LoadedCandidate, Options
from shiftproof.harness.results import Counterexample, LawResult, Level, NamedBug, Verdict
from shiftproof.reference.profiles import PROFILES

CANDIDATES = Path(__file__).parents[2] / "candidates"
NAMED = runpy.run_path(str(CANDIDATES / "against_the_laws.py"))["NAMED"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("function", NAMED)
def test_what_may_be_said_of_a_loss(function: str) -> None:
    target = f"{CANDIDATES}/against_the_laws.py:{function}"
    options = ["--profile", "brief", "--dtype", "float32", "--seed", "0", "--json", "found.json"]
    assert main(["check", target, "--spec", "hf.causal_lm", *options]) == 1
    [found] = json.loads(Path("found.json").read_text())["candidates"]
    assert [(bug["mutant"], bug["detail"]) for bug in found["diagnosis"]] == NAMED[function]


# Names and findings that are made up -------------------------------------------------------------------------------

RECIPE = Recipe(rows=2, length=5, classes=7, masks=(Mask.NONE,), regime=Regime.CALM)
DOUBLE, NONE = mutant_bug("double-shift", "", ()), mutant_bug("no-shift", "", ())


@lru_cache
def trial_of(function: str) -> Trial:
    candidate = resolve(f"{CANDIDATES}/{function}", {})
    loaded = LoadedCandidate(Job("x", candidate, "cpu", ("float32",)), Options(in_process=True))
    loaded.start()
    return loaded.of_loss(PROFILES["hf.causal_lm"])


def law(id: str, fails: bool, recipe: Recipe = RECIPE) -> LawResult:
    shown = Counterexample("0", recipe.to_json()) if fails else None
    verdict = Verdict.FAIL if fails else Verdict.PASS
    return LawResult(id, "t", Level.MUST, verdict, cases=3, message="…" if fails else "", counterexample=shown)


def held(bug: NamedBug, *laws: LawResult, function: str = "wrong_alignment.py:double_shift") -> tuple[NamedBug, ...]:
    return held_against_the_laws((bug,), laws, trial_of(function))


def test_a_bug_that_explains_what_failed_keeps_its_name() -> None:
    assert held(DOUBLE, law("CONTRACT-1", False), law("ALIGN-1", True), law("VALUE-1", True)) == (DOUBLE,)


def test_a_bug_that_would_not_fail_the_law_that_is_shown_is_not_named() -> None:
    assert held(DOUBLE, law("PURE-1", True)) == ()
    two = replace(RECIPE, rows=1, length=1, masks=(Mask.NONE,))  # nothing is shifted here, so nothing is wrong
    assert held(DOUBLE, law("VALUE-1", True, two)) == ()


def test_a_bug_that_would_fail_a_law_that_holds_there_is_not_named() -> None:
    right = "right.py:sliced"
    assert held(NONE, law("GRAD-1", False), law("VALUE-1", True), function=right) == ()
    assert held(NONE, law("VALUE-1", True), function=right) == (NONE,)  # no law that holds has anything to say


def test_what_a_bug_does_not_explain_is_told_with_it() -> None:
    [bug] = held(DOUBLE, law("ALIGN-1", True), law("PURE-1", True), law("PURE-2", True))
    assert bug.detail == "PURE-1, PURE-2 fail for another reason"


def test_what_cannot_be_reenacted_is_left_as_it_is() -> None:
    scaled = symptom("gradient-scaled", "the gradient is 2 times the right one")
    assert held(scaled, law("GRAD-1", True)) == (scaled,)
    assert held(DOUBLE) == (DOUBLE,)
    both = (DOUBLE, NONE)
    assert held_against_the_laws(both, (law("PURE-1", True),), trial_of("wrong_alignment.py:double_shift")) == both


def test_a_bug_that_is_told_by_one_law_must_explain_the_others() -> None:
    writes = symptom("inputs-mutated", "PURE-1 fails")
    function = "against_the_laws.py:double_shift_and_writes"
    assert held(writes, law("PURE-1", True), function=function) == (writes,)
    assert held(writes, law("PURE-1", True), law("VALUE-1", True), function=function) == ()
