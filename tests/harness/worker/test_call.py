"""What an ordinary candidate gets, and what comes back: the same in another process and in this one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.inprocess import InProcess
from shiftproof.harness.isolation.settings import WorkerSettings
from shiftproof.harness.worker import call as call_module
from shiftproof.harness.worker.exchange import LAYOUTS, ORDERS, Call, Raised, Returned, Unusable

Either = Worker | InProcess
CallOf = Callable[..., Call]


def expected(call: Call, grad_output: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The shifted cross-entropy of torch itself, and its gradient."""
    logits = call.tensors["logits"].clone().requires_grad_()
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, 7), call.tensors["labels"][:, 1:].reshape(-1))
    (gradient,) = torch.autograd.grad(loss * grad_output, logits)
    return loss.detach(), gradient


def returned(worker: Either, call: Call) -> Returned:
    outcome = worker.call(call)
    assert isinstance(outcome, Returned), outcome
    return outcome


@pytest.mark.parametrize("form", ["loss", "tuple", "dict", "object", "named tuple"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_value_and_gradient_are_those_of_torch(either: Either, call_of: CallOf, form: str, layout: str) -> None:
    call = call_of(form, layouts={"logits": layout, "labels": layout})
    outcome = returned(either, call)
    value, gradient = expected(call)
    torch.testing.assert_close(outcome.value, value)
    torch.testing.assert_close(outcome.gradients["logits"], gradient)
    assert (outcome.kind, outcome.requires_grad, outcome.mutated) == ("tensor", True, ())
    assert outcome.seconds > 0


@pytest.mark.parametrize(
    ("layout", "logits_strides", "offset", "labels_strides"),
    [
        ("contiguous", [35, 7, 1], 0, [5, 1]),
        ("transposed", [35, 1, 5], 0, [1, 2]),
        ("strided", [70, 14, 2], 0, [10, 2]),
        ("offset", [35, 7, 1], 1, [5, 1]),
        ("sliced", [42, 7, 1], 0, [6, 1]),
        ("sequence_first", [7, 14, 1], 0, [1, 2]),
    ],
)
def test_layouts_lie_in_memory_as_asked(
    either: Either, call_of: CallOf, layout: str, logits_strides: list[int], offset: int, labels_strides: list[int]
) -> None:
    outcome = returned(either, call_of("geometry", layouts={"logits": layout, "labels": layout}))
    assert outcome.value.tolist() == [*logits_strides, offset, *labels_strides]


def test_equal_rows_share_their_storage_when_expanded(either: Either, call_of: CallOf) -> None:
    call = call_of("geometry", layouts={"logits": "expanded"})
    rows = call.tensors["logits"][:1].expand_as(call.tensors["logits"]).clone()
    outcome = returned(either, replace(call, tensors={**call.tensors, "logits": rows}))
    assert outcome.value.tolist()[0] == 0


def test_upstream_scalar_and_tensor(either: Either, call_of: CallOf) -> None:
    call = call_of("loss", grad_output=-3.0)
    torch.testing.assert_close(returned(either, call).gradients["logits"], expected(call, -3.0)[1])

    weights = torch.arange(10.0)
    call = call_of("per token", grad_output=weights)
    wanted = 2 * call.tensors["logits"] * weights.reshape(2, 5, 1)
    torch.testing.assert_close(returned(either, call).gradients["logits"], wanted)


def test_upstream_of_another_size_names_both(either: Either, call_of: CallOf) -> None:
    outcome = either.call(call_of("per token", grad_output=torch.ones(9)))
    assert isinstance(outcome, Unusable)
    assert "[2, 5] (10 elements)" in outcome.describe()
    assert "expected 9" in outcome.describe()


@pytest.mark.parametrize(
    ("mode", "state"), [("enabled", [1, 0, 1, 0]), ("no_grad", [0, 0, 0, 1]), ("inference", [0, 1, 0, 1])]
)
def test_grad_modes(either: Either, call_of: CallOf, mode: str, state: list[int]) -> None:
    # An argument is never a leaf where gradients are on: writing to it in place must be possible.
    assert returned(either, call_of("grad state", grad_mode=mode)).value.int().tolist() == state
    outcome = returned(either, call_of("loss", grad_mode=mode))
    assert outcome.requires_grad == (mode == "enabled")
    assert (outcome.gradients["logits"] is None) == (mode != "enabled")


def test_autocast_is_around_the_call(either: Either, call_of: CallOf) -> None:
    assert returned(either, call_of("product")).value.dtype is torch.float32
    outcome = returned(either, call_of("product", autocast="bfloat16"))
    assert outcome.value.dtype is torch.bfloat16
    assert outcome.state == (), "the worker's own autocast is not left behind by the candidate"


def test_a_compiled_call_knows_that_it_is_compiled(either: Either, call_of: CallOf) -> None:
    plain, compiled = (returned(either, call_of("compiled", backend=backend)) for backend in ("", "eager"))
    torch.testing.assert_close(compiled.value, 2 * plain.value)
    torch.testing.assert_close(compiled.gradients["logits"], 2 * plain.gradients["logits"])


@pytest.mark.parametrize("order", ORDERS)
def test_another_call_runs_before_the_backward(either: Either, call_of: CallOf, order: str) -> None:
    call = call_of("kept")
    other = {"logits": call.tensors["logits"] + 1, "labels": call.tensors["labels"]}
    outcome = returned(either, replace(call, other=other, order=order))
    torch.testing.assert_close(outcome.value, call.tensors["logits"].sum())  # not that of the other
    forwards = 0.0 if order == "after, backward last" else 2.0  # the other's backward sets the count back
    assert bool((outcome.gradients["logits"] == forwards).all())
    assert bool((returned(either, call).gradients["logits"] == 1).all())


@pytest.mark.parametrize("caller", [Worker, InProcess])
@pytest.mark.parametrize("wanted", [True, False, None])
def test_a_module_is_put_into_a_mode_for_one_call(
    zoo: Path, call_of: CallOf, caller: type[Worker] | type[InProcess], wanted: bool | None
) -> None:
    with caller("zoo.py:mode", WorkerSettings(cwd=str(zoo))) as worker:
        assert worker.describe().is_module
        assert float(returned(worker, call_of("loss", train_mode=wanted)).value) == (3 if wanted else 0)
        assert float(returned(worker, call_of("loss")).value) == 0


@pytest.mark.parametrize("caller", [Worker, InProcess])
@pytest.mark.parametrize("name", ["weighed", "weigh"])
def test_a_module_is_cast_for_one_call(
    zoo: Path, call_of: CallOf, caller: type[Worker] | type[InProcess], name: str
) -> None:
    with caller(f"zoo.py:{name}", WorkerSettings(cwd=str(zoo))) as worker:
        assert float(returned(worker, call_of("loss", model_dtype="bfloat16")).value) == 256
        assert float(returned(worker, call_of("loss")).value) == 257


def test_a_seed_that_a_call_sets_gives_the_same_state_twice(either: Either, call_of: CallOf) -> None:
    once, again = (returned(either, call_of("seed")).random for _ in range(2))
    assert set(once) == {"torch"}
    assert once == again
    once, again = (returned(either, call_of("draw")).random for _ in range(2))
    assert set(once) == set(again) == {"torch"}
    assert once != again
    assert returned(either, call_of("loss")).random == {}


def test_gradient_is_none_where_the_value_does_not_depend(either: Either, call_of: CallOf) -> None:
    assert returned(either, call_of("labels only")).gradients == {"logits": None}
    detached = returned(either, call_of("detached"))
    assert (detached.requires_grad, detached.gradients) == (False, {"logits": None})


@pytest.mark.parametrize("gradients", [(), ("logits",)])
@pytest.mark.parametrize(
    ("action", "mutated"),
    [
        ("in place logits", ("logits",)),
        ("in place labels", ("labels",)),
        ("loss", ()),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_writes_to_arguments_are_seen(
    either: Either, call_of: CallOf, action: str, mutated: tuple[str, ...], gradients: tuple[str, ...], layout: str
) -> None:
    call = call_of(action, gradients=gradients, layouts={"logits": layout, "labels": layout})
    before = {name: tensor.clone() for name, tensor in call.tensors.items()}
    assert returned(either, call).mutated == mutated
    assert all(torch.equal(before[name], call.tensors[name]) for name in before), "the caller's own tensor changed"


def test_writes_of_the_backward_are_seen(either: Either, call_of: CallOf) -> None:
    assert returned(either, call_of("in place backward")).mutated == ("logits",)


def test_mutation_is_judged_by_bits(either: Either, call_of: CallOf) -> None:
    tensors = dict(call_of("loss").tensors)
    tensors["logits"][0, 0] = float("nan")
    assert returned(either, call_of("loss", tensors=tensors)).mutated == ()
    tensors["logits"][0, 0] = 0.0
    assert returned(either, call_of("negative zero", tensors=tensors)).mutated == ("logits",)


@pytest.mark.parametrize(
    ("action", "value", "kind", "dtype"),
    [
        ("float", 2.5, "number", torch.float64),
        ("int", 3.0, "number", torch.float64),
        ("int tensor", None, "tensor", torch.int64),
        ("sparse", None, "tensor", torch.float32),
    ],
)
def test_other_values(
    either: Either, call_of: CallOf, action: str, value: float | None, kind: str, dtype: torch.dtype
) -> None:
    call = call_of(action)
    outcome = returned(either, call)
    assert (outcome.kind, outcome.value.dtype, outcome.requires_grad) == (kind, dtype, False)
    if value is not None:
        assert outcome.value.item() == value
    if action == "int tensor":
        assert outcome.value.item() == call.tensors["labels"].sum().item()


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("none", "returned None; expected a tensor"),
        ("str", "returned the str '0.5'; expected"),
        ("bool", "returned a bool; expected"),
        ("bare dict", 'returned a dict without "loss" or "labels" (it has \'accuracy\')'),
        ("dict of none", 'returned a dict whose "loss" is None; expected'),
        ("bare object", "returned a SimpleNamespace; expected"),
        ("empty tuple", "returned an empty tuple; expected"),
        ("meta", "meta device"),
    ],
)
def test_what_is_no_loss_is_said(either: Either, call_of: CallOf, action: str, words: str) -> None:
    outcome = either.call(call_of(action))
    assert isinstance(outcome, Unusable)
    assert words in outcome.describe()


def test_exception_is_told_from_the_candidates_first_frame(either: Either, call_of: CallOf) -> None:
    outcome = either.call(call_of("raise"))
    assert isinstance(outcome, Raised)
    assert (outcome.type, outcome.message, outcome.during) == ("ValueError", "a number is wrong", "call")
    assert "zoo.py" in outcome.traceback
    assert "harness/worker" not in outcome.traceback
    assert outcome.describe() == "raised ValueError: a number is wrong"


def test_an_argument_the_candidate_lacks_is_pythons_own_error(either: Either, call_of: CallOf) -> None:
    outcome = either.call(call_of("loss", scalars={}))
    assert isinstance(outcome, Raised)
    assert outcome.type == "TypeError"
    assert "missing 1 required positional argument: 'action'" in outcome.message


def test_scalars_arrive_as_they_are(either: Either, call_of: CallOf) -> None:
    scalars = {"action": "scalars", "a": 2**40, "b": 0.1, "c": True, "d": float("inf"), "e": float("-inf")}
    outcome = returned(either, call_of("scalars", scalars=scalars))
    assert outcome.value.tolist() == [2**40, 0.1, 1.0, float("inf"), float("-inf")]
    assert returned(either, call_of("scalars", scalars={"action": "scalars", "a": float("nan")})).value.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_arrive_and_return_as_they_are(either: Either, call_of: CallOf, dtype: torch.dtype) -> None:
    tensors = dict(call_of("loss").tensors)
    tensors["logits"] = tensors["logits"].to(dtype)
    outcome = returned(either, call_of("per token", tensors=tensors))
    gradient = outcome.gradients["logits"]
    assert gradient is not None
    assert (outcome.value.dtype, gradient.dtype) == (dtype, dtype)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0), (1, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_and_tiny_shapes(either: Either, call_of: CallOf, shape: tuple[int, int], layout: str) -> None:
    tensors = {"logits": torch.zeros(*shape, 7), "labels": torch.zeros(*shape, dtype=torch.int64)}
    outcome = returned(either, call_of("per token", tensors=tensors, layouts={"logits": layout, "labels": layout}))
    assert outcome.value.shape == shape
    assert outcome.mutated == ()


def test_tensors_that_share_memory(either: Either, call_of: CallOf) -> None:
    labels = torch.zeros(4, 5, dtype=torch.int64)
    tensors = {"logits": torch.zeros(2, 5, 7), "labels": labels[:2], "more": labels[1:3, ::2]}
    # `more` reaches **scalars, which "loss" does not look at
    assert returned(either, call_of("loss", tensors=tensors)).value.item() == pytest.approx(1.9459101)


def test_what_a_candidate_prints_is_not_an_answer(either: Either, call_of: CallOf) -> None:
    call = call_of("print")
    torch.testing.assert_close(returned(either, call).value, expected(call)[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gradients": ("labels",)}, "torch.int64"),
        ({"gradients": ("logit",)}, "'logit'"),
        ({"layouts": {"logits": "diagonal"}}, "'diagonal'"),
        ({"layouts": {"logit": "offset"}}, "'logit'"),
        ({"grad_mode": "off"}, "'off'"),
        ({"scalars": {"labels": 1}}, "labels"),
    ],
)
def test_a_call_that_cannot_be_is_refused_when_made(call_of: CallOf, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call_of("loss", **changes)


@pytest.mark.parametrize(("wall", "busy", "charged"), [(9.0, 2.0, 2.0), (1.0, 3.0, 1.0)], ids=["waits", "threads"])
def test_a_call_is_not_charged_for_the_time_in_which_others_have_the_processor(
    zoo: Path, call_of: CallOf, monkeypatch: pytest.MonkeyPatch, wall: float, busy: float, charged: float
) -> None:
    """Each reading moves a clock on, so each measured span is one step. There are two: the call and its backward."""
    monkeypatch.setattr(call_module, "perf_counter", itertools.count(step=wall).__next__)
    monkeypatch.setattr(call_module, "process_time", itertools.count(step=busy).__next__)
    with InProcess("zoo.py:candidate", WorkerSettings(cwd=str(zoo))) as caller:
        assert returned(caller, call_of("loss")).seconds == 2 * charged
