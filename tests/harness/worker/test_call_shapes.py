"""How signatures are read, and what a loss gets in the arguments that hold others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shiftproof.harness.worker.call_shapes import Batch, Shaped
from shiftproof.harness.worker.load import Loaded, describe_function
from shiftproof.harness.worker.target import LoadFailure, Target

LOGITS = torch.arange(24.0).reshape(2, 3, 4)
LABELS = torch.tensor([[0, 1, 2], [3, 0, -100]])
CPU = torch.device("cpu")


def described(function: Callable[..., Any], **fields: Any) -> Loaded:
    return describe_function(function, Target("m:f", **fields), CPU)


def plain(loaded: Loaded) -> dict[str, bool]:
    """Our names of the arguments -> whether they are required."""
    return {each.name: each.required for each in loaded.description.parameters}


class Embeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 4)


# What is read from a signature -------------------------------------------------------------------------------------


def compute_loss_func(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any: ...
def training_step(batch: Any, batch_idx: Any) -> Any: ...
def compute_loss(model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any: ...
def logits_and_batch(logits: Any, batch: Any) -> Any: ...
def model_and_xy(model: Any, x: Any, y: Any) -> Any: ...


@pytest.mark.parametrize(
    ("function", "required", "made"),
    [
        (compute_loss_func, {"logits", "labels"}, {}),
        (training_step, {"logits"}, {}),
        (compute_loss, {"logits"}, {}),
        (logits_and_batch, {"logits"}, {}),
        (model_and_xy, {"logits", "input_ids", "labels"}, {"x": "input_ids", "y": "labels"}),
    ],
)
def test_a_composite_is_described_by_what_it_holds(
    function: Callable[..., Any], required: set[str], made: Mapping[str, str]
) -> None:
    loaded = described(function)
    assert isinstance(loaded.function, Shaped)
    assert {name for name, needed in plain(loaded).items() if needed} == required
    assert "labels" in plain(loaded)
    assert loaded.description.made == made
    assert not {"model", "outputs", "inputs", "batch", "batch_idx", "return_outputs"} & plain(loaded).keys()


def two(logits: Any, labels: Any) -> Any: ...
def steps(model: Any, micro_batches: Any) -> Any: ...
def input_and_outputs(input: Any, outputs: Any, labels: Any) -> Any: ...


@pytest.mark.parametrize("function", [two, steps, input_and_outputs])
def test_a_plain_signature_and_a_trainers_are_left_as_they_are(function: Callable[..., Any]) -> None:
    assert described(function).function is function


def test_a_rename_says_which_parameter_is_the_output() -> None:
    def loss(result: Any, labels: Any) -> Any:
        return result.logits.sum()

    assert described(loss).function is loss
    found = described(loss, rename={"outputs": "result"})
    assert plain(found)["logits"]
    assert found.function(logits=LOGITS, labels=LABELS) == LOGITS.sum()
    assert found.description.made == {"result": "outputs"}


def test_a_rename_takes_a_name_from_what_it_would_be() -> None:
    def loss(model: Any, targets: Any, outputs: Any) -> Any:
        return outputs.sum() + targets["labels"].sum()

    found = described(loss, rename={"batch": "targets"})
    assert found.description.made["targets"] == "batch"


def test_kwargs_are_given_in_every_call_and_are_no_parameters() -> None:
    def loss(logits: Any, labels: Any, factor: Any, power: Any = 1) -> Any:
        return factor * logits.sum() ** power

    found = described(loss, kwargs={"factor": 3})
    assert "factor" not in plain(found)
    assert found.function(logits=LOGITS, labels=LABELS) == 3 * LOGITS.sum()


def test_kwargs_that_it_does_not_take_are_refused_with_the_nearest() -> None:
    def loss(logits: Any, labels: Any, factor: Any = 1) -> Any: ...

    with pytest.raises(LoadFailure, match=r"kwargs has 'facter', which m:f does not take; did you mean 'factor'\?"):
        described(loss, kwargs={"facter": 3})
    assert described(loss, kwargs={"factor": 3})  # as it says

    def takes_any(logits: Any, labels: Any, **others: Any) -> Any:
        return others["facter"]

    assert described(takes_any, kwargs={"facter": 3}).function(logits=LOGITS, labels=LABELS) == 3


# What a loss gets --------------------------------------------------------------------------------------------------


def test_outputs_are_read_by_name_by_key_and_by_place() -> None:
    def loss(outputs: Any, labels: Any) -> Any:
        assert outputs.loss is None
        assert "loss" not in outputs
        with pytest.raises(AttributeError, match="no 'past_key_values'; it has logits"):
            _ = outputs.past_key_values
        return [outputs.logits, outputs["logits"], outputs[0], outputs.to_tuple()[0], outputs[:1][0]]

    assert all(each is LOGITS for each in described(loss).function(logits=LOGITS, labels=LABELS))


def test_outputs_are_bare_where_objects_raise_and_stay_what_served() -> None:
    seen = []

    def loss(outputs: Any, labels: Any) -> Any:
        seen.append(type(outputs))
        return outputs.float().sum() + labels.sum()

    function = described(loss).function
    for _ in range(2):
        assert function(logits=LOGITS, labels=LABELS) == LOGITS.sum() + LABELS.sum()
    assert [kind is Tensor for kind in seen] == [False, True, True]


def test_of_two_ways_that_raise_the_first_error_is_told_each_time() -> None:
    def loss(outputs: Any, labels: Any) -> Any:
        raise ValueError("bare" if isinstance(outputs, Tensor) else "an object")

    function = described(loss).function
    for _ in range(2):
        with pytest.raises(ValueError, match="an object"):
            function(logits=LOGITS, labels=LABELS)


def test_a_batch_is_a_dict_whose_entries_are_attributes_and_that_moves() -> None:
    def loss(batch: Any, batch_idx: Any) -> Any:
        assert batch_idx == 0
        moved = batch.to(torch.device("cpu"), non_blocking=True)
        assert isinstance(moved, Batch)
        assert set(batch) == {"logits", "labels"}
        return batch["logits"].sum() + moved.labels.sum()

    assert described(loss).function(logits=LOGITS, labels=LABELS) == LOGITS.sum() + LABELS.sum()


def test_logits_beside_a_batch_are_not_in_it_too() -> None:
    def loss(logits: Any, batch: Any) -> Any:
        return sorted(batch), logits

    found, logits = described(loss).function(logits=LOGITS, labels=LABELS)
    assert found == ["labels"]
    assert logits is LOGITS


def test_each_call_gets_a_batch_of_its_own() -> None:
    def loss(batch: Any) -> Any:
        return batch.pop("labels")

    function = described(loss).function
    assert function(logits=LOGITS, labels=LABELS) is function(logits=LOGITS, labels=LABELS)


def test_a_model_that_is_stood_in_for_returns_the_logits_whatever_it_is_called_with() -> None:
    def loss(model: Any, x: Any, y: Any) -> Any:
        assert isinstance(model, nn.Module)
        model.train()
        return [model(x).logits, model(input_ids=x, attention_mask=None)["logits"], model(x)[0], y]

    found = described(loss).function(logits=LOGITS, input_ids=LABELS, labels=LABELS)
    assert [each is LOGITS for each in found] == [True, True, True, False]


def test_a_model_that_is_stood_in_for_has_a_loss_if_it_is_given_labels() -> None:
    def loss(model: Any, batch: Any) -> Any:
        return model(**{name: each for name, each in batch.items() if name != "logits"})

    both = described(loss).function(logits=LOGITS, input_ids=LABELS.abs(), labels=LABELS)
    expected = nn.functional.cross_entropy(LOGITS[:, :-1].flatten(0, 1), LABELS[:, 1:].flatten())
    torch.testing.assert_close(both.loss, expected)
    assert both.loss is both["loss"]
    assert both[0] is both.loss  # as in transformers, the loss comes first
    assert both.logits is LOGITS


def test_a_loss_that_calls_its_model_on_parts_of_a_batch_is_told_of_trainers() -> None:
    def loss(model: Any, batch: Any) -> Any:
        return sum(model(row[None]).logits.sum() for row in batch["input_ids"])

    with pytest.raises(RuntimeError, match="judged as a trainer, which takes model and micro_batches"):
        described(loss).function(logits=LOGITS, input_ids=LABELS.abs(), labels=LABELS)


# Models ------------------------------------------------------------------------------------------------------------


def test_a_model_takes_tokens_and_targets_by_other_names() -> None:
    class Model(Embeds):
        def forward(self, idx: Tensor, targets: Tensor | None = None) -> Any:
            return self.embedding(idx), targets

    model = Model()
    found = described(model)
    assert plain(found) == {"input_ids": True, "labels": False}
    assert found.description.made == {"idx": "input_ids", "targets": "labels"}
    logits, targets = found.function(input_ids=LABELS.abs() % 4, labels=LABELS)
    assert targets is LABELS
    torch.testing.assert_close(logits, model.embedding(LABELS.abs() % 4))


def test_a_model_of_tokens_alone_takes_no_labels() -> None:
    class Model(Embeds):
        def forward(self, x: Tensor, **others: Any) -> Tensor:
            return self.embedding(x)

    found = described(Model())
    assert plain(found) == {"input_ids": True}
    assert not found.description.accepts_any_keyword  # it would hand a count on to its layers


def test_a_step_of_a_model_is_given_a_batch() -> None:
    class Model(Embeds):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return sorted(batch), batch_idx

    found = described(Model().training_step)
    assert plain(found) == {"input_ids": True, "labels": True, "attention_mask": False}
    assert found.description.made == {}
    assert found.function(input_ids=LABELS, labels=LABELS) == (["input_ids", "labels"], 0)


def test_a_module_that_embeds_nothing_is_a_loss() -> None:
    class Loss(nn.Module):
        def forward(self, outputs: Any, labels: Any) -> Any:
            return outputs.logits.sum()

    assert "logits" in plain(described(Loss()))
