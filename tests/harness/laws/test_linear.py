"""Losses that multiply hidden states with a weight themselves: right ones conform, wrong ones fail under their name."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.diagnosis.evidence import gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import LawResult, Overall, Verdict, overall

CANDIDATES = Path(__file__).parents[2] / "candidates" / "fused.py"
BRIEF = Profile("brief", 0.2)
LEAVES = ("LINEAR-1", "LINEAR-2", "LINEAR-3", "LINEAR-4", "LINEAR-5")


def heard(
    function: str, dtype: str = "float32", allow: tuple[dict[str, str], ...] = (), precision: str | None = None
) -> tuple[list[LawResult], set[str]]:
    """What the laws say of a loss, each in a few cases, and what its bug is called."""
    candidate = Candidate(
        function, f"{CANDIDATES}:{function}", "hf.causal_lm", dtypes=(dtype,), allow=allow, precision=precision
    )
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        trial = loaded.of_loss(loaded.job.spec)  # type: ignore[arg-type]
        results = [ask(law, trial, BRIEF, seed=0) for law in LAWS.values()]
        bugs = name_bugs(results, trial, *gather(trial)) if trial.failed else ()
    finally:
        loaded.close()
    return results, {name for bug in bugs for name in (bug.mutant, *bug.also)}


def failed(results: list[LawResult]) -> set[str]:
    return {result.id for result in results if result.verdict.is_failure}


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        *((function, "float32") for function in ("materialised", "biased", "chunked", "gradients_in_the_forward")),
        ("chunked", "bfloat16"),
        ("gradients_in_the_forward", "bfloat16"),
    ],
)
def test_right_losses_conform(function: str, dtype: str) -> None:
    results, _ = heard(function, dtype)
    assert failed(results) == set()
    assert {result.id: result.verdict for result in results if result.id in LEAVES} == dict.fromkeys(
        LEAVES, Verdict.PASS
    )


def on_dense_factors(function: str, dtype: str, precision: str | None = None, seed: int = 0) -> LawResult:
    candidate = Candidate(function, f"{CANDIDATES}:{function}", "hf.causal_lm", dtypes=(dtype,), precision=precision)
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    law = LAWS["LINEAR-4"]
    try:
        trial = loaded.of_loss(loaded.job.spec)  # type: ignore[arg-type]
        return ask(law, trial, Profile("few", 0.5), seed=seed, among={law.id: law})
    finally:
        loaded.close()


@pytest.mark.parametrize(("dtype", "precision"), [("float32", None), ("bfloat16", None)])
@pytest.mark.parametrize("function", ["chunked", "rounds_the_gradient_of_its_logits"])
def test_sums_in_fp32_are_right_over_dense_factors(function: str, dtype: str, precision: str | None) -> None:
    found = on_dense_factors(function, dtype, precision)
    assert (found.verdict, found.cases, found.vacuous) == (Verdict.PASS, 2, 0), found.message


@pytest.mark.parametrize("function", ["materialised", "hidden_gradient_summed_in_bf16", "weight_rounded_to_8_bits"])
def test_a_product_or_a_sum_in_bf16_is_noticed(function: str) -> None:
    found = on_dense_factors(function, "bfloat16")
    assert found.verdict is Verdict.FAIL, found.message
    assert found.counterexample is not None
    assert found.counterexample.recipe["classes"] >= 8192  # fewer are not what this law is about
    assert found.counterexample.recipe["hidden_size"] % 32 == 0


def test_who_declares_to_round_its_logits_may() -> None:
    found = on_dense_factors("materialised", "bfloat16", "native")
    assert (found.verdict, found.message) == (Verdict.SKIP, "it is declared to round its logits to their dtype")
    assert on_dense_factors("materialised", "float32", "native").verdict is Verdict.PASS


@pytest.mark.representatives(2)
@pytest.mark.parametrize(
    ("function", "law", "named"),
    [
        ("double_shift", "ALIGN-1", "double-shift"),
        ("detached_last_hidden", "ALIGN-1", "detached-part"),
        ("detached_bias", "LINEAR-1", "detached-part"),
        ("upstream_ignored_weight", "LINEAR-2", "upstream-ignored-weight"),
        ("low_precision_accumulate", "LINEAR-3", "low-precision-accumulate"),
        ("low_precision_by_autograd", "LINEAR-3", "low-precision-accumulate"),
        ("mean_of_chunk_means", "REDUCE-1", ""),
        ("last_chunk_dropped", "ALIGN-1", ""),
        ("forgets_the_bias", "VALUE-1", ""),
        ("head_doubled", "LINEAR-1", "leaf-scaled"),
        ("hidden_doubled", "LINEAR-1", "leaf-scaled"),
    ],
)
def test_wrong_losses_fail_under_their_name(function: str, law: str, named: str) -> None:
    results, names = heard(function, "bfloat16" if function.startswith("low_precision") else "float32")
    assert law in failed(results)
    assert not named or named in names


@pytest.mark.slow
def test_what_is_wrong_at_the_weight_alone_fails_no_other_law() -> None:
    assert failed(heard("upstream_ignored_weight")[0]) <= {"LINEAR-2", "LINEAR-3", "GRAD-5"}
    assert failed(heard("low_precision_accumulate", "bfloat16")[0]) == {"LINEAR-3"}


def test_what_a_candidate_refuses_is_told_and_leaves_the_verdict_open() -> None:
    results, _ = heard("without_wide_classes")
    assert failed(results) == set()
    refused = {result.id: result for result in results if result.verdict is Verdict.REFUSED}
    assert {"CONTRACT-1", "ALIGN-1"} <= set(refused)
    assert all("more than 32768 classes" in result.message and result.refusals for result in refused.values())
    assert overall(tuple(results)) is Overall.INCONCLUSIVE


def test_what_it_is_declared_to_refuse_is_told_and_does_not() -> None:
    allow = ({"refuses": "32768 classes", "reason": "one block a row"},)
    results, _ = heard("without_wide_classes", allow=allow)
    told = {result.id for result in results if "one block a row" in result.message}
    assert {"CONTRACT-1", "ALIGN-1"} <= told
    assert all(result.verdict is Verdict.PASS for result in results if result.id in told)
    assert overall(tuple(results)) is Overall.CONFORMS


def test_a_candidate_that_refuses_everything_is_not_judged() -> None:
    results, _ = heard("without_anything")
    passed = {result.id for result in results if result.verdict is Verdict.PASS}
    assert passed == {"LAYOUT-1", "LABELS-1"}  # which say that it may refuse
    assert overall(tuple(results)) is Overall.INCONCLUSIVE
