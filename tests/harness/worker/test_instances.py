"""From a name to what can be called: classes are instantiated, factories called."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from shiftproof.harness.candidates.values import parse_values
from shiftproof.harness.worker.instances import instance_of
from shiftproof.harness.worker.target import LoadFailure, Target


class Scaled:
    def __init__(self, factor: float, power: int = 1) -> None:
        self.factor, self.power = factor, power

    def __call__(self, logits: float) -> float:
        return float(self.factor * logits**self.power)

    def method(self, logits: float) -> float:
        return self(logits) + 1

    @classmethod
    def of_class(cls, logits: float) -> str:
        return cls.__name__

    @staticmethod
    def static(logits: float) -> float:
        return logits


class Plain(Scaled):
    def __init__(self) -> None:
        super().__init__(5)


class Module(nn.Module):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: float) -> float:
        return self.factor * logits

    def step(self, logits: float) -> float:
        return self(logits) + 1


class Breaks:
    def __init__(self, factor: float = 1.0) -> None:
        raise OSError("no weights")

    def method(self, logits: float) -> float:
        return logits


def make(factor: float) -> Callable[[float], float]:
    return lambda logits: factor * logits


def taken(found: Any, init: dict[str, Any] | None = None, owner: Any = None) -> Callable[..., Any]:
    return instance_of(owner, found, Target("m:it", init=init))


def refused(found: Any, init: dict[str, Any] | None = None, owner: Any = None) -> LoadFailure:
    with pytest.raises(LoadFailure) as caught:
        taken(found, init, owner)
    return caught.value


def test_a_function_is_taken_as_it_is_and_called_with_init() -> None:
    assert taken(make) is make
    assert taken(make, {"factor": 3})(2) == 6


def test_init_without_arguments_still_calls_a_factory() -> None:
    assert taken(lambda: make(4), {})(2) == 8


def test_a_class_is_made_with_and_without_arguments() -> None:
    assert taken(Scaled, {"factor": 3, "power": 2})(2) == 12
    assert taken(Plain)(2) == 10
    assert taken(Module, {"factor": 7.0})(2) == 14
    assert taken(functools.partial(Scaled, 2), {"power": 3})(2) == 16


def test_a_class_that_needs_arguments_says_how_to_give_them_and_that_works() -> None:
    failure = refused(Scaled)
    assert (failure.reason, failure.is_usage) == ("not callable", True)
    assert "a class that cannot be made without arguments (missing a required argument: 'factor')" in failure.message
    assert "init = { name = value } (--init name=value)" in failure.message
    assert taken(Scaled, parse_values("--init", ["factor=3"]))(2) == 6


def test_arguments_that_a_class_does_not_take_are_refused_before_it_is_made() -> None:
    failure = refused(Breaks, {"smoothing": 0.1})
    assert failure.reason == "not callable"
    assert "cannot be made with smoothing (got an unexpected keyword argument 'smoothing')" in failure.message


def test_what_raises_while_it_is_made_keeps_its_traceback() -> None:
    failure = refused(Breaks, {"factor": 2})
    assert failure.reason == "import failed"
    assert failure.message == "making a m:it with factor raised OSError: no weights"
    assert 'raise OSError("no weights")' in failure.traceback


def test_what_is_no_factory_of_these_arguments_is_told() -> None:
    failure = refused(make, {"wrong": 1})
    assert failure.reason == "not callable"
    assert "init is for a class, or for a factory that makes the loss" in failure.message


def test_what_cannot_be_called_is_refused_by_what_it_is() -> None:
    assert refused(5).message == "m:it is of type int, which cannot be called"
    assert refused(lambda: 5, {}).message == "m:it makes a int, which cannot be called"


def test_a_method_gets_an_instance() -> None:
    assert taken(Plain.method, owner=Plain)(2) == 11
    assert taken(Scaled.method, {"factor": 3}, owner=Scaled)(2) == 7
    assert taken(Module.step, {"factor": 3}, owner=Module)(2) == 7
    assert isinstance(taken(Module.step, owner=Module).__self__, Module)  # type: ignore[attr-defined]


def test_a_class_that_cannot_be_constructed_still_has_its_method() -> None:
    found = taken(Breaks.method, owner=Breaks)
    assert isinstance(found.__self__, Breaks)  # type: ignore[attr-defined]
    assert found(2) == 2
    assert refused(Breaks.method, {"factor": 1}, owner=Breaks).reason == "import failed"  # it was asked for


def test_a_static_and_a_class_method_need_no_instance() -> None:
    assert taken(Scaled.static, owner=Scaled)(2) == 2
    assert taken(Scaled.of_class, owner=Scaled)(2) == "Scaled"


def test_an_instances_own_method_keeps_its_instance() -> None:
    scaled = Scaled(3)
    assert taken(scaled.method, owner=scaled)(2) == 7


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Any) -> Any:
        return logits


@pytest.mark.parametrize("found", [Function, Function.apply])
def test_an_autograd_function_is_to_be_wrapped(found: Any) -> None:
    failure = refused(found, owner=Function)
    assert failure.reason == "no signature"
    assert "wrap it in a function" in failure.message
