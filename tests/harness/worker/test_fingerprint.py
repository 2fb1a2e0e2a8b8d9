"""The code of a pickled object is held against the code that was meant."""

from __future__ import annotations

import types

import pytest
import torch

from shiftproof.harness.worker.fingerprint import changed, fingerprint

SOURCE = """
def helper(x): return x + 1
def loss(logits, labels): return helper(logits)
class Model:
    def __call__(self, logits, labels): return loss(logits, labels)
"""


def module_of(source: str) -> types.ModuleType:
    module = types.ModuleType("library")
    exec(compile(source, "library.py", "exec"), module.__dict__)
    return module


def test_the_same_code_in_another_place_is_the_same() -> None:
    one, other = module_of(SOURCE), module_of("\n\n" + SOURCE)
    assert fingerprint(one.loss) == fingerprint(other.loss)
    assert set(fingerprint(one.Model())) == {"library.Model.__call__", "library.loss", "library.helper"}
    assert changed(fingerprint(one.loss), other.loss) == ""


@pytest.mark.parametrize(
    ("before", "after"), [("x + 1", "x + 2"), ("x + 1", "x - 1"), ("helper(logits)", "helper(labels)")]
)
def test_other_code_is_told_by_name(before: str, after: str) -> None:
    one, other = module_of(SOURCE), module_of(SOURCE.replace(before, after))
    name = "library.helper" if before.startswith("x") else "library.loss"
    assert changed(fingerprint(one.loss), other.loss) == name
    assert changed(fingerprint(one.Model()), other.Model()) == name


def test_a_patched_part_of_a_model_is_told() -> None:
    class Part(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    model = torch.nn.Sequential(Part())
    before = fingerprint(model)
    original, Part.forward = Part.forward, lambda self, x: 2 * x  # type: ignore[method-assign,assignment]
    try:
        assert changed(before, model)
    finally:
        Part.forward = original  # type: ignore[method-assign]
    assert changed(before, model) == ""


def test_the_order_of_a_set_does_not_matter() -> None:
    source = "def loss(logits, labels): return logits in {'a', 'b', 'c', 'd'}"
    assert fingerprint(module_of(source).loss) == fingerprint(module_of(source).loss)
