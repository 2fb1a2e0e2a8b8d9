"""Every law on builders has a builder that breaks it, every spec a right one that passes, and every bug its name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.candidates.arguments import Binding
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.laws_of import laws_of
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import PROFILES, Profile
from shiftproof.harness.label_builders.candidate import BuilderTrial
from shiftproof.harness.label_builders.diagnosis import name_builder_bugs
from shiftproof.harness.label_builders.laws import BUILDER_LAWS
from shiftproof.harness.label_builders.mutants import BUILDER_MUTANTS, BuilderMutant, mutants_of
from shiftproof.harness.laws import LAWS
from shiftproof.harness.mutants.symptoms import SYMPTOMS
from shiftproof.harness.results import LawResult, Overall, Verdict, overall
from shiftproof.harness.worker.exchange import Call, Outcome, Returned
from shiftproof.reference.builders import BUILDERS, BuilderBatch, BuilderSpec
from shiftproof.reference.profiles import PROFILES as SPECS

CANDIDATES = Path(__file__).parents[2] / "candidates" / "builders.py"
QUICK, BRIEFLY = PROFILES["quick"], Profile("briefly", 0.3)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # stored cases go to the working directory


def judged(function: str, spec: str, profile: Profile = QUICK) -> tuple[dict[str, LawResult], tuple[str, ...]]:
    """What all laws say of a builder, and the names of its bug."""
    loaded = LoadedCandidate(
        jobs_of([Candidate(function, f"{CANDIDATES}:{function}", spec)])[0], Options(in_process=True)
    )
    try:
        loaded.start()
        trial = loaded.trial()
        assert isinstance(trial, BuilderTrial)
        results = [ask(law, trial, profile, 0) for law in laws_of(trial.spec).values()]
        bugs = name_builder_bugs(results, trial)
        return {result.id: result for result in results}, tuple(
            name for bug in bugs for name in (bug.mutant, *bug.also)
        )
    finally:
        loaded.close()


@pytest.mark.representatives(4)
@pytest.mark.parametrize("spec", BUILDERS)
def test_a_right_builder_conforms(spec: str) -> None:
    results, bugs = judged(spec.replace(".", "_"), spec)
    assert overall(tuple(results.values())) is Overall.CONFORMS, results
    assert {result.verdict for result in results.values()} <= {Verdict.PASS, Verdict.SKIP}
    assert bugs == ()


@dataclass(frozen=True)
class Breaks:
    """A builder that breaks a law. ``alone``: no other law fails."""

    function: str
    law: str
    spec: str = "shift.pad"
    verdict: Verdict = Verdict.FAIL
    alone: bool = True


BREAKERS = [
    Breaks("returns_floats", "BUILD-1", verdict=Verdict.ERROR),
    Breaks("returns_booleans", "BUILD-1", verdict=Verdict.ERROR),
    Breaks("returns_number", "BUILD-1", verdict=Verdict.ERROR),
    Breaks("returns_nothing", "BUILD-1", verdict=Verdict.ERROR),
    Breaks("raises", "BUILD-1", verdict=Verdict.ERROR),
    Breaks("loses_an_axis", "BUILD-2"),
    Breaks("drops_a_row", "BUILD-2"),
    Breaks("delay_truncated", "BUILD-2", "delay.apply", alone=False),
    Breaks("double_shift", "BUILD-3"),
    Breaks("fill_trained", "BUILD-3", "delay.labels.boson"),
    Breaks("ids_overwritten", "BUILD-4", "mask.padding"),
    Breaks("forgets_a_delay", "BUILD-4", "delay.apply"),
    Breaks("alternates", "BUILD-5", alone=False),
    Breaks("rolls_dice", "BUILD-5", alone=False),
    Breaks("flatten_then_shift", "BUILD-6", alone=False),
    Breaks("prompt_of_row_0", "BUILD-6", "mask.prompt", alone=False),
    Breaks("undo_cut", "BUILD-7", "delay.undo", alone=False),
]


def test_every_law_has_a_builder_that_breaks_it() -> None:
    assert {breaks.law for breaks in BREAKERS} == set(BUILDER_LAWS)


@pytest.mark.parametrize("breaks", BREAKERS, ids=lambda breaks: f"{breaks.law}-{breaks.function}")
def test_a_law_catches_what_breaks_it(breaks: Breaks) -> None:
    results, _ = judged(breaks.function, breaks.spec)
    found = results[breaks.law]
    assert found.verdict is breaks.verdict, found
    assert found.message
    if found.follows is None:
        assert found.counterexample is not None
        assert Path(f".shiftproof/replays/{found.counterexample.replay}.json").is_file()
    failing = {id for id, result in results.items() if result.verdict.is_failure}
    assert failing == {breaks.law} if breaks.alone else breaks.law in failing


def test_nothing_is_asked_of_a_builder_that_gives_no_integers() -> None:
    results, _ = judged("returns_floats", "shift.pad")
    assert results["BUILD-1"].message.startswith("returned float32 [1, 1]; expected integers")
    assert {result.verdict for id, result in results.items() if id != "BUILD-1"} == {Verdict.SKIP}


@pytest.mark.parametrize(
    ("function", "spec", "law", "recipe", "message"),
    [
        ("double_shift", "shift.pad", "BUILD-3", {"rows": 1, "length": 3}, "places are wrong: [0, 0] is "),
        ("flatten_then_shift", "shift.pad", "BUILD-3", {"rows": 2}, "expected ignored (-100)"),
        ("fill_trained", "delay.labels.boson", "BUILD-3", {"rows": 1, "codebooks": 2, "length": 1}, "is BOS (1024)"),
        ("layout_swap", "delay.apply", "BUILD-2", {"rows": 1}, "expected [B K F] = "),
        ("cross_document", "packing.labels", "BUILD-3", {"length": 1}, "is 0, expected ignored (-100)"),
        ("eos_masked", "mask.padding", "BUILD-3", {"rows": 1, "eos_is_pad": True}, "is ignored (-100), expected EOS"),
    ],
)
def test_counterexamples_are_small_and_say_what_is_wrong(
    function: str, spec: str, law: str, recipe: dict[str, Any], message: str
) -> None:
    found = judged(function, spec)[0][law]
    assert message in found.message
    assert found.counterexample is not None
    assert {name: found.counterexample.recipe.get(name) for name in recipe} == recipe
    assert found.counterexample.recipe["length"] <= 4


NAMED = {
    "fill_trained": "delay.labels.boson",
    "delay_truncated": "delay.apply",
    "delay_off_by_one": "delay.labels.boson",
    "undo_cut": "delay.undo",
    "layout_swap": "delay.apply",
    "double_shift": "shift.pad",
    "flatten_then_shift": "shift.pad",
    "drop_first_response": "shift.masked",
    "cross_document": "packing.labels",
    "positions_not_restarted": "packing.position_ids",
    "eos_masked": "mask.padding",
    "prompt_of_row_0": "mask.prompt",
    "drop_last_response": "mask.turns",
    "ids_overwritten": "mask.padding",
}


@pytest.mark.parametrize(("function", "spec"), NAMED.items())
def test_a_bug_gets_its_name(function: str, spec: str) -> None:
    results, bugs = judged(function, spec)
    assert overall(tuple(results.values())) is Overall.FAILS
    assert bugs[:1] == (function.replace("_", "-"),)


@pytest.mark.parametrize("function", ["loses_an_axis", "rolls_dice", "raises", "scales_by_row"])
def test_what_is_no_known_bug_gets_no_name(function: str) -> None:
    assert judged(function, "shift.pad")[1] == ()


class Mutated:
    """A candidate that is a mutant: it takes all arguments that its spec's batches have."""

    seconds_in_candidate = 0.0

    def __init__(self, spec: BuilderSpec, mutant: BuilderMutant, detail: str) -> None:
        self.spec, self.mutant, self.detail = spec, mutant, detail

    def call(self, call: Call) -> Outcome:
        given: dict[str, Any] = {**call.tensors, **call.scalars}
        if given["delays"] is not None:
            given["delays"] = tuple(given["delays"])
        value = self.mutant.wrong(self.spec, BuilderBatch(**given), self.detail)
        return Returned(value, "tensor", requires_grad=False, gradients={}, mutated=(), seconds=0.0)


EACH = [
    pytest.param(BUILDERS[of], mutant, detail, id=f"{of}-{mutant.name}-{detail}")
    for mutant in BUILDER_MUTANTS.values()
    for of in mutant.of
    for detail in mutant.details
]


def of_mutant(spec: BuilderSpec, mutant: BuilderMutant, detail: str) -> BuilderTrial:
    names = [field.name for field in fields(BuilderBatch)]
    binding = Binding({name: name for name in names}, frozenset(names))
    return BuilderTrial(
        Candidate("mutant", "m:f", spec.name), spec, binding, Mutated(spec, mutant, detail), device="cpu"
    )


@pytest.mark.representatives(40)
@pytest.mark.parametrize(("spec", "mutant", "detail"), EACH)
def test_every_mutant_is_caught_and_named(spec: BuilderSpec, mutant: BuilderMutant, detail: str) -> None:
    trial = of_mutant(spec, mutant, detail)
    results = [ask(BUILDER_LAWS[id], trial, BRIEFLY, 0) for id in ("BUILD-1", "BUILD-2", "BUILD-3")]
    assert overall(tuple(results)) is Overall.FAILS
    (bug,) = name_builder_bugs(results, trial)
    assert mutant.name in (bug.mutant, *bug.also)


def test_few_mutants_cannot_be_told_from_others() -> None:
    pairs = set()
    for spec in BUILDERS.values():
        for mutant in mutants_of(spec):
            for detail in mutant.details:
                (bug,) = name_builder_bugs([], of_mutant(spec, mutant, detail))
                pairs |= {(spec.name, bug.mutant, other) for other in bug.also}
    assert pairs == {("delay.moshi", "delay-off-by-one", "no-delay")}  # its delays are 0 and 1


def test_titles_and_sources_are_there() -> None:
    assert not set(BUILDER_LAWS) & set(LAWS)
    for law in BUILDER_LAWS.values():
        assert law.title
        assert law.source
        assert set(law.depends_on) < set(BUILDER_LAWS)
        assert set(law.points_to) <= set(SYMPTOMS)


def test_a_spec_has_the_laws_of_its_kind() -> None:
    assert all(laws_of(spec) is BUILDER_LAWS for spec in BUILDERS.values())
    assert all(laws_of(spec) is LAWS for spec in SPECS.values())
    assert not set(BUILDERS) & set(SPECS)


def test_an_integer_of_any_width_will_do() -> None:
    assert judged("shift_pad", "shift.pad")[0]["BUILD-1"].verdict is Verdict.PASS  # it returns int32
