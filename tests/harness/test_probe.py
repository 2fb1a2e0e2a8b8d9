"""The probe gives back exactly the pairs that a loss was made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from shiftproof.harness.arguments import ARGUMENTS
from shiftproof.harness.cases import build_case
from shiftproof.harness.probe import UNCLEAR, Positions, predict, probe_value, read_gradient, read_positions
from shiftproof.harness.recipe import Recipe, Regime
from shiftproof.harness.regimes import bell
from shiftproof.harness.strategies import killers, plain, space
from shiftproof.reference.pairing import Pair, Pairing, Place
from shiftproof.reference.profiles import PROFILES

TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 3e-2, "float16": 8e-3}
DTYPES = tuple(TOLERANCE)
QUICK = settings(deadline=None, max_examples=30, derandomize=True, phases=(Phase.generate, Phase.shrink))

ROWS, LENGTH, CLASSES = 2, 4, 128
weights = st.sampled_from([0.5, 0.75, 1.0, 1.5])
rows_of_targets = st.one_of(
    st.just({}),  # no target at all
    st.dictionaries(st.integers(0, CLASSES - 1), weights, min_size=1, max_size=1),
    st.dictionaries(st.integers(0, CLASSES - 1), weights, min_size=2, max_size=3),
    st.dictionaries(st.integers(0, CLASSES - 1), weights.map(lambda w: -w), min_size=1, max_size=1),
)
Wanted = dict[Place, dict[int, float]]


def gradient_of(wanted: Wanted, logits: Tensor) -> Tensor:
    """What autograd says of Σ w·ℓ, computed in fp32 at least."""
    leaf = logits.clone().requires_grad_()
    scored = leaf if leaf.dtype is torch.float64 else leaf.float()
    total = (scored * 0).sum()
    for place, targets in wanted.items():
        for target, weight in targets.items():
            total = total + weight * F.cross_entropy(scored[place], torch.tensor(target))
    total.backward()
    assert leaf.grad is not None
    return leaf.grad


def logits_of(dtype: str, seed: int = 0, shape: tuple[int, ...] = (ROWS, LENGTH, CLASSES)) -> Tensor:
    return bell(seed, 1, shape).to(getattr(torch, dtype))


def assert_same(found: object, wanted: Wanted, tolerance: float) -> None:
    assert isinstance(found, dict)
    assert {place: set(targets) for place, targets in found.items()} == {p: set(t) for p, t in wanted.items()}
    for place, targets in wanted.items():
        assert found[place] == pytest.approx(targets, rel=tolerance), place


@pytest.mark.parametrize("dtype", DTYPES)
@given(listed=st.lists(rows_of_targets, min_size=ROWS * LENGTH, max_size=ROWS * LENGTH), seed=st.integers(0, 9))
@QUICK
def test_any_pairs_are_read_back(dtype: str, listed: list[dict[int, float]], seed: int) -> None:
    """One target a row, several, none, or a negative weight, in any mixture."""
    wanted = {divmod(index, LENGTH): targets for index, targets in enumerate(listed) if targets}
    logits = logits_of(dtype, seed)
    found = read_gradient(gradient_of(wanted, logits), logits)
    several = max((len(targets) for targets in wanted.values()), default=1)
    assert_same(found, wanted, TOLERANCE[dtype] * several**2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 3, 5, 11])
def test_few_classes_do_where_a_row_has_one_target(classes: int, dtype: str) -> None:
    for seed in range(10):
        logits = logits_of(dtype, seed, (ROWS, LENGTH, classes))
        wanted: Wanted = {divmod(i, LENGTH): {(i * 7 + seed) % classes: (1 + i % 4) / 8} for i in range(7)}
        found = read_gradient(gradient_of(wanted, logits), logits)
        assert_same(found, wanted, TOLERANCE[dtype])


@pytest.mark.parametrize("classes", [3, 5, 11])
def test_a_negative_weight_shows_from_three_classes_on(classes: int) -> None:
    logits = logits_of("float32", 1, (ROWS, LENGTH, classes))
    wanted: Wanted = {(0, 1): {2: -0.25}, (1, 0): {0: -2.0}}
    assert_same(read_gradient(gradient_of(wanted, logits), logits), wanted, 1e-4)


def test_a_second_target_of_high_probability_is_seen() -> None:
    logits = torch.log(torch.tensor([[[0.2, 0.5, 0.3]]], dtype=torch.float64))
    wanted: Wanted = {(0, 0): {0: 1.5, 1: 0.5}}
    assert_same(read_gradient(gradient_of(wanted, logits), logits), wanted, 1e-9)


def test_a_tiny_weight_is_still_a_target() -> None:
    logits = logits_of("float32")
    wanted: Wanted = {(0, 0): {5: 1e-6}, (1, 3): {0: 1e3}}
    assert_same(read_gradient(gradient_of(wanted, logits), logits), wanted, 1e-4)


def test_a_row_that_is_not_finite_was_scored_on_nothing_that_can_be_said() -> None:
    logits = logits_of("float32")
    gradient = gradient_of({(0, 0): {5: 1.0}, (0, 1): {6: 1.0}}, logits)
    gradient[0, 0, 3] = math.nan
    found = read_gradient(gradient, logits)
    assert found[0, 0] == {}
    assert set(found[0, 1]) == {6}


@pytest.mark.parametrize("profile", PROFILES)
def test_the_oracles_gradient_reads_as_its_own_pairing(profile: str) -> None:
    choices = {**space(PROFILES[profile], frozenset(ARGUMENTS)), "regime": (Regime.CALM,)}
    for recipe in [*killers(choices), *islice(plain(choices, 0), 5)]:
        case = build_case(PROFILES[profile], recipe)
        found = read_gradient(case.oracle.gradient, case.batch.logits)
        assert_same(found, dict(predict(case.pairing)), 1e-9)  # type: ignore[arg-type]


def test_predict_adds_up_and_forgets_what_weighs_nothing() -> None:
    pairs = (
        Pair(0, (0, 0), (0, 1), 3, 0.25),
        Pair(0, (0, 0), (1, 1), 3, 0.5),
        Pair(0, (0, 0), (1, 2), 4, 1.0),
        Pair(0, (1, 0), (1, 1), 2, 0.0),
    )
    assert predict(Pairing(pairs, (2, 3, 5), 0.0, (1.0,), ())) == {(0, 0): {3: 0.75, 4: 1.0}}


# Places from digits.


def double_shift(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-2].flatten(0, 1), labels[:, 2:].flatten())


def row_leak(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1)[:-1], labels.flatten()[1:])


def right(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


RIGHT = {(0, 0): (0, 1), (0, 1): (0, 2), (0, 2): (0, 3), (1, 0): (1, 1), (1, 1): (1, 2), (1, 2): (1, 3)}
LOSSES: list[tuple[Callable[[Tensor, Tensor], Tensor], dict[Place, Place]]] = [
    (right, RIGHT),
    (double_shift, {(0, 0): (0, 2), (0, 1): (0, 3), (1, 0): (1, 2), (1, 1): (1, 3)}),
    (row_leak, {**RIGHT, (0, 3): (1, 0)}),
]


@pytest.mark.parametrize(("loss", "places"), LOSSES)
@pytest.mark.parametrize(("classes", "digits"), [(2, 3), (3, 2), (7, 2), (8, 1), (101, 1)])
def test_places_are_read_digit_by_digit(
    loss: Callable[[Tensor, Tensor], Tensor], places: dict[Place, Place], classes: int, digits: int
) -> None:
    scored = []
    for digit in range(digits):
        case = build_case(PROFILES["torchtune"], Recipe(2, 4, classes, regime=Regime.CALM, digit=digit))
        leaf = case.batch.logits.clone().requires_grad_()
        loss(leaf, case.batch.labels).backward()
        assert leaf.grad is not None
        scored.append(read_gradient(leaf.grad, case.batch.logits))
    assert read_positions(scored, classes, (2, 4)) == {at: (place,) for at, place in places.items()}


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        ([{(0, 0): {5: 1.0}}], {(0, 0): ((1, 1),)}),
        ([{(0, 0): {5: 1.0, 2: 0.5}}], {(0, 0): ((0, 2), (1, 1))}),  # two labels, one digit
        ([{(0, 0): {9: 1.0}}], {(0, 0): ((-1, 9),)}),  # no place has this id
        ([{(0, 0): {2: 1.0}}, {(0, 0): {0: 1.0}}], {(0, 0): ((0, 2),)}),
        ([{(0, 0): {2: 1.0}}, {(0, 0): {9: 1.0}}], {(0, 0): ((-1, 92),)}),
        ([{(0, 0): {2: 1.0}}, {}], {(0, 0): (UNCLEAR,)}),  # scored under one digit and not under another
        ([{(0, 0): {2: 1.0}}, {(0, 0): {0: 1.0, 1: 1.0}}], {(0, 0): (UNCLEAR,)}),
        ([{(0, 0): {2: 1.0, 3: 1.0}}, {(0, 0): {0: 1.0, 1: 1.0}}], {(0, 0): ((-1, -1),)}),
        ([{(0, 0): {}}], {(0, 0): ((-1, -1),)}),  # a gradient that says nothing
        ([{}, {}], {}),
    ],
)
def test_what_digits_say(digits: list[dict[Place, dict[int, float]]], expected: Positions) -> None:
    assert read_positions(digits, classes=10, shape=(2, 4)) == expected


# By values alone.


@pytest.mark.parametrize(("loss", "places"), LOSSES)
def test_weights_are_recovered_from_values_alone(
    loss: Callable[[Tensor, Tensor], Tensor], places: dict[Place, Place]
) -> None:
    logits = logits_of("float64", 3, (2, 4, 11))
    labels = torch.arange(8).reshape(2, 4)
    valid = [(row, at) for row in range(2) for at in range(4)]
    found = probe_value(lambda changed: float(loss(logits, changed)), logits, labels, valid)
    expected = {at: {place: pytest.approx(1 / len(places))} for at, place in places.items()}
    assert found == expected


def test_values_in_fp32_are_good_enough() -> None:
    logits = logits_of("float32", 3, (2, 4, 11))
    labels = torch.arange(8).reshape(2, 4)
    found = probe_value(lambda changed: float(right(logits, changed)), logits, labels, list(RIGHT.values()))
    assert found == {at: {place: pytest.approx(1 / 6, rel=1e-3)} for at, place in RIGHT.items()}


def test_unequal_and_negative_weights_come_out_of_values_too() -> None:
    logits = logits_of("float64", 4, (1, 3, 6))
    labels = torch.tensor([[0, 1, 2]])

    def loss(changed: Tensor) -> float:
        scores = F.cross_entropy(logits[0, [0, 1, 1]], changed[0, [1, 2, 1]], reduction="none")
        return float(scores @ torch.tensor([0.75, 0.5, -0.25]).double())

    found = probe_value(loss, logits, labels, [(0, 0), (0, 1), (0, 2)])
    assert found == {
        (0, 0): {(0, 1): pytest.approx(0.75)},
        (0, 1): {(0, 1): pytest.approx(-0.25), (0, 2): pytest.approx(0.5)},
    }


def test_only_the_labels_asked_about_are_changed() -> None:
    logits = logits_of("float64", 3, (2, 4, 11))
    labels = torch.full((2, 4), -100)
    labels[0, 2] = 5
    seen = []

    def loss(changed: Tensor) -> float:
        seen.append(changed)
        return float(right(logits, changed))

    assert probe_value(loss, logits, labels, [(0, 2)]) == {(0, 1): {(0, 2): pytest.approx(1.0)}}
    assert len(seen) == 11
    assert all(int((changed != labels).sum()) <= 1 and int(changed[0, 2]) >= 0 for changed in seen)
    assert labels[0, 2] == 5


def test_too_few_classes_cannot_tell_rows_apart() -> None:
    logits, labels = logits_of("float64", 3, (2, 4, 9)), torch.arange(8).reshape(2, 4)
    with pytest.raises(ValueError, match="9 classes cannot tell 8 logit rows apart; use at least 10"):
        probe_value(lambda _: 0.0, logits, labels, [(0, 1)])
    logits = logits_of("float64", 3, (2, 4, 10))
    assert probe_value(lambda _: 0.0, logits, labels, [(0, 1)]) == {}
