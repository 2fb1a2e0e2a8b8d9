"""The yardsticks as autograd sees them: any gradient coming in, again, without gradients, and at scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.harness.bounds.compare import compare_tensors, same_value
from shiftproof.harness.bounds.derive import derive_bounds
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Mask, Recipe, Regime
from shiftproof.reference.batch import Batch, BatchError
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute, LossSpec, LossTerm, Score
from shiftproof.reference.yardstick import Unsupported, linear_yardstick, yardstick

from .scores import SCORES

DTYPES = ("float32", "bfloat16", "float16", "float64")
MIXED = (Mask.NONE, Mask.PROMPT, Mask.HOLES, Mask.ALL)
CAUSAL = PROFILES["hf.causal_lm"]


def spec_of(score: Score, **term: Any) -> LossSpec:
    return LossSpec("free", (LossTerm(score=score, **term),), "", "")


def arguments_of(case: Case) -> dict[str, Any]:
    """The batch by name, its logits leaves of their own."""
    given = {field.name: getattr(case.batch, field.name) for field in fields(Batch)}
    return given | {name: given[name].detach().clone().requires_grad_() for name in case.spec.logits}


def assert_right(case: Case, loss: Tensor, leaves: dict[str, Any], grad_output: float = 1.0) -> None:
    """Value and gradients within the bounds of the judge."""
    bounds = derive_bounds(case, Compute.STRICT, loss.dtype)
    assert case.oracle.value is not None
    assert same_value(float(loss.detach()), case.oracle.value, bounds.value), case.recipe
    for name in case.spec.logits:
        expected, allowed = (
            case.oracle.gradients[name] * grad_output,
            bounds.gradients[name] * max(abs(grad_output), 1.0),
        )
        mismatch = compare_tensors(leaves[name].grad.double(), expected, allowed)
        assert mismatch is None, (mismatch.describe("gradient"), case.recipe)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_scores(score: Score, dtype: str) -> None:
    for classes, regime in ((2, Regime.TIES), (7, Regime.NORMAL), (257, Regime.SHARP), (33, Regime.HUGE)):
        recipe = Recipe(rows=4, length=9, classes=classes, masks=MIXED, regime=regime, dtype=dtype, seed=classes)
        case = build_case(spec_of(score), recipe)
        leaves = arguments_of(case)
        loss = yardstick(case.spec)(**leaves)
        loss.backward()
        assert loss.dtype is (torch.float64 if dtype == "float64" else torch.float32)
        assert_right(case, loss, leaves)


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("classes", [32000, 128256])
def test_large_vocabularies(classes: int, dtype: str) -> None:
    recipe = Recipe(rows=2, length=5, classes=classes, masks=MIXED[1:3], dtype=dtype)
    case = build_case(CAUSAL, recipe)
    leaves = arguments_of(case)
    loss = yardstick(CAUSAL)(**leaves)
    loss.backward()
    assert_right(case, loss, leaves)


def test_large_rows() -> None:
    case = build_case(CAUSAL, Recipe(rows=2, length=900, classes=129, masks=MIXED[1:3], dtype="bfloat16"))
    leaves = arguments_of(case)
    loss = yardstick(CAUSAL)(**leaves)
    loss.backward()
    assert_right(case, loss, leaves)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grad_output", [0.5, -3.0, 0.0])
def test_any_gradient_may_come_in_and_again(grad_output: float, dtype: str) -> None:
    case = build_case(CAUSAL, Recipe(rows=3, length=8, classes=11, masks=MIXED, dtype=dtype))
    leaves = arguments_of(case)
    loss = yardstick(CAUSAL)(**leaves)
    loss.backward(torch.tensor(grad_output, dtype=loss.dtype), retain_graph=True)
    assert_right(case, loss, leaves, grad_output)
    first = leaves["logits"].grad
    leaves["logits"].grad = None
    loss.backward(torch.tensor(2.0, dtype=loss.dtype))
    assert_right(case, loss, leaves, 2.0)
    assert first is not leaves["logits"].grad
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_loss_scale_keeps_small_fp16_gradients() -> None:
    """At 1/4096 of a probability of 1e-4, a gradient of float16 is there only if it is scaled before it is rounded."""
    logits = torch.zeros(1, 4097, 1000, dtype=torch.float16, requires_grad=True)
    loss = yardstick(CAUSAL)(logits=logits, labels=torch.zeros(1, 4097, dtype=torch.long))
    (loss * 65536).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, 0, 1].item(), 65536 / 4096 / 1000, rtol=1e-3, atol=0)


def test_an_infinite_gradient_leaves_ignored_rows_at_zero() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    loss = yardstick(CAUSAL)(logits=logits, labels=torch.tensor([[0, 1, -100]]))
    loss.backward(torch.tensor(math.inf))
    assert logits.grad is not None
    assert logits.grad[0, 0].isinf().all()
    assert (logits.grad[0, 1:] == 0).all()


def test_per_token_gradients_scale_each_its_own_row() -> None:
    for name in ("per_token", "per_token.trimmed"):
        case = build_case(PROFILES[name], Recipe(rows=2, length=5, classes=7, masks=(Mask.NONE, Mask.HOLES)))
        leaves = arguments_of(case)
        loss = yardstick(case.spec)(**leaves)
        assert loss.shape == case.pairing.output_shape
        loss.backward(torch.arange(float(loss.numel())).reshape(loss.shape))
        one = arguments_of(case)
        again = yardstick(case.spec)(**one)
        (again * torch.arange(float(loss.numel())).reshape(loss.shape)).sum().backward()
        torch.testing.assert_close(leaves["logits"].grad, one["logits"].grad, rtol=0, atol=0)
        assert (leaves["logits"].grad[1, 1] != 0).any()


def test_inputs_are_left_alone_and_nothing_is_recorded_without_gradients() -> None:
    logits = torch.randn(2, 6, 9)
    kept = logits.clone()
    labels = torch.randint(9, (2, 6))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            loss = yardstick(CAUSAL)(logits=logits.requires_grad_(), labels=labels)
            assert not loss.requires_grad
        logits = logits.detach()
    yardstick(CAUSAL)(logits=logits.requires_grad_(), labels=labels).backward()
    assert torch.equal(logits.detach(), kept)


def test_the_gradient_is_handed_over_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    empty = torch.empty

    def remembering(*args: Any, **options: Any) -> Tensor:
        tensor: Tensor = empty(*args, **options)
        made.append(tensor.data_ptr())
        return tensor

    monkeypatch.setattr(torch, "empty", remembering)
    logits = torch.randn(1, 40, 50, requires_grad=True)
    (yardstick(CAUSAL)(logits=logits, labels=torch.randint(50, (1, 40))) * 3).backward()
    assert logits.grad is not None
    assert logits.grad.data_ptr() in made


def test_a_label_that_is_no_class_is_refused() -> None:
    with pytest.raises(IndexError, match="2 labels are no class"):
        yardstick(CAUSAL)(logits=torch.zeros(1, 4, 5), labels=torch.tensor([[0, 5, -1, 2]]))


# --- the linear layer -------------------------------------------------------------------------------------------------


def layer(dtype: torch.dtype, rows: int = 3, length: int = 30, classes: int = 50) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden_states": (rows, length, 16), "lm_head_weight": (classes, 16), "lm_head_bias": (classes,)}
    return {name: torch.randn(shape, generator=generator).to(dtype).requires_grad_() for name, shape in shapes.items()}


def materialised(leaves: dict[str, Tensor], loss: Callable[[Tensor], Tensor]) -> tuple[float, dict[str, Any]]:
    """A loss of all the logits, in float64, and its gradients at the leaves."""
    wide = {name: leaf.detach().double().requires_grad_() for name, leaf in leaves.items()}
    value = loss(F.linear(wide["hidden_states"], wide["lm_head_weight"], wide["lm_head_bias"]))
    value.backward()
    return float(value.detach()), {name: leaf.grad for name, leaf in wide.items()}


@pytest.fixture(params=["some rows", "some classes"])
def at_a_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way through a linear layer, whichever suits this machine."""
    monkeypatch.setattr("shiftproof.reference.yardstick.linear.suits", lambda hidden: request.param == "some classes")


@pytest.mark.usefixtures("at_a_time")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("score", [Score(), SCORES["all"]], ids=["plain", "all"])
def test_linear_layers(score: Score, dtype: torch.dtype) -> None:
    labels = torch.randint(50, (3, 30)).masked_fill(torch.rand(3, 30) < 0.3, -100)
    weights = torch.rand(50)
    spec, others = spec_of(score), {"labels": labels, **({"class_weights": weights} if score.class_weights else {})}
    leaves = layer(dtype)
    loss = linear_yardstick(spec)(**leaves, **others)
    loss.backward(torch.tensor(3.0, dtype=loss.dtype))
    expected, right = materialised(leaves, lambda logits: 3 * yardstick(spec)(logits=logits, **others))
    tolerance = 8 * torch.finfo(dtype).eps
    assert abs(3 * float(loss.detach()) - expected) <= tolerance * expected
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        difference = (leaf.grad.double() - right[name]).abs().max()
        assert difference <= 4 * tolerance * right[name].abs().max(), name


@pytest.mark.usefixtures("at_a_time")
def test_linear_layers_without_a_bias_or_a_gradient_at_the_weight() -> None:
    leaves = layer(torch.float32)
    leaves["lm_head_weight"].requires_grad_(False)
    labels = torch.randint(50, (3, 30))
    hidden, weight = leaves["hidden_states"], leaves["lm_head_weight"]
    linear_yardstick(CAUSAL)(hidden_states=hidden, lm_head_weight=weight, labels=labels).backward()
    assert weight.grad is None
    given = hidden.grad
    hidden.grad = None
    yardstick(CAUSAL)(logits=F.linear(hidden, weight), labels=labels).backward()
    torch.testing.assert_close(given, hidden.grad)


@pytest.mark.usefixtures("at_a_time")
def test_linear_layers_per_token_and_again() -> None:
    spec = PROFILES["per_token"]
    leaves = layer(torch.float32)
    labels = torch.randint(50, (3, 30))
    grad_output = torch.rand(3, 30)
    loss = linear_yardstick(spec)(**leaves, labels=labels)
    loss.backward(torch.ones_like(loss), retain_graph=True)
    for leaf in leaves.values():
        leaf.grad = None
    loss.backward(grad_output)
    _, right = materialised(leaves, lambda logits: (yardstick(spec)(logits=logits, labels=labels) * grad_output).sum())
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double(), right[name], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("at_a_time")
def test_rows_that_nobody_scores_are_not_multiplied() -> None:
    leaves = layer(torch.float32)
    with torch.no_grad():
        leaves["hidden_states"][:, 5:] = torch.nan
    labels = torch.full((3, 30), -100)
    labels[:, :6] = 7
    loss = linear_yardstick(CAUSAL)(**leaves, labels=labels)
    loss.backward()
    assert loss.isfinite()
    for leaf in leaves.values():
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    assert (leaves["hidden_states"].grad[:, 5:] == 0).all()


@pytest.mark.usefixtures("at_a_time")
def test_linear_layers_of_an_empty_batch() -> None:
    leaves = layer(torch.float32)
    loss = linear_yardstick(CAUSAL)(**leaves, labels=torch.full((3, 30), -100))
    loss.backward()
    assert loss.isnan()
    assert all((leaf.grad == 0).all() for leaf in leaves.values())


def test_all_the_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    from shiftproof.reference.yardstick import linear

    largest: list[int] = []
    score_rows = linear.score_rows

    def watching(logits: Tensor, *others: Any) -> Tensor:
        largest.append(len(logits))
        return score_rows(logits, *others)

    monkeypatch.setattr(linear, "score_rows", watching)
    linear_yardstick(CAUSAL)(**layer(torch.float32, 4, 513), labels=torch.randint(50, (4, 513)))
    assert max(largest) <= 4 * 513 // 6
    assert sum(largest) == 4 * 512


@pytest.mark.parametrize("name", ["musicgen", "higgs.hf", "medusa", "torchtitan.mtp"])
def test_what_no_linear_layer_gives_is_refused(name: str) -> None:
    with pytest.raises(Unsupported, match="one array of logits"):
        linear_yardstick(PROFILES[name])


def test_a_layer_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BatchError, match=r"\[V, H\]"):
        linear_yardstick(CAUSAL)(hidden_states=torch.zeros(1, 2, 3), lm_head_weight=torch.zeros(5, 4))
