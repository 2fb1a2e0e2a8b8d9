"""The parameters of a forward, also of one that passes what it is given on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shiftproof.harness.worker.tiny.forward import parameters_of


class Model(torch.nn.Module):
    def forward(self, input_ids: Any, labels: Any = None, use_cache: bool = True) -> Any: ...


class Positional(Model):
    def forward(self, *arguments: Any, **rest: Any) -> Any: ...


class Named(Positional):
    def forward(self, labels: Any, **rest: Any) -> Any: ...


class Alone(Model):
    def forward(self, input_features: Any, labels: Any = None) -> Any: ...


class OfItsOwn(Model):
    def forward(self, input_ids: Any, **rest: Any) -> Any: ...


class Silent(torch.nn.Module):
    pass


@pytest.mark.parametrize(
    ("model_class", "names"),
    [
        (Model, {"self", "input_ids", "labels", "use_cache"}),
        (Positional, {"self", "arguments", "rest", "input_ids", "labels", "use_cache"}),
        (Named, {"self", "arguments", "rest", "input_ids", "labels", "use_cache"}),
        (Alone, {"self", "input_features", "labels"}),
        (OfItsOwn, {"self", "input_ids", "rest"}),
        (Silent, set()),
    ],
)
def test_parameters(model_class: type[torch.nn.Module], names: set[str]) -> None:
    assert set(parameters_of(model_class)) == names


def test_the_nearest_class_says_what_a_parameter_is() -> None:
    assert parameters_of(Named)["labels"].default is parameters_of(Named)["labels"].empty
