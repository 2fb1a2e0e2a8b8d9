"""A label builder on trial: what it is given, what is read of what it returns, and how that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shiftproof.harness.candidates.arguments import Binding, UnknownArgument, bind
from shiftproof.harness.candidates.declaration import Candidate, UsageError
from shiftproof.harness.judge.loading import Job, LoadedCandidate, Options, find_spec, jobs_of
from shiftproof.harness.judge.replay import replay
from shiftproof.harness.judge.store import Stored, load
from shiftproof.harness.label_builders.arguments import BUILDER_ARGUMENTS, TO_BUILDERS, offer_under
from shiftproof.harness.label_builders.candidate import BuilderTrial
from shiftproof.harness.label_builders.cases import BuilderRecipe, build_builder_case, hand_made, random_recipes, space
from shiftproof.harness.label_builders.picture import draw
from shiftproof.harness.results import CandidateResult, Comparison, Overall, Verdict, merge
from shiftproof.harness.worker.exchange import Call, Outcome, Raised, Returned
from shiftproof.reference.builders import BUILDERS
from shiftproof.reference.profiles import PROFILES

RECIPE = BuilderRecipe(rows=2, length=3, codebooks=2)
ARGUMENTS = ("audio_codes", "delays", "eos_token_id", "ignore_index")
REQUIRED = True

OWN = """
import torch

def boson(audio_codes, delays, eos_token_id, ignore_index=-100):
    rows, books, frames = audio_codes.shape
    labels = torch.full((rows, books, frames + 2 + max(delays)), ignore_index)
    for book, delay in enumerate(delays):
        labels[:, book, delay + 1 : delay + 1 + frames] = audio_codes[:, book]
        labels[:, book, delay + 1 + frames] = eos_token_id
    return labels

def in_a_dict(audio_codes, delays, eos_token_id):
    return {"codes": None, "labels": boson(audio_codes, delays, eos_token_id)}

def writes_to_its_delays(audio_codes, delays, eos_token_id):
    built = boson(audio_codes, delays, eos_token_id)
    delays[0] = torch.ones(2)
    return built

def kind_of_delays(audio_codes, delays):
    return torch.tensor([type(delays) is list, all(type(delay) is int for delay in delays)]).long()

def misspelt(audio_code, delays): ...

def loss(logits, labels): ...
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")


class Scripted:
    """A candidate that answers with what it is told to, and notes its calls."""

    seconds_in_candidate = 0.0

    def __init__(self, answer: Callable[[Call], Outcome]) -> None:
        self.answer = answer
        self.calls: list[Call] = []

    def call(self, call: Call) -> Outcome:
        self.calls.append(call)
        return self.answer(call)


def returned(value: Tensor, *mutated: str) -> Returned:
    return Returned(value, "tensor", requires_grad=False, gradients={}, mutated=mutated, seconds=0.0)


def trial_of(caller: Scripted, names: dict[str, str], spec: str = "delay.labels.boson") -> BuilderTrial:
    binding = Binding(names, frozenset(names))
    return BuilderTrial(Candidate("mine", "m:f", spec), BUILDERS[spec], binding, caller, device="cpu")


def test_a_builder_is_given_what_it_asks_for_under_its_own_names() -> None:
    caller = Scripted(lambda call: returned(torch.zeros(1)))
    trial = trial_of(caller, {"audio_codes": "codes", "delays": "delays", "eos_token_id": "end"})
    built = trial.observe_cached(RECIPE)
    (call,) = caller.calls
    assert set(call.tensors) == {"codes"}
    assert call.tensors["codes"].equal(torch.arange(12).reshape(2, 2, 3))
    assert dict(call.scalars) == {"delays": [0, 1], "end": 1025}
    assert (call.gradients, dict(call.layouts)) == ((), {})
    assert built.case.expected.equal(build_builder_case(trial.spec, RECIPE).expected)


def test_a_recipe_is_asked_once_and_a_case_each_time() -> None:
    caller = Scripted(lambda call: returned(torch.zeros(1)))
    trial = trial_of(caller, {"audio_codes": "audio_codes"})
    assert trial.observe_cached(RECIPE) is trial.observe_cached(RECIPE)
    assert len(caller.calls) == trial.calls == 1
    trial.observe(trial.case(RECIPE))
    assert len(caller.calls) == trial.calls == 2


def test_what_came_back_is_kept_as_it_is() -> None:
    value = torch.tensor([[1, 2]], dtype=torch.int16)
    built = trial_of(Scripted(lambda call: returned(value, "codes")), {"audio_codes": "codes"}).observe_cached(RECIPE)
    assert built.problem is None
    assert built.returned is value
    assert built.mutated == ("audio_codes",)


def test_no_answer_is_a_problem() -> None:
    trial = trial_of(Scripted(lambda call: Raised("ValueError", "no", "", "call")), {"audio_codes": "audio_codes"})
    built = trial.observe_cached(RECIPE)
    assert built.returned is None
    assert built.problem is not None
    assert (built.problem.verdict, built.problem.kind) == (Verdict.ERROR, "raised ValueError")


def test_only_what_a_builder_asks_for_is_varied() -> None:
    caller = Scripted(lambda call: returned(torch.zeros(1)))
    assert len(trial_of(caller, {"audio_codes": "a", "delays": "d"}).space["pattern"]) > 1
    assert len(trial_of(caller, {"audio_codes": "a"}).space["pattern"]) == 1


# --- in a worker, and in this process ---------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["worker", "in-process"])
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[[str], BuilderTrial]]:
    hearings: list[LoadedCandidate] = []

    def opened(function: str) -> BuilderTrial:
        (job,) = jobs_of([Candidate("mine", f"own.py:{function}", "delay.labels.boson")])
        hearings.append(LoadedCandidate(job, Options(in_process=request.param)))
        hearings[-1].start()
        trial = hearings[-1].trial()
        assert isinstance(trial, BuilderTrial)
        return trial

    yield opened
    for loaded in hearings:
        loaded.close()


def test_labels_travel(opened: Callable[[str], BuilderTrial]) -> None:
    for function in ("boson", "in_a_dict"):
        built = opened(function).observe_cached(RECIPE)
        assert built.returned is not None
        assert built.returned.equal(built.case.expected)
        assert built.mutated == ()


def test_delays_are_a_list_of_ints(opened: Callable[[str], BuilderTrial]) -> None:
    built = opened("kind_of_delays").observe_cached(RECIPE)
    assert built.returned is not None
    assert built.returned.tolist() == [1, 1]


def test_a_list_that_is_written_to_is_seen_and_not_ours(opened: Callable[[str], BuilderTrial]) -> None:
    trial = opened("writes_to_its_delays")
    assert trial.observe_cached(RECIPE).mutated == ("delays",)
    assert trial.case(RECIPE).batch.delays == (0, 1)


# --- arguments and specs ----------------------------------------------------------------------------------------------


def test_every_spec_offers_what_its_own_builder_reads() -> None:
    for spec in BUILDERS.values():
        offer = offer_under(spec)
        assert set(spec.inputs) <= set(offer.names) <= set(BUILDER_ARGUMENTS)
        assert offer.shown
        assert set(offer.shown) <= set(offer.telling)
    assert "audio_codes" not in offer_under(BUILDERS["delay.undo"]).names


@pytest.mark.parametrize(
    ("parameters", "rename", "words"),
    [
        (["audio_code"], {}, r"requires 'audio_code', which a builder under delay.apply is not given .*'audio_codes'"),
        (["delayed_codes"], {}, "which a builder under delay.apply is not given"),
        (["delays"], {}, "takes no audio_codes .its parameters: delays.; write a function of audio_codes"),
        (
            ["codes"],
            {"audio_code": "codes"},
            "a builder under delay.apply gets no such argument .did you mean 'audio_codes'",
        ),
    ],
)
def test_what_a_spec_has_not_is_told(parameters: list[str], rename: dict[str, str], words: str) -> None:
    with pytest.raises(UnknownArgument, match=words):
        bind("m:f", [(name, REQUIRED) for name in parameters], rename, offer=offer_under(BUILDERS["delay.apply"]))


def test_builders_know_no_logits() -> None:
    with pytest.raises(UnknownArgument, match="'logits', which a builder is not given"):
        bind("m:f", [("logits", REQUIRED)], {}, offer=TO_BUILDERS)


def test_every_builder_spec_is_found_and_misspellings_are_told() -> None:
    assert all(find_spec(name) is spec for name, spec in {**PROFILES, **BUILDERS}.items())
    with pytest.raises(UsageError, match=r"'delay.label.boson' \(did you mean 'delay.labels.boson'\?\)"):
        find_spec("delay.label.boson")


def test_a_builder_is_judged_once_whatever_the_dtypes() -> None:
    (job,) = jobs_of([Candidate("mine", "m:f", "shift.pad", dtypes=("float32", "bfloat16"))])
    assert (job.name, job.dtypes, job.spec) == ("mine", ("int64",), BUILDERS["shift.pad"])
    losses = jobs_of([Candidate("mine", "m:f", "sum", dtypes=("float32", "bfloat16"))])
    assert losses[0] == Job("mine[float32]", losses[0].candidate, "cpu", ("float32",))


@pytest.mark.parametrize(
    ("function", "spec", "builds"),
    [("boson", None, True), ("boson", "delay.apply", True), ("loss", None, False), ("misspelt", None, False)],
)
def test_a_builder_is_told_from_a_loss(function: str, spec: str | None, builds: bool) -> None:
    loaded = LoadedCandidate(jobs_of([Candidate("mine", f"own.py:{function}", spec)])[0], Options(in_process=True))
    loaded.start()
    assert loaded.builds is builds
    loaded.close()


# --- stored and asked again -------------------------------------------------------------------------------------------


def test_a_stored_case_comes_back_and_can_be_replayed() -> None:
    case = Stored(
        candidate=Candidate("mine", "own.py:boson", "delay.labels.boson", dtypes=("int64",)),
        spec="delay.labels.boson",
        device="cpu",
        law="BUILD-3",
        features=("another id",),
        message="",
        recipe=RECIPE,
    )
    assert load(case.save()) == case
    assert replay(case, Options(in_process=True)).outcome == "FIXED"
    Path("own.py").write_text(OWN.replace("delay + 1 :", "delay :"), encoding="utf-8")
    assert replay(case, Options(in_process=True)).outcome != "FIXED"
    with pytest.raises(UsageError, match=r"no law is called 'ALIGN-1'"):
        replay(Stored(**{**vars(case), "law": "ALIGN-1"}), Options(in_process=True))


# --- drawn ------------------------------------------------------------------------------------------------------------


def test_expected_and_found_are_drawn_side_by_side() -> None:
    case = build_builder_case(BUILDERS["delay.labels.boson"], BuilderRecipe(rows=1, length=2, codebooks=2))
    found = case.expected.clone()
    found[0, 1, 0], found[0, 1, -1] = 1024, 7
    drawn = draw(case, found)
    assert drawn is not None
    assert drawn.drawing.splitlines() == [
        "row 0 codebook 0  right    · 0 1 E ·",
        "row 0 codebook 1  expected · · 2 3 E",
        "                  found    B · 2 3 7",
        "                           ×       ×",
        "× another   · ignored   B BOS   E EOS",
    ]
    assert drawn.expected == case.expected[0].tolist()
    assert drawn.found == found[0].tolist()


def test_rows_of_unequal_length_or_number_are_drawn_too() -> None:
    case = build_builder_case(BUILDERS["delay.apply"], BuilderRecipe(rows=1, length=2, codebooks=2))
    short, swapped = draw(case, case.expected[..., :-1]), draw(case, case.expected.transpose(1, 2))
    assert short is not None
    assert "found    0 1\n                               ×" in short.drawing
    assert swapped is not None
    assert (len(swapped.expected), len(swapped.found)) == (2, 3)
    assert draw(case, case.expected[0]) is None


@pytest.mark.parametrize("spec", BUILDERS)
def test_every_spec_can_be_drawn(spec: str) -> None:
    choices = space(BUILDERS[spec])
    for recipe in [*hand_made(choices), next(random_recipes(choices, 0))]:
        case = build_builder_case(BUILDERS[spec], recipe)
        drawn = draw(case, case.expected + 1)
        assert drawn is not None
        assert all(len(line) <= 114 for line in drawn.drawing.splitlines())
        assert len(drawn.drawing.splitlines()) <= 22
        assert (drawn.recipe, drawn.of) == (recipe.to_json(), spec)


def test_of_a_large_case_the_part_around_the_first_wrong_place_is_drawn() -> None:
    case = build_builder_case(BUILDERS["delay.labels.boson"], BuilderRecipe(rows=3, length=900, codebooks=9))
    found = case.expected.clone()
    found[1, 4, 500:] = 7
    drawn = draw(case, found)
    assert drawn is not None
    above, right, wrong, marks, *rest = drawn.drawing.splitlines()
    assert above == "… 13 rows above, which are right"
    assert right.startswith("row 1 codebook 4  expected …")
    assert wrong.split()[:2] == ["found", "…"]
    assert wrong.split()[4] == "7"
    assert marks.split()[0] == "×"
    assert rest[-2].startswith("row 2 codebook 8  right    … ")
    assert len(drawn.drawing.splitlines()) <= 22
    assert max(map(len, drawn.drawing.splitlines())) <= 114


def test_a_result_with_a_comparison_survives_json_and_merging() -> None:
    drawn = Comparison(RECIPE.to_json(), "shift.pad", [[1]], [[2]], "…")
    one = CandidateResult("mine", "m:f", "shift.pad", "cpu", ("int64",), Overall.FAILS, built=drawn)
    other = CandidateResult("mine", "m:f", "shift.pad", "cpu", ("int64",), Overall.FAILS)
    assert CandidateResult.from_json(one.to_json()) == one
    assert CandidateResult.from_json(other.to_json()) == other
    assert merge(other, one).built == drawn
