"""What came back from a candidate, in the reference's terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from shiftproof.harness.candidates import loss
from shiftproof.harness.candidates.arguments import TO_LOSSES, bind
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.loss import Trial
from shiftproof.harness.candidates.model import ModelTrial
from shiftproof.harness.candidates.trainer import TrainerTrial
from shiftproof.harness.candidates.trainer_arguments import TO_TRAINERS
from shiftproof.harness.candidates.variant import Manner, Variant
from shiftproof.harness.cases.build import Case
from shiftproof.harness.cases.recipe import Count, Recipe, Stride
from shiftproof.harness.results import Verdict
from shiftproof.harness.worker.exchange import (
    Call,
    Died,
    NotAnswered,
    Outcome,
    OutOfMemory,
    Raised,
    Returned,
    TimedOut,
    Unusable,
)
from shiftproof.harness.worker.target import LoadFailure
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute

RECIPE = Recipe(rows=2, length=3, classes=5, seed=1)
TIMES_3 = Variant("times 3", grad_output=lambda case: 3.0)


class Scripted:
    """A candidate that answers what it is told to, and keeps what it was asked."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[Call] = []
        self.seconds_in_candidate = 0.0

    def call(self, call: Call, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
        self.calls.append(call)
        return self.outcomes[min(len(self.calls), len(self.outcomes)) - 1]


def returned(value: torch.Tensor, **fields: object) -> Returned:
    given = {"kind": "tensor", "requires_grad": True, "gradients": {}, "mutated": (), "seconds": 0.0, **fields}
    return Returned(value=value, **given)  # type: ignore[arg-type]


def trial_of(
    caller: Scripted,
    parameters: Sequence[str] = ("logits", "labels"),
    spec: str = "hf.causal_lm",
    rename: dict[str, str] | None = None,
    gradient: bool = True,
) -> Trial:
    binding = bind("text", [(name, True) for name in parameters], rename or {})
    candidate = Candidate("text", "m:f", spec=spec, gradient=gradient)
    return Trial(candidate, PROFILES[spec], binding, caller, dtypes=("float32",), device="cpu")


ONE = torch.tensor(1.5)


def test_a_call_gives_what_the_signature_asks_for() -> None:
    caller = Scripted(returned(ONE))
    trial = trial_of(caller, ("labels", "logits", "num_items_in_batch", "vocab_size"))
    trial.observe(trial.case(replace(RECIPE, count=Count.VALID, stride=Stride.OFFSET)), TIMES_3)
    (call,) = caller.calls
    assert set(call.tensors) == {"logits", "labels"}
    assert dict(call.scalars) == {"num_items_in_batch": 4, "vocab_size": 5}
    assert (dict(call.layouts), call.gradients, call.grad_output) == ({"logits": "offset"}, ("logits",), 3.0)
    assert call.tensors["logits"].shape == (2, 3, 5)


def test_names_are_the_candidates_own_on_the_way_there_and_ours_on_the_way_back() -> None:
    caller = Scripted(returned(ONE, gradients={"x": torch.ones(2, 3, 5)}, mutated=("y", "x")))
    trial = trial_of(caller, ("x", "y"), rename={"logits": "x", "labels": "y"})
    observation = trial.observe_cached(RECIPE)
    assert caller.calls[0].gradients == ("x",)
    assert observation.mutated == ("labels", "logits")
    assert observation.gradients["logits"] is not None
    assert observation.gradients["logits"].dtype is torch.float64


@pytest.mark.parametrize(("gradient", "mode"), [(False, "enabled"), (True, "no_grad"), (True, "inference")])
def test_no_gradient_is_wanted_where_there_can_be_none(gradient: bool, mode: str) -> None:
    caller = Scripted(returned(ONE))
    assert (
        trial_of(caller, gradient=gradient)
        .observe_cached(RECIPE, Variant(mode, manner=lambda case: Manner(mode)))
        .gradients
        is None
    )
    assert caller.calls[0].gradients == ()
    assert caller.calls[0].grad_mode == mode


def test_a_loss() -> None:
    observation = trial_of(Scripted(returned(ONE.half()))).observe_cached(RECIPE)
    assert observation.problem is None
    assert (observation.value, observation.dtype) == (1.5, torch.float16)


def test_a_number_is_float64() -> None:
    number = returned(torch.tensor(1.5, dtype=torch.float64), kind="number")
    assert trial_of(Scripted(number)).observe_cached(RECIPE).dtype is torch.float64


def test_a_loss_of_one_element_is_a_scalar_too() -> None:
    assert trial_of(Scripted(returned(torch.ones(1, 1)))).observe_cached(RECIPE).value == 1.0


def test_nan_is_a_value() -> None:
    observation = trial_of(Scripted(returned(torch.tensor(math.nan)))).observe_cached(RECIPE)
    assert observation.problem is None
    assert observation.value is not None
    assert math.isnan(observation.value)


@pytest.mark.parametrize(("shape", "right"), [((2, 3), True), ((6,), True), ((2, 2), False), ((), False)])
def test_one_loss_a_token_under_a_spec_that_promises_it(shape: tuple[int, ...], right: bool) -> None:
    problem = trial_of(Scripted(returned(torch.ones(shape))), spec="per_token").observe_cached(RECIPE).problem
    if right:
        assert problem is None
    else:
        assert problem is not None
        assert problem.message == f"returned float32 {list(shape)}; expected one loss per label position, [2, 3]"


@pytest.mark.parametrize(
    ("outcome", "verdict", "kind", "message"),
    [
        (
            NotAnswered("candidate", "it printed"),
            Verdict.UNJUDGED,
            "not answered by the candidate",
            "could not be judged, because its own process failed: it printed",
        ),
        (
            NotAnswered("judge", "no room"),
            Verdict.UNJUDGED,
            "not answered by the judge",
            "could not be judged, because the judge's process failed: no room",
        ),
        (TimedOut(2.0), Verdict.TIMEOUT, "no answer", "did not finish within 2 s"),
        (Died(3, None, ""), Verdict.CRASH, "died 3", "exited with code 3"),
        (Died(None, "SIGSEGV", ""), Verdict.CRASH, "died SIGSEGV", "was killed by SIGSEGV"),
        (OutOfMemory(1 << 30, ""), Verdict.CRASH, "out of memory", "ran out of memory (limit 1,024 MiB)"),
        (
            Raised("NotImplementedError", "one row", "", "call"),
            Verdict.REFUSED,
            "refused",
            "raised NotImplementedError: one row",
        ),
        (Raised("KeyError", "'x'", "", "call"), Verdict.ERROR, "raised KeyError", "raised KeyError: 'x'"),
        (Raised("KeyError", "", "", "backward"), Verdict.ERROR, "raised KeyError", "raised KeyError in its backward"),
        (Unusable("returned None"), Verdict.ERROR, "unusable", "returned None"),
        (returned(torch.tensor(3)), Verdict.ERROR, "not floating", "returned int64 []; expected a floating-point loss"),
        (returned(torch.ones(2, 2)), Verdict.ERROR, "wrong shape", "returned float32 [2, 2]; expected a scalar"),
        (returned(torch.ones(0)), Verdict.ERROR, "wrong shape", "returned float32 [0]; expected a scalar"),
    ],
)
def test_what_is_no_loss(outcome: Outcome, verdict: Verdict, kind: str, message: str) -> None:
    observation = trial_of(Scripted(outcome)).observe_cached(RECIPE)
    assert observation.problem is not None
    assert (observation.problem.verdict, observation.problem.kind) == (verdict, kind)
    assert observation.problem.message.startswith(message)
    assert observation.value is None


def test_a_question_is_asked_once() -> None:
    caller = Scripted(returned(ONE))
    trial = trial_of(caller)
    assert trial.observe_cached(RECIPE) is trial.observe_cached(RECIPE)
    assert trial.calls == len(caller.calls) == 1
    trial.observe_cached(RECIPE, TIMES_3)
    trial.observe_cached(RECIPE, Variant("no_grad", manner=lambda case: Manner("no_grad")))
    trial.observe_cached(replace(RECIPE, seed=2))
    assert trial.calls == 4
    trial.observe(trial.case(RECIPE))
    assert trial.calls == 5


def test_as_many_observations_are_kept_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "_MOST", 200_000)
    trial = trial_of(Scripted(returned(ONE)))
    large = [Recipe(rows=1, length=2, classes=30_000, seed=seed) for seed in range(4)]
    seen = [trial.observe_cached(recipe) for recipe in large]
    assert [trial.observe_cached(recipe) is each for recipe, each in zip(large[1:], seen[1:], strict=True)] == [
        True
    ] * 3
    assert trial.observe_cached(large[0]) is not seen[0]


def test_a_variation_has_its_own_right_answer() -> None:
    trial = trial_of(Scripted(returned(ONE)))
    case = trial.case(RECIPE)
    changed = trial.variation(case, lambda batch: replace(batch, labels=torch.full_like(batch.labels, -100)))
    assert changed.pairing.pairs == ()
    assert case.pairing.pairs
    assert changed.oracle.value != case.oracle.value


def test_the_space_follows_from_what_is_asked_for() -> None:
    assert "count" not in trial_of(Scripted()).space
    assert "count" in trial_of(Scripted(), ("logits", "labels", "num_items_in_batch")).space


# --- Several streams --------------------------------------------------------------------------------------------------

STREAMS = ("logits", "labels", "audio_logits", "audio_labels")
SEVERAL = replace(RECIPE, codebooks=2)


def test_every_stream_is_given_and_its_gradient_wanted() -> None:
    caller = Scripted(returned(ONE))
    trial = trial_of(caller, (*STREAMS[:3], "codes"), spec="higgs.boson", rename={"audio_labels": "codes"})
    trial.observe(trial.case(replace(SEVERAL, stride=Stride.STRIDED)))
    (call,) = caller.calls
    assert {name: tuple(tensor.shape) for name, tensor in call.tensors.items()} == {
        "logits": (2, 3, 5),
        "labels": (2, 3),
        "audio_logits": (6, 2, 7),
        "codes": (2, 6),
    }
    assert call.gradients == ("logits", "audio_logits")
    assert dict(call.layouts) == {"logits": "strided", "audio_logits": "strided"}


def test_gradients_come_back_in_the_batchs_shapes() -> None:
    caller = Scripted()
    trial = trial_of(caller, STREAMS, spec="moshi.finetune")
    trial.case(SEVERAL)
    laid_out = torch.arange(2 * 2 * 3 * 7.0).reshape(2, 2, 3, 7)  # b k s v
    caller.outcomes = [returned(ONE, gradients={"logits": torch.ones(2, 3, 5), "audio_logits": laid_out})]
    gradients = trial.observe_cached(SEVERAL).gradients
    assert gradients is not None
    assert torch.equal(gradients["audio_logits"], laid_out.double().transpose(1, 2))
    assert torch.equal(gradients["logits"], torch.ones(2, 3, 5, dtype=torch.float64))


def test_logits_that_no_gradient_flowed_to_have_one_of_zeros() -> None:
    caller = Scripted(returned(ONE, gradients={"logits": torch.ones(2, 3, 5), "audio_logits": None}))
    gradients = trial_of(caller, STREAMS, spec="higgs.hf").observe_cached(SEVERAL).gradients
    assert gradients is not None
    assert gradients["audio_logits"].shape == (2, 3, 2, 7)
    assert int(gradients["audio_logits"].count_nonzero()) == 0


@pytest.mark.parametrize("given", [{}, {"logits": None, "audio_logits": None}])
def test_where_no_gradient_flowed_at_all_there_is_none(given: dict[str, None]) -> None:
    assert (
        trial_of(Scripted(returned(ONE, gradients=given)), STREAMS, spec="higgs.hf").observe_cached(SEVERAL).gradients
        is None
    )


def test_what_was_written_to_is_called_by_our_name_for_it() -> None:
    caller = Scripted(returned(ONE, mutated=("codes",)))
    trial = trial_of(caller, (*STREAMS[:3], "codes"), spec="higgs.hf", rename={"audio_labels": "codes"})
    assert trial.observe_cached(SEVERAL).mutated == ("audio_labels",)


@pytest.mark.parametrize(
    ("spec", "precision", "compute"),
    [
        ("torchtune", None, Compute.STRICT),
        ("torch.cross_entropy", None, Compute.NATIVE),
        ("torch.cross_entropy", "strict", Compute.STRICT),
        ("torchtune", "native", Compute.NATIVE),
    ],
)
def test_arithmetic_is_the_specs_unless_the_candidate_says(spec: str, precision: str | None, compute: Compute) -> None:
    bound = bind("text", [("logits", True), ("labels", True)], {})
    candidate = Candidate("text", "m:f", spec=spec, precision=precision)
    trial = Trial(candidate, PROFILES[spec], bound, Scripted(), dtypes=("bfloat16",), device="cpu")
    assert trial.compute is compute


def test_what_could_not_be_asked_is_asked_again() -> None:
    """Unlike an answer: the next process may give one."""
    caller = Scripted(NotAnswered("candidate", "it printed"), returned(ONE))
    trial = trial_of(caller)
    first = trial.observe_cached(RECIPE).problem
    assert first is not None
    assert first.verdict is Verdict.UNJUDGED
    assert trial.observe_cached(RECIPE).problem is None
    assert trial.observe_cached(RECIPE).problem is None
    assert len(caller.calls) == 2


@pytest.mark.parametrize(
    ("outcome", "reason", "words"),
    [
        (NotAnswered("candidate", "it printed"), "broken", "text could not be judged, because its own process failed"),
        (TimedOut(2.0), "timed out", "the first call of text did not finish within 2 s"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "parameters"), [(ModelTrial, ("input_ids", "labels")), (TrainerTrial, ("model", "micro_batches"))]
)
def test_without_its_first_answer_a_model_or_a_trainer_cannot_be_judged(
    kind: type[Trial], parameters: tuple[str, ...], outcome: Outcome, reason: str, words: str
) -> None:
    """The sizes of all its cases would be a guess."""
    offer = TO_TRAINERS if kind is TrainerTrial else TO_LOSSES
    binding = bind("text", [(name, True) for name in parameters], {}, False, offer)
    candidate = Candidate("text", "m:f", spec="hf.causal_lm")
    with pytest.raises(LoadFailure, match=words) as caught:
        kind(candidate, PROFILES["hf.causal_lm"], binding, Scripted(outcome), dtypes=("float32",), device="cpu")
    assert caught.value.reason == reason


def test_the_next_case_is_built_while_the_candidate_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Recipe] = []

    class Busy(Scripted):
        def call(self, call: Call, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
            assert built == [RECIPE]
            meanwhile()
            return super().call(call)

    trial = trial_of(Busy(returned(ONE)))
    case = trial.case
    monkeypatch.setattr(trial, "case", lambda recipe: built.append(recipe) or case(recipe))
    trial.ahead = replace(RECIPE, seed=2)
    trial.observe_cached(RECIPE)
    assert built == [RECIPE, trial.ahead]


def test_a_case_that_cannot_be_built_ahead_says_so_when_it_is_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(Scripted):
        def call(self, call: Call, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
            meanwhile()
            return super().call(call)

    trial = trial_of(Busy(returned(ONE)))
    case = trial.case

    def fail_on_another(recipe: Recipe) -> Case:
        if recipe != RECIPE:
            raise MemoryError
        return case(recipe)

    monkeypatch.setattr(trial, "case", fail_on_another)
    trial.ahead = replace(RECIPE, seed=2)
    assert trial.observe_cached(RECIPE).problem is None
    with pytest.raises(MemoryError):
        trial.observe_cached(trial.ahead)
