"""Losses that are wrong only in a state or in a form of an argument fail by its law; right ones that ask conform."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import PROFILES, Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.laws.base import OnVariants
from shiftproof.harness.results import LawResult, Level
from shiftproof.harness.worker.exchange import Call, Outcome, Raised

CANDIDATES = Path(__file__).parents[2] / "candidates" / "states.py"
TABLES = runpy.run_path(str(CANDIDATES))
SOME = Profile("some", 0.5)
_SEED = 3


def heard(name: str, spec: str, ids: set[str], dtype: str = "float32", seed: int = _SEED) -> dict[str, LawResult]:
    """What laws say of a loss in a process of its own, for it may leave its settings behind."""
    [job] = jobs_of([Candidate(name, f"{CANDIDATES}:{name}", spec, dtypes=(dtype,))])
    loaded = LoadedCandidate(job, Options())
    try:
        trial, worker = loaded.trial(), loaded.worker
        assert isinstance(trial, Trial)
        assert isinstance(worker, Worker)
        trial.compiles = lambda backend: backend == "eager" and worker.branches.asks_if_compiled
        # The first law runs the code, and shows whether it asks about compiling.
        return {id: ask(law, trial, SOME, seed) for id, law in LAWS.items() if id in {"CONTRACT-1", *ids}}
    finally:
        loaded.close()


WRONG = [(law, name, spec) for name, (spec, law) in TABLES["WRONG"].items()]
FIRST = {law: name for law, name, _ in reversed(WRONG)}


@pytest.mark.parametrize(
    ("law", "name", "spec"),
    [pytest.param(*each, marks=() if FIRST[each[0]] == each[1] else pytest.mark.slow) for each in WRONG],
)
def test_what_is_wrong_in_one_state_fails_by_its_law(law: str, name: str, spec: str) -> None:
    dtype = "float16" if name == "gradient_stored_in_half" else "float32"
    results = heard(name, spec, {"ALIGN-1", "VALUE-1", law}, dtype)
    assert {id for id, result in results.items() if result.verdict.is_failure} == {law}
    assert results[law].message


@pytest.mark.representatives(1)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "spec"), TABLES["RIGHT"].items())
def test_what_is_right_in_every_state_passes(name: str, spec: str, dtype: str) -> None:
    must = {id for id, law in LAWS.items() if law.level is Level.MUST}
    results = heard(name, spec, must, dtype)
    assert {id: result.message for id, result in results.items() if result.verdict.is_failure} == {}


def test_what_is_refused_is_said() -> None:
    results = heard("refuses_what_it_cannot_read", "hf.causal_lm", {"COUNT-1", "LAYOUT-3"})
    for law in ("COUNT-1", "LAYOUT-3"):
        assert (
            "cases were refused, as they may be: raised RuntimeError: labels must be contiguous" in results[law].message
        )


def test_a_loss_that_does_not_ask_about_compiling_is_not_compiled() -> None:
    told = heard("by_hand", "hf.causal_lm", {"STATE-4"})["STATE-4"].message
    assert told.startswith("it costs seconds: asked by --profile ci and deep")


@pytest.mark.parametrize("backends", [(), ("eager",), ("eager", "inductor")])
def test_a_loss_is_compiled_by_the_backends_that_the_run_asks_for(
    backends: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def send(trial: Trial, call: Call, recipe: Recipe | None = None) -> Outcome:
        called.append(call.backend)
        return Raised("RuntimeError", "it cannot be compiled", "", "call")

    [job] = jobs_of([Candidate("by_hand", f"{CANDIDATES}:by_hand", "hf.causal_lm", dtypes=("float32",))])
    loaded = LoadedCandidate(job, Options())
    try:
        trial = loaded.trial()
        assert isinstance(trial, Trial)
        monkeypatch.setattr(Trial, "send", send)
        trial.compiles = lambda backend: backend in backends
        assert isinstance(LAWS["STATE-4"].check, OnVariants)
        LAWS["STATE-4"].check(trial, Recipe(rows=2, length=5, classes=7))
    finally:
        loaded.close()
    assert tuple(called) == backends


def test_deep_compiles_with_inductor_and_quick_not_at_all() -> None:
    assert PROFILES["quick"].compiled_by == ()
    assert PROFILES["ci"].compiled_by == ("eager",)
    assert PROFILES["deep"].compiled_by == ("eager", "inductor")
