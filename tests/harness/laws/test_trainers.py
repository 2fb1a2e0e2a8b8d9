"""Trainers, judged by the gradient that their optimizers use: right ones conform, wrong ones fail under their name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.trainer import TrainerTrial
from shiftproof.harness.diagnosis.evidence import gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import LawResult, NamedBug, Overall, Verdict, overall
from shiftproof.reference.profiles import PROFILES

CANDIDATES = Path(__file__).parents[2] / "candidates" / "trainers.py"
BRIEF = Profile("brief", 0.3)
SMOOTHED = "hf.label_smoother"


@contextmanager
def trial_of(name: str, spec: str, **fields: object) -> Iterator[TrainerTrial]:
    candidate = Candidate(name, f"{CANDIDATES}:{name}", spec, **fields)  # type: ignore[arg-type]
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        trial = loaded.of_loss(PROFILES[spec])
        assert isinstance(trial, TrainerTrial)
        yield trial
    finally:
        loaded.close()


def heard(name: str, spec: str) -> tuple[dict[str, LawResult], tuple[NamedBug, ...]]:
    with trial_of(name, spec) as trial:
        results = {law.id: ask(law, trial, BRIEF, seed=0) for law in LAWS.values()}
        bugs = name_bugs(results.values(), trial, *gather(trial)) if trial.failed else ()
    return results, bugs


def failed(results: dict[str, LawResult]) -> set[str]:
    return {id for id, result in results.items() if result.verdict.is_failure}


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("right", "hf.causal_lm"),
        ("right", "torchtune"),
        ("right_aligned", "hf.seq2seq"),
        ("right_aligned", "preshifted"),
        ("right_from_logits", "hf.causal_lm"),
        ("right_from_logits", SMOOTHED),
        ("right_silent", "hf.causal_lm"),
        ("right_by_hand", "hf.causal_lm"),
        ("right_with_adam_on_the_model", "hf.causal_lm"),
        ("right_zeroes_first", "hf.causal_lm"),
        ("right_with_unscaled_gradients", "hf.causal_lm"),
        ("right_by_closure", "hf.causal_lm"),
        ("right_packed", "hf.causal_lm"),
        ("right_window_by_window", "hf.causal_lm"),
    ],
)
def test_a_right_trainer_conforms(name: str, spec: str) -> None:
    results, _ = heard(name, spec)
    assert failed(results) == set(), results
    assert overall(tuple(results.values())) is Overall.CONFORMS


@pytest.mark.parametrize(
    ("name", "spec", "law", "called"),
    [
        ("mean_of_means", "hf.causal_lm", "REDUCE-1", "mean-of-means"),
        ("sum_of_means", "hf.causal_lm", "REDUCE-1", "sum-of-means"),
        ("sum_of_means", "hf.seq2seq", "REDUCE-1", "sum-of-means"),
        ("sum_of_means_silent", "hf.causal_lm", "REDUCE-1", "sum-of-means"),
        ("overcount_rows", "hf.causal_lm", "REDUCE-1", "overcount-rows"),
        ("right", "hf.seq2seq", "REDUCE-1", "undercount-aligned"),
        ("double_divide", "hf.causal_lm", "REDUCE-1", "double-divide"),
        ("tail_accumulation", "hf.causal_lm", "TAIL-1", "tail-accumulation"),
        ("right_value_wrong_gradient", "hf.causal_lm", "GRAD-1", "gradient-of-another"),
    ],
)
def test_a_wrong_trainer_fails_under_its_name(name: str, spec: str, law: str, called: str) -> None:
    results, bugs = heard(name, spec)
    assert law in failed(results)
    assert [bug.mutant for bug in bugs] == [called]


def test_smoothing_that_does_not_shift_is_named() -> None:
    results, bugs = heard("smoothing_no_shift", SMOOTHED)
    assert "ALIGN-1" in failed(results)
    assert [(bug.mutant, bug.also) for bug in bugs] == [("no-shift", ("smoothing-no-shift",))]


@pytest.mark.parametrize(
    ("name", "law", "message"),
    [
        ("steps_at_every_one", "STEP-1", "stepped 4 times"),
        ("drops_the_tail", "STEP-1", "did not step in a short window"),
        ("keeps_its_gradients", "PURE-2", "called twice"),
        ("raises", "CONTRACT-1", "RuntimeError"),
        ("sometimes_silent", "CONTRACT-1", "return one always, or never"),
    ],
)
def test_a_law_says_what_is_wrong(name: str, law: str, message: str) -> None:
    results, _ = heard(name, "hf.causal_lm")
    assert results[law].verdict.is_failure
    assert message in results[law].message


@pytest.mark.parametrize(
    ("name", "law", "message"),
    [
        ("never_steps", "STEP-1", "call step() on an optimizer that holds model.parameters()"),
        ("steps_other_parameters", "STEP-1", "the optimizer that stepped holds other parameters"),
        ("steps_first", "STEP-1", "4 of 4 backward passes came after the step"),
        ("steps_before_the_last", "STEP-1", "1 of 4 backward passes came after the step"),
        ("steps_twice", "STEP-1", "stepped 2 times"),
        ("no_backward", "STEP-1", "no backward ran"),
        ("zeroes_before_its_step", "STEP-1", "cleared first"),
        ("skips_a_short_window", "STEP-1", "did not step in a short window"),
        ("learns_nothing", "STEP-2", "use a learning rate above 0"),
        ("warms_up_for_ever", "STEP-2", "a warm-up that begins at 0 must end by the second window"),
        ("climbs", "STEP-2", "does not move against its gradient"),
        ("only_decays", "STEP-2", "does not move against its gradient"),
        ("sees_the_first_four", "STEP-3", "a window of 5 micro-batches, no gradient reaches number 5"),
        ("sees_the_last", "STEP-3", "a window of 2 micro-batches, no gradient reaches number 1"),
        ("drops_the_remainder", "STEP-3", "a window of 1 micro-batch"),
        ("skips_one_alone", "STEP-3", "a window of 1 micro-batch"),
        ("pairs_them", "STEP-3", "a window of 1 micro-batch"),
        ("never_zeroes", "STEP-4", "call zero_grad() after each step"),
        ("zeroes_another", "STEP-4", "call zero_grad() after each step"),
        ("scaled", "STEP-5", "1024 times the right one; unscale a scaled loss"),
        ("clipped", "STEP-5", "its norm is 1, so it is clipped"),
        ("clipped_hard", "STEP-5", "its norm is 0.1, so it is clipped"),
        ("clipped_oddly", "STEP-5", "its norm is the same in another window, so it is clipped"),
        ("clipped_by_value", "STEP-5", "beyond ±0.05, so it is clipped by value"),
    ],
)
def test_a_wrong_step_fails_and_the_law_says_what_is_wrong(name: str, law: str, message: str) -> None:
    with trial_of(name, "hf.causal_lm") as trial:
        found = ask(LAWS[law], trial, BRIEF, seed=0)
    assert found.verdict is Verdict.FAIL
    assert message in found.message


def test_a_trainer_that_returns_no_loss_is_judged_by_its_gradient() -> None:
    results, _ = heard("right_silent", "hf.causal_lm")
    assert results["VALUE-1"].verdict is Verdict.SKIP
    assert "returns no loss" in results["VALUE-1"].message
    assert results["GRAD-1"].verdict is Verdict.PASS
