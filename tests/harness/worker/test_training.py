"""What a trainer is given, and what is seen of its optimizer: the same in another process and in this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from shiftproof.harness.isolation.client import Worker
from shiftproof.harness.isolation.inprocess import InProcess
from shiftproof.harness.worker.exchange import Call, Outcome, Raised, Returned, Training, Unusable
from shiftproof.harness.worker.training import TableModel

TRAINER = """
import torch

def scored(model, batches):
    loss = sum(model(**batch).loss for batch in batches)
    loss.backward()
    return loss.detach()

def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=1.0)

def trainer(net, batches, action, window=0):
    if action == "never steps":
        return scored(net, batches)
    if action == "steps":
        optimizer = sgd(net)
        loss = scored(net, batches)
        optimizer.step()
        optimizer.zero_grad()
        return loss
    if action == "steps at every batch":
        optimizer = sgd(net)
        for batch in batches:
            scored(net, [batch])
            optimizer.step()
            optimizer.zero_grad()
    if action == "closure":
        optimizer = sgd(net)
        return optimizer.step(lambda: (optimizer.zero_grad(), scored(net, batches))[1])
    if action == "closure by name":
        return sgd(net).step(closure=lambda: scored(net, batches))
    if action == "another's optimizer":
        other = torch.nn.Parameter(torch.zeros(1))
        other.grad = torch.zeros(1)
        torch.optim.SGD([other], lr=1.0).step()
        return scored(net, batches)
    if action == "trains nothing":
        return 1.5
    if action == "raises":
        raise ValueError("no such thing")
    if action == "what it has":
        sizes = [len(batch["labels"]) for batch in batches]
        return torch.tensor([*sizes, *batches[0]["input_ids"].flatten()]).float()
    if action == "packed":
        ids = torch.cat([batch["input_ids"].flatten() for batch in batches]).flip(0)[None]
        return net(input_ids=ids).logits.detach()
    if action in ("pads", "trains its padding"):
        fill = -100 if action == "pads" else 2  # of the labels
        wider = [{name: torch.nn.functional.pad(tensor, (0, 2), value=0 if name == "input_ids" else fill)
                  for name, tensor in batch.items()} for batch in batches]
        return scored(net, wider)
    if action == "asks for too much":
        return net(batches[0]["input_ids"]).loss
"""
LOGITS = torch.arange(5 * 3 * 4, dtype=torch.float32).reshape(5, 3, 4).sin()
LABELS = torch.tensor([[0, 1, 2], [3, 0, -100], [1, -100, 2], [2, 2, 2], [0, 3, 1]])

Either = Worker | InProcess


@pytest.fixture(params=[Worker, InProcess])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Outcome]]:
    (tmp_path / "mine.py").write_text(TRAINER)
    kind: type[Either] = request.param
    with kind(f"{tmp_path / 'mine.py'}:trainer") as worker:

        def ask(action: str) -> Outcome:
            return worker.call(
                Call(
                    tensors={"logits": LOGITS, "labels": LABELS},
                    scalars={"action": action},
                    gradients=("logits",),
                    training=Training("net", "batches", parts=4, shift=1, ignore_index=-100),
                )
            )

        yield ask


def returned(outcome: Outcome) -> Returned:
    assert isinstance(outcome, Returned), outcome
    return outcome


def expected() -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of the means of the three parts that 5 rows are cut into, and its gradient."""
    logits = LOGITS.clone().requires_grad_()
    parts = zip(logits[:, :-1].split(2), LABELS[:, 1:].split(2), strict=True)
    loss = torch.stack([F.cross_entropy(rows.flatten(0, 1), labels.flatten()) for rows, labels in parts]).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient


@pytest.mark.representatives(4)
@pytest.mark.parametrize(
    ("action", "steps"),
    [("never steps", 0), ("steps", 1), ("closure", 1), ("closure by name", 1), ("another's optimizer", 0), ("pads", 0)],
)
def test_the_gradient_is_the_one_that_the_optimizer_used(
    ask: Callable[[str], Outcome], action: str, steps: int
) -> None:
    outcome = returned(ask(action))
    value, gradient = expected()
    torch.testing.assert_close(outcome.value, value)
    torch.testing.assert_close(outcome.gradients["logits"], gradient)
    assert (outcome.windows[0].steps, outcome.kind, outcome.mutated) == (steps, "tensor", ())


def test_of_several_steps_the_last_is_shown(ask: Callable[[str], Outcome]) -> None:
    outcome = returned(ask("steps at every batch"))
    assert outcome.windows[0].steps == 3
    gradient = outcome.gradients["logits"]
    assert gradient is not None
    assert gradient.flatten(1).any(-1).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("kind", [Worker, InProcess])
def test_a_model_lives_through_its_windows(kind: type[Either], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TRAINER)
    call = Call(
        tensors={"logits": LOGITS[:4], "labels": LABELS[:4]},
        scalars={"action": "closure by name"},  # which clears no gradient
        gradients=("logits",),
        training=Training("net", "batches", parts=2, shift=1, ignore_index=-100, windows=2),
    )
    with kind(f"{tmp_path / 'mine.py'}:trainer") as worker:
        first, second = returned(worker.call(call)).windows
    assert (first.steps, first.others, first.late, second.steps) == (1, 0, 0, 1)
    torch.testing.assert_close(first.before, LOGITS[:4])
    torch.testing.assert_close(second.before, first.after)
    assert first.gradient is not None
    assert second.gradient is not None
    assert first.gradient.flatten(1).any(-1).tolist() == [True, True, False, False]
    torch.testing.assert_close(second.gradient[:2], first.gradient[:2])
    torch.testing.assert_close(second.after, second.before - second.gradient)


def test_a_trainer_may_return_nothing(ask: Callable[[str], Outcome]) -> None:
    outcome = returned(ask("steps at every batch"))
    assert outcome.kind == "none"
    assert outcome.value.isnan()


def test_what_trains_nothing_has_no_gradient(ask: Callable[[str], Outcome]) -> None:
    outcome = returned(ask("trains nothing"))
    assert (outcome.gradients["logits"], float(outcome.value), outcome.kind) == (None, 1.5, "number")


def test_its_exceptions_are_its_own(ask: Callable[[str], Outcome]) -> None:
    outcome = ask("raises")
    assert isinstance(outcome, Raised)
    assert (outcome.type, outcome.during) == ("ValueError", "call")
    assert returned(ask("steps")).windows[0].steps == 1


def test_rows_are_cut_as_chunk_does_and_no_two_places_share_an_id(ask: Callable[[str], Outcome]) -> None:
    assert returned(ask("what it has")).value.tolist() == [2, 2, 1, 1, 2, 3, 4, 5, 6]


def test_a_packed_batch_finds_its_logits(ask: Callable[[str], Outcome]) -> None:
    torch.testing.assert_close(returned(ask("packed")).value, LOGITS.flatten(0, 1).flip(0)[None])


def test_padding_that_a_trainer_adds_may_not_be_trained(ask: Callable[[str], Outcome]) -> None:
    outcome = ask("trains its padding")
    assert isinstance(outcome, Unusable)
    assert "trained the padding that it added itself" in outcome.describe()


def test_an_output_names_what_it_has(ask: Callable[[str], Outcome]) -> None:
    outcome = ask("asks for too much")
    assert isinstance(outcome, Raised)
    assert outcome.message == "the model's output has no 'loss'; it has logits"


@pytest.mark.parametrize(("shift", "count"), [(1, None), (1, 7), (0, None), (0, 7), (0, torch.tensor(7))])
def test_the_models_loss_is_that_of_transformers(shift: int, count: int | None) -> None:
    table = torch.cat([torch.zeros(1, 4), LOGITS.flatten(0, 1)])
    model = TableModel(table, shift=shift, ignore_index=-100)
    found = model(torch.arange(1, 16).reshape(5, 3), labels=LABELS, num_items_in_batch=count)
    logits, labels = (LOGITS[:, :-1], LABELS[:, 1:]) if shift else (LOGITS, LABELS)
    right = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / (
        (labels != -100).sum() if count is None else count
    )
    torch.testing.assert_close(found.loss, right)
    torch.testing.assert_close(found["logits"], LOGITS)
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
