"""The bounds: right evaluations never fail them, wrong ones do, and on a case where they would not, that is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.harness.cases import Case, build_case
from shiftproof.harness.compare import (
    Bounds,
    Precision,
    compare_tensors,
    dead_gradient_bound,
    dead_value_bound,
    derive_bounds,
    misalign,
    same_value,
)
from shiftproof.harness.recipe import Ids, Mask, Recipe, Regime
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.profiles import PROFILES

STRICT, NATIVE = Precision.STRICT, Precision.NATIVE
SHAPES = [  # rows, length, classes
    (1, 2, 2),
    (2, 4, 3),
    (3, 7, 17),
    (5, 8, 101),
    (1, 2, 4099),
    (2, 9, 4099),
    (1, 301, 257),
    (4, 65, 521),
    (40, 51, 7),
    (1, 2001, 2),
]
NUMBERS = (Regime.CALM, Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.HUGE, Regime.MINUS_INF)
LOW = ("bfloat16", "float16")

Loss = Callable[[Tensor, Tensor], Tensor]


def grid(regime: Regime, dtype: str, profile: str = "torchtune") -> Iterator[Case]:
    for rows, length, classes in SHAPES:
        for seed in range(2):
            yield build_case(
                PROFILES[profile],
                Recipe(
                    rows=rows,
                    length=length,
                    classes=classes,
                    masks=(Mask.NONE, Mask.PROMPT) if seed else (Mask.NONE,),
                    ids=Ids.EDGES if seed else Ids.SEEDED,
                    regime=regime,
                    dtype=dtype,
                    seed=seed,
                ),
            )


def run(loss: Loss, case: Case) -> tuple[Tensor, Tensor]:
    """The value and the gradient at the logits of a loss over rows that were shifted already."""
    logits = case.batch.logits.clone().requires_grad_()
    targets = F.pad(case.batch.labels, (0, 1), value=-100)[:, 1:].reshape(-1)
    value = loss(logits.reshape(-1, logits.shape[-1]), targets)
    value.sum().backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


def native(rows: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(rows, targets)


def upcast(rows: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(rows.float(), targets)


def by_logsumexp(rows: Tensor, targets: Tensor) -> Tensor:
    rows, valid = rows.float(), targets != -100
    rows, targets = rows[valid], targets[valid]
    return (torch.logsumexp(rows, -1) - rows.gather(-1, targets[:, None]).squeeze(-1)).mean()


def one_after_the_other(rows: Tensor, targets: Tensor) -> Tensor:
    """Summed in fp32 from left to right, the least exact order."""
    scores = F.cross_entropy(rows.float(), targets, reduction="none")
    return scores.cumsum(0)[-1] / (targets != -100).sum()


def share(error: Tensor | float, bound: Tensor | float) -> float:
    """The largest error over its bound; infinite where there is an error and no bound."""
    error = torch.as_tensor(error, dtype=torch.float64)
    ratio = torch.where(error == 0, torch.zeros_like(error), error / torch.as_tensor(bound, dtype=torch.float64))
    return float(ratio.nan_to_num(nan=math.inf).max())


def shares(loss: Loss, case: Case, precision: Precision) -> tuple[float, float]:
    value, gradient = run(loss, case)
    bounds = derive_bounds(case, precision, value.dtype)
    assert case.oracle.value is not None
    return (
        share(abs(float(value) - case.oracle.value), bounds.value),
        share((gradient.double() - case.oracle.gradient).abs(), bounds.gradient),
    )


def worst_of(loss: Loss, cases: Iterator[Case], precision: Precision) -> tuple[float, float]:
    pairs = [shares(loss, case, precision) for case in cases]
    worst = max(value for value, _ in pairs), max(gradient for _, gradient in pairs)
    print(f"worst error/bound of {len(pairs)}: value {worst[0]:.3f}, gradient {worst[1]:.3f}")
    return worst


@pytest.mark.parametrize("dtype", ["float32", *LOW])
@pytest.mark.parametrize("regime", NUMBERS)
@pytest.mark.parametrize("loss", [upcast, by_logsumexp, one_after_the_other])
def test_right_losses_in_fp32_are_never_alarmed(loss: Loss, regime: Regime, dtype: str) -> None:
    value, gradient = worst_of(loss, grid(regime, dtype), STRICT)
    assert value < 0.5, "half of what is allowed: the safety factor is used up"
    assert gradient < 0.5


def test_a_large_vocabulary_may_be_summed_one_class_after_the_other() -> None:
    # torch sums exponentials one after the other on a CPU: where many are equal, rounding all goes one way.
    recipes = [Recipe(1, 3, 32000, ids=Ids.SEEDED, regime=Regime.TIES, seed=seed) for seed in range(2)]
    cases = (build_case(PROFILES["torchtune"], recipe) for recipe in recipes)
    assert max(worst_of(upcast, cases, STRICT)) < 0.5


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("regime", NUMBERS)
def test_native_losses_are_never_alarmed_as_such(regime: Regime, dtype: str) -> None:
    cases = grid(regime, dtype)
    if (regime, dtype) == (Regime.HUGE, "float16"):
        # A mean whose sum is past 65504 is inf, in torch too: only the gradient can be right.
        assert max(shares(native, case, NATIVE)[1] for case in cases) < 1
        return
    assert max(worst_of(native, cases, NATIVE)) < 1


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.SHARP])
def test_native_losses_are_not_strict(regime: Regime, dtype: str) -> None:
    def alarmed(case: Case) -> bool:
        value, gradient = run(native, case)
        # Judged by what fp32 arithmetic would return, as upcast losses are.
        bounds = derive_bounds(case, STRICT, torch.float32)
        assert case.oracle.value is not None
        wrong_value = not same_value(float(value), case.oracle.value, bounds.value)
        return wrong_value or compare_tensors(gradient.double(), case.oracle.gradient, bounds.gradient) is not None

    assert any(alarmed(case) for case in grid(regime, dtype))


def test_a_native_gradient_fails_strict_even_where_its_value_is_forgiven() -> None:
    cases = list(grid(Regime.SHARP, "bfloat16"))
    assert any(shares(native, case, STRICT)[1] > 1 for case in cases)
    assert all(shares(upcast, case, STRICT)[1] < 1 for case in cases)


@pytest.mark.parametrize("dtype", ["float32", *LOW])
@pytest.mark.parametrize("regime", NUMBERS)
def test_scores_token_by_token_are_never_alarmed(regime: Regime, dtype: str) -> None:
    def each(rows: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(rows.float(), targets, reduction="none")

    for case in grid(regime, dtype, "per_token"):
        scores = run(each, case)[0].reshape(case.batch.labels.shape)
        found = torch.stack([scores[pair.logit] for pair in case.pairing.pairs]).double()
        bounds = derive_bounds(case, STRICT, torch.float32)
        assert share((found - case.oracle.per_token).abs(), bounds.per_token) < 0.5


def test_bf16_output_is_allowed_its_own_rounding_and_no_more() -> None:
    for case in grid(Regime.NORMAL, "bfloat16"):
        assert case.oracle.value is not None
        rounded = float(torch.tensor(case.oracle.value).bfloat16())
        assert same_value(rounded, case.oracle.value, derive_bounds(case, STRICT, torch.bfloat16).value)
        wrong = case.oracle.value * 1.04
        assert not same_value(wrong, case.oracle.value, derive_bounds(case, STRICT, torch.bfloat16).value)


# Alive: what is wrong fails.


def telling(regime: Regime, dtype: str = "float32") -> list[Case]:
    """Cases on which wrong and right really differ: several labels, more than two classes."""
    return [case for case in grid(regime, dtype) if len(case.pairing.pairs) > 3 and case.recipe.classes > 2]


@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.MINUS_INF])
def test_null_candidates_fail(regime: Regime) -> None:
    for case in telling(regime):
        bounds = derive_bounds(case, STRICT, torch.float32)
        right = case.oracle.value
        assert right is not None
        misaligned = evaluate(misalign(case), case.batch.logits)
        assert misaligned.value is not None
        for value in (0.0, math.log(case.recipe.classes), misaligned.value):
            assert not same_value(value, right, bounds.value)
        targets_only = torch.zeros_like(case.oracle.gradient)
        for pair in case.pairing.pairs:
            targets_only[pair.logit][pair.target] -= pair.weight
        for gradient in (torch.zeros_like(case.oracle.gradient), targets_only, misaligned.gradient):
            assert compare_tensors(gradient, case.oracle.gradient, bounds.gradient) is not None
        assert dead_value_bound(case, bounds) is None
        assert dead_gradient_bound(case, bounds) is None


@pytest.mark.parametrize("factor", [0.99, 1.01, 1.001])
@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.SHARP, Regime.TIES])
def test_a_little_too_much_or_too_little_fails(regime: Regime, factor: float) -> None:
    for case in telling(regime):
        bounds = derive_bounds(case, STRICT, torch.float32)
        assert case.oracle.value is not None
        assert not same_value(case.oracle.value * factor, case.oracle.value, bounds.value)
        gradient = case.oracle.gradient * factor
        assert compare_tensors(gradient, case.oracle.gradient, bounds.gradient) is not None


@pytest.mark.parametrize("dtype", ["float32", *LOW])
@pytest.mark.parametrize("dropped", range(8))
@pytest.mark.parametrize("renormalised", [False, True])
def test_one_token_dropped_of_eight_fails(dropped: int, renormalised: bool, dtype: str) -> None:
    case = build_case(PROFILES["torchtune"], Recipe(1, 9, 32, dtype=dtype, seed=2))
    pairs = [pair for index, pair in enumerate(case.pairing.pairs) if index != dropped]
    if renormalised:
        pairs = [pair._replace(weight=1 / 7) for pair in pairs]
    wrong = evaluate(replace(case.pairing, pairs=tuple(pairs)), case.batch.logits)
    bounds = derive_bounds(case, STRICT, torch.float32)
    assert wrong.value is not None
    assert case.oracle.value is not None
    assert not same_value(wrong.value, case.oracle.value, bounds.value)
    assert compare_tensors(wrong.gradient, case.oracle.gradient, bounds.gradient) is not None


def test_one_wrong_label_of_2000_shows_in_the_gradient() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(1, 2001, 7, ids=Ids.SEEDED))
    first, *rest = case.pairing.pairs
    moved = replace(case.pairing, pairs=(first._replace(target=(first.target + 1) % 7), *rest))
    bounds = derive_bounds(case, STRICT, torch.float32)
    mismatch = compare_tensors(evaluate(moved, case.batch.logits).gradient, case.oracle.gradient, bounds.gradient)
    assert mismatch is not None
    assert mismatch.wrong == 2


def test_ignored_rows_must_be_exactly_zero() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 7, masks=(Mask.NONE, Mask.ALL)))
    bounds = derive_bounds(case, STRICT, torch.float32)
    assert int((bounds.gradient[1] != 0).sum()) == 0
    assert int((bounds.gradient[0, 3] != 0).sum()) == 0
    assert bool((bounds.gradient[0, :3] > 0).all())
    found = case.oracle.gradient.clone()
    found[1, 2, 3] = 1e-30
    mismatch = compare_tensors(found, case.oracle.gradient, bounds.gradient)
    assert mismatch is not None
    assert mismatch.worst == (1, 2, 3)


def test_nothing_scored_allows_nothing() -> None:
    case = build_case(PROFILES["trl.nll"], Recipe(2, 4, 7, masks=(Mask.ALL,)))
    bounds = derive_bounds(case, STRICT, torch.float32)
    assert (bounds.value, bounds.per_token.numel(), float(bounds.gradient.abs().sum())) == (0.0, 0, 0.0)
    assert dead_value_bound(case, bounds) is None
    assert dead_gradient_bound(case, bounds) is None


# Dead: a case that proves nothing says so.


def with_logits(case: Case, logits: Tensor) -> Case:
    return replace(case, batch=replace(case.batch, logits=logits), oracle=evaluate(case.pairing, logits))


def test_equal_logits_cannot_tell_a_constant() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 7))
    flat = with_logits(case, torch.zeros_like(case.batch.logits))
    assert dead_value_bound(flat, derive_bounds(flat, STRICT, torch.float32)) == "constant"


def test_a_loss_of_nothing_cannot_tell_zero() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 7))
    certain = F.one_hot(F.pad(case.batch.labels, (0, 1))[:, 1:] % 7, 7).float() * 1000
    sure = with_logits(case, certain)
    bounds = derive_bounds(sure, STRICT, torch.float32)
    assert dead_value_bound(sure, bounds) == "zero"
    assert dead_gradient_bound(sure, bounds) == "zero"


def test_equal_labels_cannot_tell_a_shift() -> None:
    # In the sixth binary digit all of the first 32 places are 0; nothing moves.
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 2, digit=5))
    bounds = derive_bounds(case, STRICT, torch.float32)
    assert dead_value_bound(case, bounds) == "misaligned"
    assert dead_gradient_bound(case, bounds) == "misaligned"


def test_wide_bounds_are_called_dead() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 7))
    wide = Bounds(1e9, torch.zeros(0), torch.full_like(case.oracle.gradient, 1e9))
    assert dead_value_bound(case, wide) == "zero"
    assert dead_gradient_bound(case, wide) == "zero"
    between = replace(wide, gradient=case.oracle.gradient.abs() * 0.999)
    assert dead_gradient_bound(case, between) is None


def test_bounds_as_wide_as_the_softmax_cannot_tell_a_gradient_at_the_targets_only() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 5, 17, regime=Regime.CALM))
    softmax_part = case.oracle.gradient.clone()
    for pair in case.pairing.pairs:
        softmax_part[pair.logit][pair.target] += pair.weight
    bounds = replace(derive_bounds(case, STRICT, torch.float32), gradient=softmax_part * 1.001)
    assert dead_gradient_bound(case, bounds) == "targets only"


@pytest.mark.parametrize("profile", ["torchtune", "preshifted"])
def test_misaligned_pairs_are_one_label_off(profile: str) -> None:
    case = build_case(PROFILES[profile], Recipe(1, 4, 7))
    moved = [(pair.logit[1], pair.target) for pair in misalign(case).pairs]
    assert moved == {"torchtune": [(0, 0), (1, 1), (2, 2)], "preshifted": [(0, 1), (1, 2), (2, 3)]}[profile]


# Comparators.

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (1.0, 1.0, True),
        (1.1, 1.0, True),
        (0.9, 1.0, True),
        (1.11, 1.0, False),
        (NAN, NAN, True),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (INF, INF, True),
        (-INF, -INF, True),
        (INF, -INF, False),
        (INF, 1.0, False),
        (1.0, INF, False),
        (INF, NAN, False),
    ],
)
def test_two_values_are_the_same(found: float, expected: float, same: bool) -> None:
    assert same_value(found, expected, 0.1 + 1e-12) is same


def test_a_mismatch_says_how_many_where_and_by_how_much() -> None:
    expected = torch.zeros(2, 3, dtype=torch.float64)
    found = torch.tensor([[0.0, 0.5, -0.1], [4.0, 0.0, 1.0]], dtype=torch.float64)
    allowed = torch.tensor([[0.1, 0.1, 0.1], [2.0, 0.1, 0.01]], dtype=torch.float64)
    mismatch = compare_tensors(found, expected, allowed)
    assert mismatch is not None
    assert (mismatch.wrong, mismatch.total, mismatch.worst) == (3, 6, (1, 2))
    assert (mismatch.found, mismatch.expected, mismatch.allowed) == (1.0, 0.0, 0.01)
    assert mismatch.describe("gradient") == (
        "3 of 6 elements of the gradient (50%) are wrong; the worst, at [1, 2], is 1 where 0 ± 0.01 is right"
    )


@pytest.mark.parametrize(
    ("found", "expected", "wrong"),
    [
        ([NAN, INF, -INF, 1.0], [NAN, INF, -INF, 1.0], 0),
        ([1.0, 1.0], [NAN, 1.0], 1),
        ([NAN, 1.0], [1.0, 1.0], 1),
        ([INF, 1.0], [1.0, 1.0], 1),
        ([INF, 1.0], [-INF, 1.0], 1),
        ([1.0, 1.5], [1.0, 1.0], 0),
        ([], [], 0),
    ],
)
def test_elements_that_are_not_finite(found: list[float], expected: list[float], wrong: int) -> None:
    mismatch = compare_tensors(torch.tensor(found).double(), torch.tensor(expected).double(), 0.5)
    assert (0 if mismatch is None else mismatch.wrong) == wrong
    if mismatch is not None:
        assert mismatch.worst == (0,)


def test_a_scalar_is_a_tensor_too() -> None:
    one = torch.tensor(1.0, dtype=torch.float64)
    assert compare_tensors(one, one, 0.0) is None
    mismatch = compare_tensors(one, one + 1, 0.5)
    assert mismatch is not None
    assert mismatch.worst == ()
