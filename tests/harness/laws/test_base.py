"""A law on a variant: what it is asked, and what its judgement says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from shiftproof.harness.candidates.arguments import bind
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.loss import Observation, Trial
from shiftproof.harness.candidates.variant import Variant
from shiftproof.harness.cases.recipe import Mask, Recipe
from shiftproof.harness.laws import LAWS
from shiftproof.harness.laws.base import PASS, Judgement, Laws, OnVariants, failing, on
from shiftproof.harness.results import Verdict
from shiftproof.harness.worker.exchange import Call, Outcome, Raised, Returned
from shiftproof.reference.profiles import PROFILES

RECIPE = Recipe(rows=2, length=4, classes=5, seed=1)
RETURNED = Returned(torch.tensor(1.5), "tensor", requires_grad=True, gradients={}, mutated=(), seconds=0.0)
RAISED = Raised(type="RuntimeError", message="no", traceback="", during="backward")


class Answering:
    """A caller that always gives the same answer."""

    seconds_in_candidate = 0.0

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.calls: list[Call] = []

    def call(self, call: Call, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
        self.calls.append(call)
        return self.outcome


def trial_of(outcome: Outcome) -> tuple[Trial, Answering]:
    caller = Answering(outcome)
    binding = bind("answering", [("logits", False), ("labels", False)], {})
    candidate = Candidate("answering", "m:f", spec="hf.causal_lm")
    return Trial(candidate, PROFILES["hf.causal_lm"], binding, caller, dtypes=("float32",), device="cpu"), caller


def passes(trial: Trial, observed: Observation) -> Judgement:
    return PASS


def fails(trial: Trial, observed: Observation) -> Judgement:
    return failing("off by 3", "value")


def test_a_case_without_pairs_is_not_called() -> None:
    trial, caller = trial_of(RETURNED)
    judgement = on(Variant("again"))(fails)(trial, replace(RECIPE, masks=(Mask.ALL,)))
    assert judgement.verdict is Verdict.SKIP
    assert not caller.calls


def test_a_change_that_leaves_no_pairs_is_not_judged() -> None:
    trial, _ = trial_of(RETURNED)
    none = Variant("none", change=lambda case: replace(case.batch, labels=torch.full_like(case.batch.labels, -100)))
    assert on(none)(fails)(trial, RECIPE).verdict is Verdict.SKIP


@pytest.mark.parametrize(("refusable", "verdict"), [(True, Verdict.PASS), (False, Verdict.ERROR)])
def test_an_exception_passes_only_where_the_variant_may_be_refused(refusable: bool, verdict: Verdict) -> None:
    trial, _ = trial_of(RAISED)
    assert on(Variant("may raise", refusable=refusable))(passes)(trial, RECIPE).verdict is verdict


def test_a_gradient_that_is_wanted_must_come() -> None:
    trial, _ = trial_of(RETURNED)
    judgement = on(Variant("again"), gradient=True)(passes)(trial, RECIPE)
    assert (judgement.verdict, judgement.message) == (Verdict.FAIL, "no gradient at the logits")


def test_a_failure_says_what_was_called() -> None:
    trial, _ = trial_of(RETURNED)
    judgement = on(Variant("twice", words=lambda case: f"twice on {case.recipe.length}"))(fails)(trial, RECIPE)
    assert judgement.message == "twice on 4: off by 3"
    assert judgement.features == {"value"}


def test_a_law_on_a_variant_keeps_to_its_budget() -> None:
    laws: Laws[Trial, Recipe] = Laws()
    made = laws.law("X-1", "x", source="here", budget=3)(on(Variant("again"))(passes))
    assert made.calls_again
    assert not laws.law("X-2", "x", source="here", budget=3)(lambda trial, recipe: PASS).calls_again


def test_no_two_variants_have_one_name() -> None:
    checks = [law.check for law in LAWS.values() if isinstance(law.check, OnVariants)]
    variants = [variant for check in checks for variant in check.variants]
    assert len(variants) > 10
    assert len({variant.name for variant in variants}) == len(set(variants))
