"""length-mismatch is a matter of sizes on several cases, and never of an exception's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import resolve
from shiftproof.harness.candidates.loss import Observation, Problem, Trial
from shiftproof.harness.cases.build import build_case
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.diagnosis.evidence import Evidence, gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.diagnosis.name_by_lengths import name_by_lengths
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import Job, LoadedCandidate, Options
from shiftproof.harness.judge.profile import PROFILES as HOW_MUCH
from shiftproof.harness.laws import LAWS
from shiftproof.harness.probe.read import predict
from shiftproof.harness.results import LawResult, Level, Verdict
from shiftproof.reference.profiles import PROFILES

ROOT = Path(__file__).parents[3]
CANDIDATES = ROOT / "tests" / "candidates"
HIGGS = ROOT / "examples" / "higgs_audio" / "text_loss.py"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trial_of(target: str, spec: str = "hf.causal_lm", gradient: bool = True) -> Trial:
    loaded = LoadedCandidate(Job("x", resolve(target, {}), "cpu", ("float32",)), Options(in_process=True))
    loaded.start()
    if not gradient:
        loaded.without_gradient()
    return loaded.of_loss(PROFILES[spec])


def named(trial: Trial) -> list[tuple[str, str]]:
    """The names, with their details, where CONTRACT-1 is asked and answers are gathered."""
    laws = (ask(LAWS["CONTRACT-1"], trial, HOW_MUCH["brief"], 0),)
    trial.failed.update(law.id for law in laws if law.verdict.is_failure)
    return [(bug.mutant, bug.detail) for bug in name_bugs(laws, trial, *gather(trial))]


@pytest.mark.parametrize(
    ("function", "logits", "labels"),
    [
        ("labels_cut", 0, 1),
        ("logits_cut", 1, 0),
        ("labels_cut_twice", 1, 2),
        ("row_by_row", 0, 1),
        ("class_axis_second", 0, 1),
    ],
)
def test_one_cut_that_explains_every_case_is_named(function: str, logits: int, labels: int) -> None:
    trial = trial_of(f"{CANDIDATES}/lengths.py:{function}")
    [(name, detail)] = named(trial)
    longest = max(each.case.recipe.length for each in gather(trial)[1])
    assert name == "length-mismatch"
    assert detail == f"{longest - logits} logits per row against {longest - labels} labels"


@pytest.mark.parametrize("function", ["before_fix", "published_fix"])
def test_labels_that_are_one_short_already(function: str) -> None:
    [(name, _)] = named(trial_of(f"{HIGGS}:{function}", "higgs.text"))
    assert name == "length-mismatch"


def test_a_loss_without_a_gradient_is_named_too() -> None:
    [(name, _)] = named(trial_of(f"{CANDIDATES}/lengths.py:labels_cut", gradient=False))
    assert name == "length-mismatch"


@pytest.mark.parametrize(
    "function",
    [
        "quotes_one_case",
        "quotes_equal_sizes",
        "quotes_no_sizes",
        "adds_labels",
        "multiplies",
        "reshapes",
        "Head",
        "drops_a_row",
        "shifts_flat",
        "flattens_classes",
        "drops_ignored_labels",
        "only_where_long",
        "only_where_some_are_ignored",
        "another_error_first",
    ],
)
@pytest.mark.parametrize("gradient", [True, False])
def test_other_mistakes_with_such_words_are_not(function: str, gradient: bool) -> None:
    trial = trial_of(f"{CANDIDATES}/lengths.py:{function}", gradient=gradient)
    assert "length-mismatch" not in [name for name, _ in named(trial)]


SPEC = PROFILES["higgs.text"]


def raised(rows: int, length: int, logits: int, labels: int) -> Observation:
    """What torch says of a case with labels of this length, where these sizes met."""
    words = f"raised ValueError: Expected input batch_size ({logits}) to match target batch_size ({labels})."
    case = build_case(SPEC, Recipe(rows=rows, length=length, classes=3, extra=1))
    return Observation(case, Problem(Verdict.ERROR, "raised ValueError", words))


@pytest.fixture
def trial() -> Trial:
    return trial_of(f"{HIGGS}:before_fix", "higgs.text")


def test_the_largest_case_is_told(trial: Trial) -> None:
    silent = [raised(2, 167, 336, 334), raised(3, 4, 15, 12)]
    (bug,) = name_by_lengths([], trial, [], silent)
    assert (bug.mutant, bug.detail) == ("length-mismatch", "168 logits per row against 167 labels")


@pytest.mark.parametrize(
    "silent",
    [
        [raised(2, 167, 336, 334)],
        [raised(2, 167, 336, 334), raised(2, 167, 336, 334)],
        [raised(2, 167, 336, 334), raised(3, 4, 16, 12)],
        [raised(2, 167, 336, 334), raised(3, 4, 12, 9)],
        [raised(2, 167, 336, 334), raised(3, 4, 12, 12)],
    ],
    ids=["one case", "one size", "another size", "another cut", "equal sizes"],
)
def test_sizes_that_are_not_those_of_one_cut_name_nothing(silent: list[Observation], trial: Trial) -> None:
    assert name_by_lengths([], trial, [], silent) == ()


def test_an_answer_where_the_sizes_would_not_fit_takes_the_name_away(trial: Trial) -> None:
    silent = [raised(2, 167, 336, 334), raised(3, 4, 15, 12)]
    case = build_case(SPEC, Recipe(rows=1, length=5, classes=3, extra=1))
    assert name_by_lengths([], trial, [Evidence(case, predict(case.pairing))], silent) == ()
    assert name_by_lengths([], trial, [], [*silent, Observation(case, None, 1.0)]) == ()


def test_it_is_not_named_against_a_law_that_holds(trial: Trial) -> None:
    silent = [raised(2, 167, 336, 334), raised(3, 4, 15, 12)]
    holds = LawResult("CONTRACT-1", "t", Level.MUST, Verdict.PASS, cases=3)
    fails = LawResult("CONTRACT-1", "t", Level.MUST, Verdict.ERROR, cases=3, message="…")
    assert name_by_lengths([holds], trial, [], silent) == ()
    assert name_by_lengths([fails], trial, [], silent)
