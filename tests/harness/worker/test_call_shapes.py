"""Which signatures are described by plain arguments, and what the candidate is then called with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shiftproof.harness.worker.call_shapes import Outputs, Shaped, StandIn, shaped
from shiftproof.harness.worker.load import describe_function
from shiftproof.harness.worker.target import Target

CPU = torch.device("cpu")
LOGITS, LABELS = torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.int64)


def described(function: Any, **how: Any) -> Any:
    return describe_function(function, Target("m:f", **how), CPU)


def required(function: Any, **how: Any) -> list[str]:
    return [each.name for each in described(function, **how).description.parameters if each.required]


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda logits, labels: 0, ["logits", "labels"]),
        (lambda input, target: 0, ["input", "target"]),
        (lambda outputs, labels: 0, ["logits", "labels"]),
        (lambda outputs, targets: 0, ["logits", "targets"]),
        (lambda model, inputs: 0, ["logits"]),
        (lambda model, batch: 0, ["logits"]),
        (lambda model, x, y: 0, ["logits", "input_ids", "labels"]),
        (lambda batch: 0, ["logits"]),
        (lambda batch, batch_idx: 0, ["logits"]),
        (lambda logits, batch: 0, ["logits"]),
        (lambda model, micro_batches: 0, ["model", "micro_batches"]),  # a trainer
        (lambda inputs, labels: 0, ["inputs", "labels"]),  # nobody knows what inputs are
        (lambda model, temperature: 0, ["model", "temperature"]),
        (lambda outputs: 0, ["outputs"]),
    ],
)
def test_the_plain_arguments(function: Any, names: list[str]) -> None:
    assert required(function) == names


def test_a_rename_says_which_parameter_is_composite() -> None:
    assert required(lambda result, labels: 0, rename={"outputs": "result"}) == ["logits", "labels"]


def test_a_plain_function_is_not_wrapped() -> None:
    def loss(logits: Any, labels: Any) -> int:
        return 0

    assert described(loss).function is loss


def call(function: Any, **plain: Any) -> Any:
    found, _ = shaped(function, described(function).description.parameters and _parameters(function), Target("m:f"))
    assert isinstance(found, Shaped)
    return found(**plain)


def _parameters(function: Any) -> Any:
    import inspect

    from shiftproof.harness.worker.load import _parameters as parameters

    return tuple(parameters(inspect.signature(function)))


def test_outputs_are_an_object_and_bare_if_that_raises() -> None:
    def by_attribute(outputs: Any, labels: Any) -> Any:
        assert outputs["logits"] is outputs.logits is outputs[0]
        assert outputs.loss is None
        return outputs.logits

    assert call(by_attribute, logits=LOGITS, labels=LABELS) is LOGITS
    assert call(lambda outputs, labels: outputs.sum(), logits=LOGITS, labels=LABELS) == 0


def test_if_both_ways_raise_the_first_error_is_told() -> None:
    def raises(outputs: Any, labels: Any) -> Any:
        raise ValueError(type(outputs).__name__)

    with pytest.raises(ValueError, match="Outputs"):
        call(raises, logits=LOGITS, labels=LABELS)


def test_a_batch_has_logits_unless_another_argument_has_them() -> None:
    assert set(call(lambda batch: batch, logits=LOGITS, labels=LABELS)) == {"logits", "labels"}
    assert set(call(lambda logits, batch: batch, logits=LOGITS, labels=LABELS)) == {"labels"}
    assert set(call(lambda model, batch: batch, logits=LOGITS, labels=LABELS, input_ids=LABELS)) == {
        "labels",
        "input_ids",
    }
    assert call(lambda batch: batch.to("cpu").labels, logits=LOGITS, labels=LABELS) is LABELS


def test_a_model_stands_for_the_whole_batch() -> None:
    model = StandIn({"logits": LOGITS}, is_bare=False)
    assert isinstance(model(LABELS), Outputs)
    assert model(input_ids=LABELS, attention_mask=None).logits is LOGITS
    assert model(LABELS, labels=LABELS).loss is not None
    assert StandIn({"logits": LOGITS}, is_bare=True)(LABELS) is LOGITS
    with pytest.raises(RuntimeError, match="is judged as a trainer, which takes model and micro_batches"):
        model(LABELS[:1])
