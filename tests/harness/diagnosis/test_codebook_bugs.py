"""The known bugs of losses over codebooks, heads and streams, written as real losses: each fails, and by its name."""

from __future__ import annotations

import importlib.util
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import resolve
from shiftproof.harness.diagnosis.evidence import gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import Level
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


SCORES: dict[str, Any] = load("right_scores").SCORES
WRONG: dict[str, tuple[str, str]] = load("wrong_codebooks").WRONG

# Fail, and have no name: the weights of this one depend on the probabilities, as no known bug's do.
NAMELESS = {"dft_weighted_mean"}

# BUGS.md's rows on codebooks.
CODEBOOK_BUGS = {
    "codebook-axis-shift",
    "delay-off-by-one",
    "layout-swap",
    "codebook-macro",
    "codebook-micro",
    "codebook-sum",
    "count-axis",
}


def spec_of(name: str) -> LossSpec:
    """A profile, or the causal loss with a score of right_scores.py."""
    if name in PROFILES:
        return PROFILES[name]
    score, term = SCORES[name]
    return LossSpec(name, (LossTerm(score=Score(**score), **term),), "", "")


@cache
def judged(function: str, profile: Profile, seed: int) -> tuple[int | None, tuple[str, ...], str]:
    """How many cases it took until a MUST law failed, the names given, and that law's message."""
    promised, _ = WRONG[function]
    candidate = replace(resolve(f"{CANDIDATES / 'wrong_codebooks.py'}:{function}", {}), spec=None)
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        loaded.start()
        trial = loaded.trial(spec_of(promised))
        results, cases, first, message = [], 0, None, ""
        for law in LAWS.values():
            result = ask(law, trial, profile, seed)
            results.append(result)
            if first is None and result.first_failure is not None and law.level is Level.MUST:
                first, message = cases + result.first_failure, result.message
            cases += result.cases
        evidence, silent = gather(trial)
        named = name_bugs(results, trial, evidence, silent)
    finally:
        loaded.close()
    return first, tuple(name for bug in named for name in (bug.mutant, *bug.also)), message


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # stored cases go to the working directory


@pytest.mark.representatives(5)
@pytest.mark.parametrize("function", WRONG)
def test_a_wrong_loss_fails_and_is_named(function: str) -> None:
    first, names, message = judged(function, BRIEF, 0)
    assert first is not None, "conforms"
    assert message
    if function not in NAMELESS:
        assert WRONG[function][1] in names


@pytest.mark.representatives(1)
@pytest.mark.parametrize("bug", sorted(CODEBOOK_BUGS))
def test_a_codebook_bug_is_found_in_few_cases(bug: str) -> None:
    """In the median over its losses and some seeds, 10 cases of the laws on pairs and weights, in their order."""
    functions = [function for function, (_, name) in WRONG.items() if name == bug]
    counts = [cases_of_pairs(function, seed) for function in functions for seed in range(3)]
    assert functions
    assert None not in counts
    assert statistics.median(count for count in counts if count is not None) <= 10


def cases_of_pairs(function: str, seed: int) -> int | None:
    """How many cases the laws on pairs and weights take, one case of each in turn, to tell a wrong loss from right."""
    promised, _ = WRONG[function]
    candidate = replace(resolve(f"{CANDIDATES / 'wrong_codebooks.py'}:{function}", {}), spec=None)
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        loaded.start()
        trial = loaded.trial(spec_of(promised))
        firsts = [ask(LAWS[id], trial, BRIEF, seed).first_failure for id in ("ALIGN-1", "SELECT-1", "REDUCE-1")]
    finally:
        loaded.close()
    found = [index + 3 * (first - 1) + 1 for index, first in enumerate(firsts) if first is not None]
    return min(found, default=None)
