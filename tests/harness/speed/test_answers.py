"""The right answer to a timed call, made some rows at a time, is the reference's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shiftproof.harness.candidates.arguments import lay_back, lay_out
from shiftproof.harness.speed import answers as module
from shiftproof.harness.speed.answers import Answer, Tolerance, difference, expected
from shiftproof.harness.speed.inputs import Inputs, make_inputs
from shiftproof.harness.speed.shapes import Shape, has_heads, recipe_of
from shiftproof.harness.worker.fresh import sketch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute, LossSpec, Reduction

SKETCH = 7
SPECS = [spec for spec in PROFILES.values() if spec.terms[0].reduction is not Reduction.NONE]


def inputs_of(spec: LossSpec, dtype: str = "float32") -> Inputs:
    books = 3 if has_heads(spec) else 1
    return make_inputs(spec, recipe_of(spec, Shape("own", 3, 17, 29, codebooks=books), dtype, 4))


def by_the_reference(inputs: Inputs) -> Answer:
    """By the list of pairs, in float64, on all logits."""
    batch, spec = inputs.batch, inputs.spec
    logits = {
        name: lay_back(spec, name, inputs.logits(name), tuple(batch.tensor(name).shape)).contiguous()
        for name in spec.logits
    }
    right = evaluate(build_pairing(spec, batch), replace(batch, **logits))
    assert right.value is not None
    sketches, scales = {}, {}
    for name, gradient in right.gradients.items():
        rows = lay_out(spec, name, gradient).flatten(0, -2)
        sketches[name] = (rows @ sketch(SKETCH, rows.shape[-1], rows.device).double()).float()
        scales[name] = rows.abs().amax(-1).float()
    return Answer(right.value, sketches, scales)


@pytest.mark.parametrize("rows", [16, 1 << 20], ids=["16 rows at a time", "all at once"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_it_is_what_the_reference_finds(spec: LossSpec, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", rows * 29)
    inputs = inputs_of(spec)
    right = by_the_reference(inputs)
    found = expected(inputs, SKETCH, "cpu")
    assert found.value == pytest.approx(right.value, rel=1e-5, abs=1e-6)
    assert list(found.sketches) == list(right.sketches) == list(spec.logits)
    for name, sketched in right.sketches.items():
        torch.testing.assert_close(found.sketches[name], sketched, rtol=1e-4, atol=1e-6)
        if sum(term.logits == name for term in spec.terms) == 1:
            torch.testing.assert_close(found.scales[name], right.scales[name], rtol=1e-4, atol=1e-7)
        else:  # the largest of a sum is at most the sum of the largest
            assert (found.scales[name] >= right.scales[name] * (1 - 1e-4)).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str) -> None:
    inputs = inputs_of(PROFILES["hf.causal_lm"], dtype)
    tolerance = Tolerance.of(dtype, Compute.STRICT)
    right = by_the_reference(inputs)
    assert difference(expected(inputs, SKETCH, "cpu"), right, tolerance) is None
    other = replace(inputs, recipe=replace(inputs.recipe, seed=5))
    assert difference(expected(other, SKETCH, "cpu"), right, tolerance) is not None


def test_without_a_gradient() -> None:
    inputs = inputs_of(PROFILES["hf.causal_lm"])
    answer = expected(inputs, SKETCH, "cpu", gradient=False)
    assert answer.value == expected(inputs, SKETCH, "cpu").value
    assert not answer.sketches
