"""The probe gives back exactly the pairs that a loss was made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from shiftproof.harness.candidates.arguments import ARGUMENTS
from shiftproof.harness.cases.build import build_case
from shiftproof.harness.cases.logits import bell
from shiftproof.harness.cases.recipe import Ids, Recipe, Regime, Weights
from shiftproof.harness.cases.space import hand_made, random_recipes, space
from shiftproof.harness.probe.read import UNCLEAR, Site, predict, probe_value, read_gradients, read_positions
from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import Pair, Pairing, Place
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.score import map_logits
from shiftproof.reference.spec import Score, Smoothing

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

TEXT = PROFILES["torchtune"]


def read_gradient(gradient: Tensor, logits: Tensor) -> Wanted:
    """What is read of one text stream, by place alone."""
    pairing = Pairing(TEXT.terms, (), {"logits": tuple(logits.shape)}, 0.0, (1.0,), ())
    read = read_gradients({"logits": gradient}, pairing, Batch(logits=logits))
    assert {site[0] for site in read} <= {"logits"}
    return {site[1:]: dict(targets) for site, targets in read.items()}


def at_logits(placed: Mapping[Place, object]) -> dict[Site, Any]:
    """The same by site."""
    return {("logits", *place): of for place, of in placed.items()}


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


def tolerance_of(profile: str) -> float:
    """Modified scores are solved for, in the fp32 that their logits have."""
    return 1e-9 if all(term.score.is_plain for term in PROFILES[profile].terms) else 1e-4


@pytest.mark.parametrize("profile", PROFILES)
def test_the_oracles_gradient_reads_as_its_own_pairing(profile: str) -> None:
    choices = {**space(PROFILES[profile], frozenset(ARGUMENTS)), "regime": (Regime.CALM,)}
    for recipe in [*hand_made(choices), *islice(random_recipes(choices, 0), 5)]:
        if recipe.weights is Weights.ZEROS:  # a class of weight 0 does not show
            recipe = replace(recipe, weights=Weights.TENTHS)
        if any(term.score.label_smoothing for term in PROFILES[profile].terms):
            # Of two classes, a smoothed target of high probability has the gradient of the other one.
            recipe = replace(recipe, classes=max(recipe.classes, 3))
        case = build_case(PROFILES[profile], recipe)
        found = read_gradients(case.oracle.gradients, case.pairing, case.batch)
        assert_same(found, dict(predict(case.pairing)), tolerance_of(profile))  # type: ignore[arg-type]


def test_predict_adds_up_and_forgets_what_weighs_nothing() -> None:
    pairs = (
        Pair(0, (0, 0), (0, 1), 3, 0.25),
        Pair(0, (0, 0), (1, 1), 3, 0.5),
        Pair(0, (0, 0), (1, 2), 4, 1.0),
        Pair(0, (1, 0), (1, 1), 2, 0.0),
    )
    pairing = Pairing(TEXT.terms, pairs, {"logits": (2, 3, 5)}, 0.0, (1.0,), ())
    assert predict(pairing) == {("logits", 0, 0): {3: 0.75, 4: 1.0}}


def test_predict_tells_streams_and_codebooks_apart() -> None:
    pairs = (
        Pair(0, (0, 0), (0, 1), 3, 0.5),
        Pair(1, (0, 0, 0), (0, 1, 0), 3, 1.0),
        Pair(1, (0, 0, 1), (0, 1, 1), 2, 2.0),
    )
    shapes = {"logits": (1, 2, 5), "audio_logits": (1, 2, 2, 7)}
    assert predict(Pairing(PROFILES["higgs.hf"].terms, pairs, shapes, 0.0, (1.0,), ())) == {
        ("logits", 0, 0): {3: 0.5},
        ("audio_logits", 0, 0, 0): {3: 1.0},
        ("audio_logits", 0, 0, 1): {2: 2.0},
    }


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
        leaf = case.batch.tensor("logits").clone().requires_grad_()
        loss(leaf, case.batch.tensor("labels")).backward()
        assert leaf.grad is not None
        scored.append(read_gradients({"logits": leaf.grad}, case.pairing, case.batch))
    assert read_positions(scored, classes, (2, 4)) == at_logits({at: (place,) for at, place in places.items()})


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        ([{(0, 0): {5: 1.0}}], {(0, 0): ((1, 1),)}),
        ([{(0, 0): {5: 1.0, 2: 0.5}}], {(0, 0): ((0, 2), (1, 1))}),  # two labels, one digit
        ([{(0, 0): {9: 1.0}}], {(0, 0): ((-1, 9),)}),  # no place has this id
        ([{(0, 0): {2: 1.0}}, {(0, 0): {0: 1.0}}], {(0, 0): ((0, 2),)}),
        ([{(0, 0): {2: 1.0}}, {(0, 0): {9: 1.0}}], {(0, 0): ((-1, -1),)}),
        ([{(0, 0): {2: 1.0}}, {}], {(0, 0): (UNCLEAR,)}),  # scored under one digit and not under another
        ([{(0, 0): {2: 1.0}}, {(0, 0): {0: 1.0, 1: 1.0}}], {(0, 0): (UNCLEAR,)}),
        ([{(0, 0): {2: 1.0, 3: 1.0}}, {(0, 0): {0: 1.0, 1: 1.0}}], {(0, 0): ((-1, -1),)}),
        ([{(0, 0): {}}], {(0, 0): ((-1, -1),)}),  # a gradient that says nothing
        ([{}, {}], {}),
    ],
)
def test_what_digits_say(digits: list[Wanted], expected: dict[Place, tuple[Place, ...]]) -> None:
    assert read_positions([at_logits(read) for read in digits], classes=10, shape=(2, 4)) == at_logits(expected)


# By values alone.


@pytest.mark.parametrize(("loss", "places"), LOSSES)
def test_weights_are_recovered_from_values_alone(
    loss: Callable[[Tensor, Tensor], Tensor], places: dict[Place, Place]
) -> None:
    logits = logits_of("float64", 3, (2, 4, 11))
    labels = torch.arange(8).reshape(2, 4)
    valid = [(row, at) for row in range(2) for at in range(4)]
    found = probe_value(lambda changed: float(loss(logits, changed)), {"logits": logits}, labels, valid)
    assert found == at_logits({at: {place: pytest.approx(1 / len(places))} for at, place in places.items()})


def test_values_in_fp32_are_good_enough() -> None:
    logits = logits_of("float32", 3, (2, 4, 11))
    labels = torch.arange(8).reshape(2, 4)
    found = probe_value(lambda changed: float(right(logits, changed)), {"logits": logits}, labels, RIGHT.values())
    assert found == at_logits({at: {place: pytest.approx(1 / 6, rel=1e-3)} for at, place in RIGHT.items()})


def test_unequal_and_negative_weights_come_out_of_values_too() -> None:
    logits = logits_of("float64", 4, (1, 3, 6))
    labels = torch.tensor([[0, 1, 2]])

    def loss(changed: Tensor) -> float:
        scores = F.cross_entropy(logits[0, [0, 1, 1]], changed[0, [1, 2, 1]], reduction="none")
        return float(scores @ torch.tensor([0.75, 0.5, -0.25]).double())

    found = probe_value(loss, {"logits": logits}, labels, [(0, 0), (0, 1), (0, 2)])
    assert found == {
        ("logits", 0, 0): {(0, 1): pytest.approx(0.75)},
        ("logits", 0, 1): {(0, 1): pytest.approx(-0.25), (0, 2): pytest.approx(0.5)},
    }


def test_only_the_labels_asked_about_are_changed() -> None:
    logits = logits_of("float64", 3, (2, 4, 11))
    labels = torch.full((2, 4), -100)
    labels[0, 2] = 5
    seen = []

    def loss(changed: Tensor) -> float:
        seen.append(changed)
        return float(right(logits, changed))

    found = probe_value(loss, {"logits": logits}, labels, [(0, 2)])
    assert found == {("logits", 0, 1): {(0, 2): pytest.approx(1.0)}}
    assert len(seen) == 11
    assert all(int((changed != labels).sum()) <= 1 and int(changed[0, 2]) >= 0 for changed in seen)
    assert labels[0, 2] == 5


def test_too_few_classes_cannot_tell_rows_apart() -> None:
    logits, labels = logits_of("float64", 3, (2, 4, 9)), torch.arange(8).reshape(2, 4)
    with pytest.raises(ValueError, match="9 classes cannot tell 8 logit rows apart; use at least 10"):
        probe_value(lambda _: 0.0, {"logits": logits}, labels, [(0, 1)])
    logits = logits_of("float64", 3, (2, 4, 10))
    assert probe_value(lambda _: 0.0, {"logits": logits}, labels, [(0, 1)]) == {}


# --- Codebooks, streams and modified scores ---------------------------------------------------------------------------

SEVERAL = Recipe(rows=1, length=3, classes=40, codebooks=3, regime=Regime.CALM)


def test_each_stream_is_read_at_its_own_logits() -> None:
    case = build_case(PROFILES["higgs.hf"], SEVERAL)
    logits = {name: case.batch.tensor(name).clone().requires_grad_() for name in case.spec.logits}
    text, audio = case.batch.tensor("labels"), case.batch.tensor("audio_labels")
    loss = F.cross_entropy(logits["logits"][0, :2], text[0, 1:])  # right, and of the audio one codebook, on the next
    loss = loss + 2 * F.cross_entropy(logits["audio_logits"][0, :2, 1], audio[0, 1:, 2])
    loss.backward()
    gradients = {name: of.grad for name, of in logits.items() if of.grad is not None}
    found = read_gradients(gradients, case.pairing, case.batch)
    expected = {
        ("logits", 0, 0): {1: pytest.approx(0.5, rel=1e-4)},
        ("logits", 0, 1): {2: pytest.approx(0.5, rel=1e-4)},
        ("audio_logits", 0, 0, 1): {5: pytest.approx(1, rel=1e-4)},
        ("audio_logits", 0, 1, 1): {8: pytest.approx(1, rel=1e-4)},
    }
    assert found == expected
    of_audio = [{site: row for site, row in found.items() if site[0] == "audio_logits"}]
    assert read_positions(of_audio, 42, (1, 3, 3)) == {
        ("audio_logits", 0, 0, 1): ((0, 1, 2),),
        ("audio_logits", 0, 1, 1): ((0, 2, 2),),
    }


@pytest.mark.parametrize("classes", [2, 3, 7, 18])
def test_places_of_codebooks_are_read_digit_by_digit(classes: int) -> None:
    spec = PROFILES["dia"]
    digits = max(1, math.ceil(round(math.log(18, classes), 9)))
    scored = []
    for digit in range(digits):
        case = build_case(spec, replace(SEVERAL, rows=2, classes=classes, digit=digit))
        scored.append(read_gradients(case.oracle.gradients, case.pairing, case.batch))
    places = {(row, t, k): ((row, t, k),) for row in range(2) for t in range(3) for k in range(3)}
    assert read_positions(scored, classes, (2, 3, 3)) == at_logits(places)


MODIFIED = [
    Score(label_smoothing=0.1),
    Score(label_smoothing=0.1, smoothing_over=Smoothing.OTHERS),
    Score(z_loss=0.01),
    Score(softcap=5.0, logit_scale=0.5),
    Score(class_weights=True),
    Score(dft=True),
    Score(label_smoothing=0.1, z_loss=0.01, softcap=15.0),
]


@pytest.mark.parametrize("score", MODIFIED)
@pytest.mark.parametrize("profile", ["torchtune", "dia", "higgs.hf", "csm", "megatron.mtp"])
def test_pairs_are_read_under_any_score(profile: str, score: Score) -> None:
    spec = PROFILES[profile]
    spec = replace(spec, terms=tuple(replace(term, score=score) for term in spec.terms))
    if profile == "higgs.hf" and score.class_weights:
        pytest.skip("both streams would weigh their classes by one array, and have not equally many")
    for seed in range(3):
        case = build_case(spec, replace(SEVERAL, rows=2, classes=23, ids=Ids.SEEDED, seed=seed))
        found = read_gradients(case.oracle.gradients, case.pairing, case.batch)
        assert_same(found, dict(predict(case.pairing)), 1e-3)  # type: ignore[arg-type]


def test_streams_are_read_under_a_score_of_their_own() -> None:
    spec = PROFILES["higgs.hf"]
    spec = replace(spec, terms=(spec.terms[0], replace(spec.terms[1], score=Score(z_loss=0.1, softcap=5.0))))
    case = build_case(spec, replace(SEVERAL, rows=2))
    found = read_gradients(case.oracle.gradients, case.pairing, case.batch)
    assert_same(found, dict(predict(case.pairing)), 1e-3)  # type: ignore[arg-type]


def test_a_modified_row_that_is_not_finite_says_nothing() -> None:
    spec = PROFILES["liger.smoothing"]
    case = build_case(spec, replace(SEVERAL, codebooks=1))
    gradient = case.oracle.gradients["logits"].clone()
    gradient[0, 1, 3] = math.nan
    found = read_gradients({"logits": gradient}, case.pairing, case.batch)
    assert found["logits", 0, 1] == {}
    assert set(found["logits", 0, 0]) == {0}


def by_value(profile: str, recipe: Recipe, wrong: Callable[[Pairing], Pairing] = lambda pairing: pairing) -> Any:
    """What values alone say of a loss with these pairs, all streams together."""
    case = build_case(PROFILES[profile], recipe)
    found: dict[Site, Any] = {}
    for name in case.spec.labels:

        def value(labels: Tensor, name: str = name) -> float:
            batch = replace(case.batch, **{name: labels})  # type: ignore[arg-type]
            pairs = tuple(
                pair._replace(target=int(labels[pair.label])) if case.spec.terms[pair.term].labels == name else pair
                for pair in wrong(case.pairing).pairs
            )
            return evaluate(replace(case.pairing, pairs=pairs), batch).value or 0.0

        terms = [term for term in case.spec.terms if term.labels == name]
        labels = case.batch.tensor(name)
        logits = {term.logits: map_logits(case.batch.tensor(term.logits).double(), term.score) for term in terms}
        found |= probe_value(value, logits, labels, [tuple(at) for at in (labels >= 0).nonzero().tolist()])
    return found


@pytest.mark.parametrize("profile", ["dia", "moss_ttsd", "higgs.hf", "csm", "medusa"])
def test_weights_of_codebooks_are_recovered_from_values_alone(profile: str) -> None:
    recipe = replace(SEVERAL, codebooks=2, length=4, dtype="float64")
    expected: dict[Site, dict[Place, Any]] = {}
    case = build_case(PROFILES[profile], recipe)
    for pair in case.pairing.pairs:
        site = (case.spec.terms[pair.term].logits, *pair.logit)
        expected.setdefault(site, {})[pair.label] = pytest.approx(pair.weight, rel=1e-6)
    assert by_value(profile, recipe) == expected


def test_values_show_a_label_of_another_codebook() -> None:
    def next_book(pairing: Pairing) -> Pairing:
        moved = (pair._replace(label=(*pair.label[:2], 1 - pair.label[2])) for pair in pairing.pairs)
        return replace(pairing, pairs=tuple(moved))

    found = by_value("dia", replace(SEVERAL, codebooks=2, length=2, dtype="float64"), next_book)
    assert {site: set(of) for site, of in found.items()} == {
        ("logits", 0, t, k): {(0, t, 1 - k)} for t in range(2) for k in range(2)
    }


def test_logits_that_share_their_labels_need_classes_for_all_their_rows() -> None:
    recipe = Recipe(rows=1, length=2, classes=5, codebooks=2, dtype="float64")
    with pytest.raises(ValueError, match="5 classes cannot tell 4 logit rows apart; use at least 6"):
        by_value("csm", recipe)  # 2 rows of the backbone's, 2 of the depth decoder's
    assert len(by_value("csm", replace(recipe, classes=6))) == 3


def test_a_place_whose_loss_is_not_finite_is_found_on_no_row() -> None:
    logits, labels = logits_of("float64", 3, (1, 2, 4)), torch.tensor([[0, 1]])
    found = probe_value(lambda _: math.nan, {"logits": logits}, labels, [(0, 1)])
    assert found == {}
