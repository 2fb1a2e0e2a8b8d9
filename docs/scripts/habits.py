"""How other people test a loss: which inputs they pass, what they compare, and what they call close.

The facts were read in their tests (docs/comparison.md names file and commit); no line of them is copied. What a habit
does not draw, such as token weights, is as in shiftproof's simplest case of the spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from shiftproof.harness.bounds.compare import agreement, same_value
from shiftproof.harness.bounds.derive import Bounds, derive_bounds
from shiftproof.harness.candidates.loss import Observation
from shiftproof.harness.cases.build import Case, build_batch
from shiftproof.harness.cases.recipe import Ids, Recipe
from shiftproof.harness.cases.space import space
from shiftproof.harness.mutants.behaviour import Asked, answer
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.spec import LossSpec

BOOKS = 4  # K for specs with codebooks: the number of MusicGen, and in the space of every spec
EXAMPLES = 100  # the default of Hypothesis

Close = Callable[[Tensor, Tensor], bool]
"""Whether the found tensor is as good as the expected one; both have the same dtype."""


class Ignored(StrEnum):
    """How many of the labels are ignored, at random places."""

    NONE = "none"
    FIFTH = "a fifth"  # cut-cross-entropy, and a typical plain test
    SOME = "1 to half"  # Liger: the number is drawn too


class Layer(StrEnum):
    """How the logits are made: x Wᵀ of hidden states x and a weight W, which then get the gradient."""

    UNIFORM = "uniform"  # Liger: W uniform on [0, 1)
    COPIED = "copied"  # cut-cross-entropy: half of W are rows of x, so that some labels are likely


@dataclass(frozen=True)
class Inputs:
    """One draw: logits [rows, length, classes], with K of them if there are codebooks.

    They are N(0, 1), unless a layer makes them from ``hidden`` features.
    """

    rows: int
    length: int
    classes: int
    dtype: str = "float32"
    ignored: Ignored = Ignored.NONE
    layer: Layer | None = None
    hidden: int = 0
    seed: int = 0


Layers = Mapping[str, tuple[Tensor, Tensor]]
"""For each logits array of a spec that a layer made: x [n, H] and W [V, H], float64."""


@dataclass(frozen=True, eq=False)
class Test:
    """One comparison with the right loss: the inputs, the incoming gradient, the compared values, and the tolerance."""

    __test__ = False  # not a pytest test

    case: Case
    close: Close
    value: bool = True
    gradient: bool = True
    grad_output: float = 1.0
    layers: Layers | None = None

    @cached_property
    def expected(self) -> Observation:
        """The oracle's answer, rounded as the loss promises: the value in fp32, gradients in the logits' dtype."""
        return answer(Asked(self.case, self.grad_output))

    @cached_property
    def _bounds(self) -> Bounds:
        return derive_bounds(self.case, self.case.spec.compute, self.expected.dtype)

    @cached_property
    def _expected_gradients(self) -> Mapping[str, Tensor]:
        assert self.expected.gradients is not None
        return self._of_layers(self.expected.gradients)

    def passes(self, found: Observation) -> bool:
        """Return whether the habit finds nothing wrong. A loss that raised, or has no gradient to compare, fails."""
        if found.problem is not None:
            return False
        # A loss in the logits' own dtype returns its value in that dtype; it is compared in the other's dtype.
        if self.value and not self.close(_one(found).to(self.expected.dtype), _one(self.expected)):
            return False
        if not self.gradient:
            return True
        if found.gradients is None:
            return False
        gradients = self._of_layers(found.gradients)
        return all(self.close(gradients[name], right) for name, right in self._expected_gradients.items())

    def shows(self, found: Observation) -> bool:
        """Return whether the compared values are outside shiftproof's bounds, further off than rounding explains."""
        if found.problem is not None:
            return True
        oracle = self.case.oracle
        assert found.value is not None
        assert oracle.value is not None
        if self.value and not same_value(found.value, oracle.value, self._bounds.value):
            return True
        if not self.gradient:
            return False
        if found.gradients is None:
            return True
        scale = self.grad_output
        return not all(
            bool(agreement(found.gradients[name], right * scale, self._bounds.gradients[name] * scale).all())
            for name, right in oracle.gradients.items()
        )

    def _of_layers(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the gradients that the habit compares, in the logits' dtype: at x and W if a layer made the logits."""
        found = {}
        for name, gradient in gradients.items():
            dtype = self.case.batch.tensor(name).dtype
            if self.layers is None:
                found[name] = gradient.to(dtype)
                continue
            x, weight = self.layers[name]
            flat = gradient.flatten(0, -2)
            found[f"{name}: x"], found[f"{name}: W"] = (flat @ weight).to(dtype), (flat.T @ x).to(dtype)
        return found


def _one(observation: Observation) -> Tensor:
    return torch.tensor(observation.value, dtype=observation.dtype)


def assert_close(found: Tensor, expected: Tensor) -> bool:
    """Compare with torch.testing.assert_close and its defaults."""
    try:
        torch.testing.assert_close(found, expected)
    except AssertionError:
        return False
    return True


def allclose(atol: float, rtol: float) -> Close:
    """Compare with torch.allclose. NaN is close to NaN, which every test of an all-ignored batch needs."""
    return lambda found, expected: torch.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True)


def _simplest(spec: LossSpec, rows: int, length: int, classes: int, dtype: str, books: int = BOOKS) -> Recipe:
    several = "codebooks" in space(spec, frozenset())
    return Recipe(rows, length, classes, books if several else 1, ids=Ids.SEEDED, dtype=dtype)


def _case(
    spec: LossSpec, recipe: Recipe, draw_labels: Callable[[Tensor, int], Tensor], draw: Callable[[str, Tensor], Tensor]
) -> Case:
    """Return the case of a recipe with other labels and logits, each drawn for its place (for labels, with V).

    Labels that shiftproof's simplest case ignores stay ignored: the first label of each concatenated segment.
    """
    blank = build_batch(spec, recipe)
    drawn: dict[str, Any] = {}
    for term in spec.terms:
        classes = blank.tensor(term.logits).shape[-1]
        if term.labels not in drawn:
            ids = blank.tensor(term.labels)
            drawn[term.labels] = torch.where((ids >= 0) & (ids < classes), draw_labels(ids, classes), ids)
        drawn[term.logits] = draw(term.logits, blank.tensor(term.logits))
    batch = replace(blank, **drawn)
    pairing = build_pairing(spec, batch)
    return Case(spec, recipe, batch, pairing, evaluate(pairing, batch))


@lru_cache(maxsize=64)
def random_case(spec: LossSpec, inputs: Inputs) -> tuple[Case, Layers | None]:
    """Return the case of one draw, and the layers that made its logits."""
    random = torch.Generator().manual_seed(inputs.seed)
    dtype = getattr(torch, inputs.dtype)
    ignore_index = spec.terms[0].ignore_index
    layers = {}

    def labels(ids: Tensor, classes: int) -> Tensor:
        drawn = torch.randint(classes, ids.shape, generator=random)
        if inputs.ignored is Ignored.NONE:
            return drawn
        fifth, half = ids.numel() // 5, ids.numel() // 2
        count = fifth if inputs.ignored is Ignored.FIFTH else int(torch.randint(1, half, (), generator=random))
        assert ignore_index is not None
        drawn.view(-1)[torch.randperm(ids.numel(), generator=random)[:count]] = ignore_index
        return drawn

    def logits(name: str, blank: Tensor) -> Tensor:
        if inputs.layer is None:
            return torch.randn(blank.shape, generator=random, dtype=dtype)
        count, classes = blank.shape[:-1].numel(), blank.shape[-1]
        x = torch.randn(count, inputs.hidden, generator=random, dtype=dtype)
        if inputs.layer is Layer.UNIFORM:
            weight = torch.rand(classes, inputs.hidden, generator=random, dtype=dtype)
        else:
            x = x / inputs.hidden**0.5
            weight = torch.randn(classes, inputs.hidden, generator=random, dtype=dtype)
            half = min(count, classes) // 2
            weight[:half] = x[:half]
        layers[name] = (x.double(), weight.double())
        return (x @ weight.T).reshape(blank.shape)

    recipe = _simplest(spec, inputs.rows, inputs.length, inputs.classes, inputs.dtype)
    case = _case(spec, recipe, labels, logits)
    return case, layers or None


def element_wise_cases(spec: LossSpec) -> tuple[Case, ...]:
    """Return what Hypothesis draws if it draws every element: up to 3 rows, 8 positions, 16 classes and 4 codebooks.

    Logits lie in ±10; labels are any class or ignored. The cases do not depend on a loss, so all losses share them.
    """
    found: list[Case] = []
    books = [k for k in space(spec, frozenset()).get("codebooks", (1,)) if k <= BOOKS]
    ignore_index = spec.terms[0].ignore_index
    assert ignore_index is not None

    @seed(0)
    @settings(max_examples=EXAMPLES, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data(), st.integers(1, 3), st.integers(1, 8), st.integers(2, 16), st.sampled_from(sorted(books)))
    def draw(data: st.DataObject, rows: int, length: int, classes: int, k: int) -> None:
        def labels(ids: Tensor, classes: int) -> Tensor:
            ids_or_none = st.one_of(st.integers(0, classes - 1), st.just(ignore_index))
            return torch.from_numpy(data.draw(arrays(np.int64, tuple(ids.shape), elements=ids_or_none)))

        def logits(name: str, blank: Tensor) -> Tensor:
            numbers = st.floats(-10, 10, width=32)
            return torch.from_numpy(data.draw(arrays(np.float32, tuple(blank.shape), elements=numbers)))

        found.append(_case(spec, _simplest(spec, rows, length, classes, "float32", k), labels, logits))

    draw()
    return tuple(found)


@dataclass(frozen=True)
class Habit:
    """A way of testing a loss: ``tests`` yields all its tests for a loss of some spec, the cheapest first."""

    name: str
    tests: Callable[[LossSpec], Iterator[Test]]


def _tested(spec: LossSpec, inputs: Inputs, close: Close, **looks: Any) -> Test:
    case, layers = random_case(spec, inputs)
    return Test(case, close, layers=layers, **looks)


def fixed_shape(ignored: Ignored, gradient: bool, classes: int = 256) -> Callable[[LossSpec], Iterator[Test]]:
    """Run torch.testing.assert_close on (2, 64, V)."""

    def tests(spec: LossSpec) -> Iterator[Test]:
        yield _tested(spec, Inputs(2, 64, classes, ignored=ignored), assert_close, gradient=gradient)

    return tests


LIGER_FUSED = {"float32": allclose(1e-5, 5e-4), "bfloat16": allclose(5e-3, 5e-2)}  # reduction mean
LIGER_FUSED_SUM = {"float32": allclose(1e-3, 5e-2), "bfloat16": allclose(5.0, 50.0)}
LIGER_PLAIN = {"float32": allclose(1e-8, 1e-6), "bfloat16": allclose(1e-8, 5e-2)}


def liger_fused(
    spec: LossSpec, closes: Mapping[str, Close], rows: int = 4, length: int = 47, hidden: int = 31, classes: int = 123
) -> Iterator[Test]:
    """Run test_fused_linear_cross_entropy.py test_correctness, by default at its "random shape"."""
    for dtype, close in closes.items():
        inputs = Inputs(rows, length, classes, dtype, Ignored.SOME, Layer.UNIFORM, hidden)
        yield _tested(spec, inputs, close)


def liger_plain(spec: LossSpec, closes: Mapping[str, Close], classes: int) -> Iterator[Test]:
    """Run test_cross_entropy.py test_correctness, …_with_ignore_index and …_not_last_layer at its "weird shape"."""
    for dtype, close in closes.items():
        for ignored in (Ignored.NONE, Ignored.SOME):
            yield _tested(spec, Inputs(3, 423, classes, dtype, ignored), close)
        yield _tested(spec, Inputs(3, 423, classes, dtype), close, grad_output=3.0)


def liger(spec: LossSpec) -> Iterator[Test]:
    yield from liger_fused(spec, LIGER_FUSED)
    yield from liger_plain(spec, LIGER_PLAIN, classes=128)


def liger_at_full_size(spec: LossSpec) -> Iterator[Test]:
    """Run larger shapes of both files in fp32. (2, 4096, 32000) is left out: one oracle gradient takes 2 GiB."""
    yield from liger_fused(spec, {"float32": LIGER_FUSED["float32"]}, 8, 128, 1024, 4096)
    yield _tested(spec, Inputs(3, 423, 32000, ignored=Ignored.SOME), LIGER_PLAIN["float32"])


def liger_sum(dtype: str) -> Callable[[LossSpec], Iterator[Test]]:
    return lambda spec: liger_fused(spec, {dtype: LIGER_FUSED_SUM[dtype]})


def cut_cross_entropy(spec: LossSpec) -> Iterator[Test]:
    """Run test_cce_loss_forward.py and test_cce_loss_backward.py: tokens in 4 rows, absolute errors."""
    forward = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 1e-2}
    backward = {"float16": 1.2e-3, "bfloat16": 1e-2}
    shapes = ((64, 512, 128), (63, 507, 123))
    for (length, classes, hidden), ignored in product(shapes, (Ignored.NONE, Ignored.FIFTH)):
        for dtype, atol in forward.items():
            inputs = Inputs(4, length, classes, dtype, ignored, Layer.COPIED, hidden)
            yield _tested(spec, inputs, allclose(atol, 0.0), gradient=False)
            if dtype in backward:
                yield _tested(spec, inputs, allclose(backward[dtype], 0.0), value=False)


def element_wise(gradient: bool) -> Callable[[LossSpec], Iterator[Test]]:
    """Run plain Hypothesis with allclose 1e-2."""

    def tests(spec: LossSpec) -> Iterator[Test]:
        for case in _drawn_once(spec):
            yield Test(case, allclose(1e-2, 1e-2), gradient=gradient)

    return tests


_drawn_once = lru_cache(maxsize=1)(element_wise_cases)

HABITS = (
    Habit("assert_close, value, every label counts", fixed_shape(Ignored.NONE, gradient=False)),
    Habit("assert_close, value, a fifth ignored", fixed_shape(Ignored.FIFTH, gradient=False)),
    Habit("assert_close, value and gradient, every label counts", fixed_shape(Ignored.NONE, gradient=True)),
    Habit("assert_close, value and gradient, a fifth ignored", fixed_shape(Ignored.FIFTH, gradient=True)),
    Habit("Liger's tests", liger),
    Habit("cut-cross-entropy's tests", cut_cross_entropy),
    Habit("Hypothesis, value", element_wise(gradient=False)),
    Habit("Hypothesis, value and gradient", element_wise(gradient=True)),
)
