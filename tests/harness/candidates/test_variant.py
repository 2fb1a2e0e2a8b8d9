"""A variant is called as it says, and has its own right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.harness.candidates.arguments import bind
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.candidates.variant import PLAIN, Manner, Variant
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.worker.exchange import Call, Outcome, Returned
from shiftproof.reference.batch import Batch
from shiftproof.reference.profiles import PROFILES

RECIPE = Recipe(rows=2, length=4, classes=5, seed=1)


class Noting:
    """A caller that notes each call, and answers with a constant."""

    seconds_in_candidate = 0.0

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def call(self, call: Call, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
        self.calls.append(call)
        value = torch.zeros(call.tensors["labels"].shape)
        return Returned(value, "tensor", requires_grad=True, gradients={}, mutated=(), seconds=0.0)


def trial_of(caller: Noting) -> Trial:
    binding = bind("noting", [("logits", False), ("labels", False)], {})
    candidate = Candidate("noting", "m:f", spec="per_token")
    return Trial(candidate, PROFILES["per_token"], binding, caller, dtypes=("float32",), device="cpu")


def without_first_label(case: Case) -> Batch:
    labels = case.batch.tensor("labels").clone()
    labels[:, 1] = -100
    return replace(case.batch, labels=labels)


def test_the_plain_call() -> None:
    trial = trial_of(Noting())
    case = trial.case(RECIPE)
    seen = trial.observe(case, PLAIN)
    assert seen.case is case
    assert seen.factor == 1.0


def test_a_changed_batch_has_its_own_right_answer() -> None:
    caller = Noting()
    trial = trial_of(caller)
    case = trial.case(RECIPE)
    seen = trial.observe(case, Variant("fewer", change=without_first_label))
    assert bool((caller.calls[0].tensors["labels"][:, 1] == -100).all())
    assert {pair.label[1] for pair in case.pairing.pairs} == {1, 2, 3}
    assert {pair.label[1] for pair in seen.case.pairing.pairs} == {2, 3}


def test_the_factor_counts_each_backward() -> None:
    caller = Noting()
    twice = Variant("twice", grad_output=lambda case: -3.0, manner=lambda case: Manner(n_backward=2))
    assert trial_of(caller).observe_cached(RECIPE, twice).factor == -6.0
    assert (caller.calls[0].grad_output, caller.calls[0].n_backward) == (-3.0, 2)


def _weights(case: Case) -> Tensor:
    return torch.arange(case.batch.tensor("labels").numel()).reshape(case.pairing.output_shape).float()


def test_incoming_gradients_of_single_tokens_are_in_the_weights() -> None:
    seen = trial_of(Noting()).observe_cached(RECIPE, Variant("each its own", grad_output=_weights))
    case = build_case(PROFILES["per_token"], RECIPE)
    logits = case.batch.tensor("logits").double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2)[..., :-1], case.batch.tensor("labels")[:, 1:], reduction="none"
    )
    [expected] = torch.autograd.grad((losses * _weights(case)[:, :-1]).sum(), [logits])
    assert seen.factor == 1.0
    assert torch.allclose(seen.case.oracle.gradients["logits"], expected)
    assert not torch.allclose(case.oracle.gradients["logits"], expected)
