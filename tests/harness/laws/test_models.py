"""Models, judged against the logits that they make: right ones conform, wrong ones fail under their name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate, UsageError
from shiftproof.harness.candidates.model import ModelTrial
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.diagnosis.evidence import gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import LawResult, Overall, Verdict, overall
from shiftproof.reference.profiles import PROFILES

CANDIDATES = Path(__file__).parents[2] / "candidates" / "models.py"
BRIEF = Profile("brief", 0.06)


@contextmanager
def trial_of(name: str, spec: str, **fields: object) -> Iterator[ModelTrial]:
    candidate = Candidate(name, f"{CANDIDATES}:{name}", spec, **fields)  # type: ignore[arg-type]
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        trial = loaded.of_loss(PROFILES[spec])
        assert isinstance(trial, ModelTrial)
        yield trial
    finally:
        loaded.close()


def heard(name: str, spec: str) -> tuple[tuple[LawResult, ...], set[str]]:
    with trial_of(name, spec) as trial:
        results = tuple(ask(law, trial, BRIEF, seed=0) for law in LAWS.values())
        bugs = name_bugs(results, trial, *gather(trial)) if trial.failed else ()
    return results, {called for bug in bugs for called in (bug.mutant, *bug.also)}


def failed(results: tuple[LawResult, ...]) -> set[str]:
    return {result.id for result in results if result.verdict.is_failure}


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("Right", "hf.causal_lm"),
        ("NeverCounts", "hf.causal_lm"),
        ("Drops", "hf.causal_lm"),
        ("as_function", "hf.causal_lm"),
        ("RIGHT", "hf.causal_lm"),
        ("Prefixed", "hf.prefix_lm"),
        ("Right", "hf.prefix_lm"),
        ("Seq2Seq", "hf.seq2seq"),
        ("Copies", "hf.causal_lm"),
        ("LossAloneInTraining", "hf.causal_lm"),
    ],
)
def test_a_right_model_conforms(name: str, spec: str) -> None:
    results, _ = heard(name, spec)
    assert failed(results) == set()
    assert overall(results) is Overall.CONFORMS


@pytest.mark.parametrize(
    ("name", "spec", "law", "called"),
    [
        ("DoubleShift", "hf.causal_lm", "ALIGN-1", "double-shift"),
        ("FlatDoubleShift", "hf.causal_lm", "ALIGN-1", "flat-double-shift"),
        ("Unshifted", "hf.causal_lm", "ALIGN-1", "no-shift"),
        ("CopiesDoubleShift", "hf.causal_lm", "ALIGN-1", "double-shift"),
        ("Uncounted", "hf.causal_lm", "REDUCE-1", "count-ignored"),
        ("AlignedShift", "hf.seq2seq", "ALIGN-1", "aligned-shift"),
        ("SeesAhead", "hf.causal_lm", "MODEL-1", "sees-its-target"),
        ("SeesOtherRows", "hf.causal_lm", "MODEL-2", "sees-other-rows"),
        ("LabelsInLogits", "hf.causal_lm", "MODEL-3", ""),
        ("Overwrites", "hf.causal_lm", "PURE-1", "inputs-mutated"),
        ("DoubleShiftInTraining", "hf.causal_lm", "STATE-5", "double-shift"),
        ("LossAloneDoubleShift", "hf.causal_lm", "STATE-5", ""),
        ("LossAloneHalfGradient", "hf.causal_lm", "STATE-5", ""),
        ("UnshiftedUnderAutocast", "hf.causal_lm", "STATE-3", "no-shift"),
        ("KeepsOneLogits", "hf.causal_lm", "STATE-1", "shared-workspace"),
        ("ExcludesByBoolMask", "hf.causal_lm", "MODEL-7", ""),
        ("MasksOneLate", "hf.causal_lm", "MODEL-7", ""),
        ("Raises", "hf.causal_lm", "CONTRACT-1", ""),
        ("WithoutLogits", "hf.causal_lm", "CONTRACT-1", ""),
    ],
)
def test_a_wrong_model_fails_by_its_name(name: str, spec: str, law: str, called: str) -> None:
    results, names = heard(name, spec)
    assert law in failed(results)
    assert not called or called in names


def test_what_a_law_would_have_to_choose_logits_for_is_not_asked() -> None:
    results, _ = heard("Right", "hf.causal_lm")
    told = {result.id: result.message for result in results if result.verdict is Verdict.SKIP}
    assert told["STABLE-1"] == "it is a model, whose logits cannot be chosen"
    assert told["MODEL-4"] == "it does not take shift_labels"


def test_every_recipe_is_cut_to_the_model() -> None:
    with trial_of("Prefixed", "hf.prefix_lm") as trial:
        fitted = trial.fit(Recipe(rows=90, length=400, classes=7, dtype="bfloat16"))
        assert (fitted.rows, fitted.length, fitted.classes, fitted.extra) == (4, 12, 61, 3)
        assert trial.fit(fitted) == fitted
        seen = trial.observe_cached(Recipe(rows=2, length=5))
        assert seen.case.batch.tensor("logits").shape == (2, 8, 61)


def test_logits_before_those_of_the_labels_need_a_spec_that_has_them() -> None:
    told = r"3 more rows of logits than there are labels.*hf\.prefix_lm"
    with pytest.raises(UsageError, match=told), trial_of("Prefixed", "hf.causal_lm"):
        pass


def test_a_spec_that_no_model_has_is_refused() -> None:
    for spec in ("higgs.hf", "torch.cross_entropy", "nanogpt"):
        told = "is a model that makes its logits from input_ids"
        with pytest.raises(UsageError, match=told), trial_of("Right", spec):
            pass


def test_a_model_is_judged_in_its_own_dtype() -> None:
    with trial_of("Right", "hf.causal_lm") as trial:
        assert trial.dtypes == ("float32",)
    told = "drop --dtype bfloat16"
    with pytest.raises(UsageError, match=told), trial_of("Right", "hf.causal_lm", dtypes=("bfloat16",)):
        pass
