"""Wrong losses that re-enact no known bug: each fails, and the report tells what is wrong with it."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import resolve
from shiftproof.harness.diagnosis.evidence import gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.diagnosis.near_scores import other_scores
from shiftproof.harness.diagnosis.pair_difference import measure, measure_in
from shiftproof.harness.diagnosis.patterns import patterns
from shiftproof.harness.diagnosis.where_it_fails import where_it_fails
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.report.findings import as_text
from shiftproof.harness.results import Overall, overall
from shiftproof.harness.run.open_candidate import blank
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec, LossTerm, Score

CANDIDATES = Path(__file__).parents[2] / "candidates"
BRIEF = Profile("brief", 0.2)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CANDIDATES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRONG: dict[str, tuple[str, str]] = load("unfamiliar").WRONG
SCORES: dict[str, Any] = load("right_scores").SCORES


def spec_of(name: str) -> LossSpec:
    """A profile, or the causal loss with a score of right_scores.py."""
    if name in PROFILES:
        return PROFILES[name]
    score, term = SCORES[name]
    return LossSpec(name, (LossTerm(score=Score(**score), **term),), "", "")


def report_on(file: str, function: str, promised: str) -> tuple[Overall, str]:
    """The verdict on a loss, and what the report says below its counterexample."""
    candidate = replace(resolve(f"{CANDIDATES / file}:{function}", {}), spec=promised if promised in PROFILES else None)
    [job] = jobs_of([replace(candidate, dtypes=("float32",))])
    loaded = LoadedCandidate(job, Options(in_process=True))
    try:
        loaded.start()
        trial = loaded.of_loss(spec_of(promised))
        laws = tuple(ask(law, trial, BRIEF, 0) for law in LAWS.values())
        evidence, silent = gather(trial)
        names = name_bugs(laws, trial, evidence, silent)
        state = None if names else where_it_fails(laws, trial, evidence)
        apart = None if names or state else measure(trial, evidence)
        if state is not None:
            apart = measure_in(state.words, trial, state.evidence)
    finally:
        loaded.close()
    found = replace(blank(job), laws=laws, verdict=overall(laws), diagnosis=names, difference=apart)
    shown = as_text(found, verbosity=1, width=200)
    return found.verdict, " ".join(shown.partition("smallest counterexample")[2].split())


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # stored cases go to the working directory


@pytest.mark.representatives(6)
@pytest.mark.parametrize("function", WRONG)
def test_what_is_wrong_is_told(function: str) -> None:
    promised, told = WRONG[function]
    verdict, text = report_on("unfamiliar.py", function, promised)
    assert verdict is Overall.FAILS
    assert re.search(told, text), text


def test_right_pairs_have_no_pattern_and_a_right_score_no_other_constant() -> None:
    [job] = jobs_of([replace(resolve(f"{CANDIDATES / 'right.py'}:sliced", {}), spec="hf.causal_lm")])
    loaded = LoadedCandidate(job, Options(in_process=True))
    try:
        loaded.start()
        trial = loaded.of_loss(PROFILES["hf.causal_lm"]).in_dtype("float32")
        evidence, _ = gather(trial)
    finally:
        loaded.close()
    assert patterns(evidence, trial.spec) == ()
    assert next(words for _, words in other_scores(evidence, trial.spec)) == "logit_scale is 1, not 1"
    assert name_bugs((), trial, evidence, []) == ()


@pytest.mark.representatives(2)
@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("twice_in_training", r"from the spec, in train mode .*logits: takes the labels at \+1"),
        ("smooth_in_training", r"another-score \(in train mode; label_smoothing is 0.1, where none is promised\)"),
        ("sum_under_autocast", "autocast.* logits: summed, and divided by no count"),
        ("keyword_divides_the_mean", r"\*\*kwargs .*logits: divided once more by the labels that count"),
        ("keywords_ignored", r"count-ignored \(with num_items_in_batch through \*\*kwargs\)"),
    ],
)
def test_what_is_wrong_in_one_state_is_told_of_that_state(function: str, told: str) -> None:
    verdict, text = report_on("states.py", function, "hf.causal_lm")
    assert verdict is Overall.FAILS
    assert re.search(told, text), text
