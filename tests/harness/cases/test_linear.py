"""Logits as a product: exact in every dtype, and their gradient read back from the leaf that carries them."""

from __future__ import annotations

import pytest
import torch

from shiftproof.harness.bounds.derive import derive_bounds, derive_leaf_bounds
from shiftproof.harness.candidates.arguments import bind, misfit, values_for
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.linear import LEAVES, WEIGHT, factor, no_linear, read_logits, through
from shiftproof.harness.cases.recipe import Mask, Recipe, Regime, Stride
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute

HF = PROFILES["hf.causal_lm"]
WIDE = 1201
INFINITE = (Regime.MINUS_INF, Regime.PLUS_INF, Regime.TARGET_MINUS_INF)
FINITE = [regime for regime in Regime if regime not in (*INFINITE, Regime.NAN_IGNORED, Regime.NAN_VALID)]


def case_of(regime: Regime = Regime.NORMAL, dtype: str = "float32", classes: int = 11, **fields: object) -> Case:
    return build_case(HF, Recipe(2, 5, classes, masks=(Mask.NONE, Mask.PROMPT), regime=regime, dtype=dtype, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("classes", [2, 11, WIDE])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("regime", [*FINITE, Regime.NAN_IGNORED, Regime.NAN_VALID])
def test_the_product_is_the_logits_to_the_last_bit(regime: Regime, dtype: str, classes: int, biased: bool) -> None:
    case = case_of(regime, dtype, classes)
    linear = factor(case, biased)
    logits = case.batch.tensor("logits")
    assert linear.hidden.dtype == linear.weight.dtype == linear.bias.dtype == logits.dtype
    for kind in (torch.float32, torch.float64):
        made = torch.nn.functional.linear(*(each.to(kind) for each in (linear.hidden, linear.weight, linear.bias)))
        torch.testing.assert_close(made, logits.to(kind), rtol=0, atol=0, equal_nan=True)
    assert linear.by_hidden == (classes < WIDE)
    assert linear.hidden.shape[-1] % 16 == 0
    assert bool(linear.bias.any()) <= biased


@pytest.mark.parametrize("least", [256, 1000, 4096])
@pytest.mark.parametrize("classes", [2, 300, WIDE])
def test_hidden_states_may_be_wider_than_the_logits_need(classes: int, least: int) -> None:
    case = case_of(classes=classes, hidden_size=least)
    linear, narrow = factor(case, False), factor(case_of(classes=classes), False)
    assert linear.width % 32 == 0
    assert linear.width == max(narrow.width, -(-least // 32) * 32)
    product = linear.hidden.double() @ linear.weight.double().T
    assert torch.equal(product, case.batch.tensor("logits").double())
    if classes > 2 and linear.width > narrow.width:  # a part of the columns makes other logits
        part = linear.hidden[..., : linear.width // 2].double() @ linear.weight[:, : linear.width // 2].double().T
        assert not torch.equal(part, product)


def test_classes_have_a_bias_where_they_lose_no_bit_by_it() -> None:
    assert bool(factor(case_of(), True).bias.all())
    assert bool(factor(case_of(Regime.TIES, "bfloat16"), True).bias.all())


@pytest.mark.parametrize("classes", [11, WIDE])
def test_a_gradient_is_read_back_from_the_leaf_that_carries_the_logits(classes: int) -> None:
    case = case_of(classes=classes)
    linear, gradient = factor(case, True), case.oracle.gradients["logits"]
    assert torch.equal(read_logits(linear, through(linear, gradient), tuple(gradient.shape)), gradient)


def test_the_leaves_have_autograds_gradients() -> None:
    case = case_of()
    linear = factor(case, True)
    leaves = {name: linear.leaf(name).double().requires_grad_() for name in LEAVES}
    gradient = case.oracle.gradients["logits"]
    torch.nn.functional.linear(*leaves.values()).backward(gradient)
    for name, found in through(linear, gradient).items():
        torch.testing.assert_close(found, leaves[name].grad, rtol=1e-12, atol=1e-15)


def test_in_the_loud_column_nothing_cancels() -> None:
    case = case_of()
    linear, gradient = factor(case, False), case.oracle.gradients["logits"].flatten(0, -2)
    products = gradient[:, :, None] * linear.hidden.double().flatten(0, -2)[:, None, :]
    total, magnitude = products.sum(0), products.abs().sum(0)
    idle = ~linear.weight.any(0)
    loud = case.pairing.pairs[0].target
    assert bool((total[loud, idle].abs() == magnitude[loud, idle]).any())


def test_rows_that_are_expanded_stay_alike() -> None:
    linear = factor(case_of(Regime.CALM, stride=Stride.EXPANDED), True)
    assert torch.equal(linear.hidden[0], linear.hidden[1])


def test_a_matmul_in_the_dtype_is_within_the_bounds_and_a_tenth_off_is_not() -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        case = case_of(dtype=dtype, classes=101)
        linear = factor(case, True)
        bounds = derive_leaf_bounds(case, linear, derive_bounds(case, Compute.STRICT, torch.float32))
        rounded = case.oracle.gradients["logits"].to(linear.hidden.dtype)
        right = through(linear, case.oracle.gradients["logits"])
        found = rounded.flatten(0, -2).T @ linear.hidden.flatten(0, -2)
        assert bool(((found.double() - right[WEIGHT]).abs() <= bounds[WEIGHT]).all())
        assert not bool(((1.1 * right[WEIGHT] - right[WEIGHT]).abs() <= bounds[WEIGHT]).all())


def test_one_weight_makes_one_array_of_logits() -> None:
    assert no_linear(HF) is None
    assert no_linear(PROFILES["liger"]) is None
    assert "audio_logits" in (no_linear(PROFILES["higgs.hf"]) or "")
    assert "codebook" in (no_linear(PROFILES["musicgen"]) or "")


def test_a_flat_spec_flattens_the_hidden_states() -> None:
    names = [(name, True) for name in ("hidden_states", "lm_head_weight", "labels")]
    tensors, _ = values_for(build_case(PROFILES["liger"], Recipe(2, 3, 5)), bind("m:f", names, {}))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "hidden_states": (6, 32),
        "lm_head_weight": (5, 32),
        "labels": (6,),
    }


def test_who_takes_logits_is_given_them_alone() -> None:
    both = bind("m:f", [("logits", True), ("hidden_states", False), ("lm_head_weight", False)], {})
    tensors, scalars = values_for(case_of(), both)
    assert (set(tensors), scalars) == ({"logits"}, {})


@pytest.mark.parametrize(
    ("parameters", "profile", "said"),
    [
        (("hidden_states", "labels"), "hf.causal_lm", "requires hidden_states, which comes only with"),
        (("logits", "lm_head_weight"), "hf.causal_lm", "in place of logits"),
        (("hidden_states", "lm_head_weight", "labels"), "higgs.hf", "no such logits"),
    ],
)
def test_what_does_not_fit_is_said(parameters: tuple[str, ...], profile: str, said: str) -> None:
    binding = bind("m:f", [(name, True) for name in parameters], {})
    assert said in (misfit("m:f", binding, PROFILES[profile]) or "")
