"""Losses that are wrong at some sizes without a branch, or in rare structures: all fail."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import PROFILES
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import Level

CANDIDATES = Path(__file__).parents[2] / "candidates"


def wrong(file: str) -> Mapping[str, str]:
    table: Mapping[str, str] = runpy.run_path(str(CANDIDATES / f"{file}.py"))["WRONG"]
    return table


def first_failure(file: str, name: str, spec: str, seed: int) -> str | None:
    """The first MUST law that fails."""
    candidate = Candidate(name, f"{CANDIDATES / file}.py:{name}", spec)
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        trial = loaded.trial()
        for law in LAWS.values():
            if law.level is Level.MUST and ask(law, trial, PROFILES["quick"], seed).verdict.is_failure:
                return law.id
    finally:
        loaded.close()
    return None


@pytest.mark.representatives(2)
@pytest.mark.parametrize(("name", "spec"), wrong("sizes").items())
def test_what_is_wrong_at_some_sizes_fails(name: str, spec: str) -> None:
    assert first_failure("sizes", name, spec, 0) is not None


@pytest.mark.representatives(2)
@pytest.mark.parametrize(("name", "spec"), wrong("rare").items())
def test_what_is_wrong_in_a_rare_structure_fails(name: str, spec: str) -> None:
    assert first_failure("rare", name, spec, 0) is not None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize(
    ("file", "name", "spec"), [(file, *each) for file in ("sizes", "rare") for each in wrong(file).items()]
)
def test_it_fails_under_other_seeds_too(file: str, name: str, spec: str, seed: int) -> None:
    assert first_failure(file, name, spec, seed) is not None
