"""Laws on the list of pairs, read back from the gradient and compared as sets, without any tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from shiftproof.reference.pairing import Pairing, Place

from ..probe import UNCLEAR, Positions, predict, probe_value, read_gradient, read_positions
from ..recipe import Ids, Recipe, Regime
from ..trial import Observation, Trial
from .base import NOT_MEANT, PASS, Judgement, failing, law, needs_gradient, not_answered, trained

_PROBE = "the gradient of cross-entropy: ∂L/∂x_i = W_i·(softmax(x_i) − onehot(y_i))"


_ONE_PROBE = 1024  # up to so many label positions, one probe has an id for each


def calm(recipe: Recipe) -> Recipe:
    """The pairing does not depend on the numbers, and calm ones show it best."""
    return replace(recipe, regime=Regime.CALM, classes=max(recipe.classes, 2))


def one_id_a_place(recipe: Recipe) -> Recipe:
    """A calm case with an id for every label place, or, where there are too many, base-V digits of the place."""
    places = recipe.rows * recipe.length
    wide = max(recipe.classes, places + 3) if places <= _ONE_PROBE else recipe.classes
    return replace(calm(recipe), classes=max(wide, 2), ids=Ids.COUNTING, digit=0)


def positions_of(trial: Trial, recipe: Recipe) -> Positions | Observation:
    """The label places that each logit row was scored on, or the observation that gave no loss or no gradient."""
    places = max(recipe.rows * recipe.length, 2)
    digits = max(1, math.ceil(round(math.log(places, recipe.classes), 9)))
    scored = []
    for digit in range(digits):
        observation = trial.look(replace(recipe, ids=Ids.COUNTING, digit=digit))
        if observation.problem is not None or observation.gradient is None:
            return observation
        scored.append(read_gradient(observation.gradient, observation.case.batch.logits))
    return read_positions(scored, recipe.classes, (recipe.rows, recipe.length))


def expected_positions(pairing: Pairing) -> Positions:
    """The label places that each logit row must be scored on."""
    expected: dict[Place, tuple[Place, ...]] = {}
    for pair in pairing.pairs:
        expected[pair.logit] = tuple(sorted((*expected.get(pair.logit, ()), pair.label)))
    return expected


@law(
    "ALIGN-1",
    "every logit row is scored on its own label and on no other",
    source=_PROBE,
    budget=130,
    focus=one_id_a_place,
    large=True,
    excuse=needs_gradient,
)
def pairs_exact(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if not case.pairing.pairs:
        return NOT_MEANT
    found = positions_of(trial, recipe)
    if isinstance(found, Observation):
        return not_answered(found) if found.problem else failing("no gradient at the logits", "no gradient")
    return judge_positions(found, expected_positions(case.pairing))


def judge_positions(found: Positions, expected: Positions) -> Judgement:
    """Compare two position maps; the features are the ways in which labels were moved, lost or added."""
    features: set[str] = set()
    wrong: list[str] = []
    for place in sorted({*found, *expected}):
        theirs, right = found.get(place, ()), expected.get(place, ())
        if theirs in (right, (UNCLEAR,)):  # a matter of classes is for SELECT-1
            continue
        features.add(_kind_of_difference(theirs, right))
        wrong.append(f"logits {show(place)} are scored on {_shows(theirs)}, not on {_shows(right)}")
    if not wrong:
        return PASS
    return failing(f"{len(wrong)} of {len({*found, *expected})} logit rows: {wrong[0]}", *features)


def _kind_of_difference(theirs: tuple[Place, ...], right: tuple[Place, ...]) -> str:
    if not theirs:
        return "missing"
    if not right:
        return "added"
    (row, position), (right_row, right_position) = theirs[0], right[0]
    if row < 0:
        return "moved: off the batch"
    if row != right_row:
        return "moved: another row"
    return f"moved: {position - right_position:+d}" if abs(position - right_position) <= 2 else "moved: far"


@law(
    "ALIGN-2",
    "the pairs read back from values alone are the right ones",
    source="ΔL = Σ_i W_ij·(x_i[a] − x_i[b]) when the label at place j changes from a to b",
    budget=12,
    presumes=("CONTRACT-1", "ALIGN-1"),
    focus=lambda recipe: replace(
        calm(recipe),
        rows=min(recipe.rows, 2),
        length=min(recipe.length, 4),
        classes=min(recipe.rows, 2) * (min(recipe.length, 4) + recipe.extra) + 3,
        ids=Ids.COUNTING,
        dtype="float32",
    ),
    excuse=lambda trial: None if not trial.candidate.gradient else "its gradient says the same, at once",
)
def pairs_by_value(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if not case.pairing.pairs or "labels" not in trial.binding.names or recipe.shift_labels != "absent":
        return NOT_MEANT
    found = read_by_value(trial, recipe)
    if isinstance(found, Observation):
        return not_answered(found)
    return judge_positions(places_only(found), expected_positions(case.pairing))


def places_only(weights: Mapping[Place, Mapping[Place, float]]) -> Positions:
    """The label places of weights read by value."""
    return {at: tuple(sorted(of_row)) for at, of_row in weights.items()}


def read_by_value(trial: Trial, recipe: Recipe) -> dict[Place, dict[Place, float]] | Observation:
    """The weight of every label place on every logit row, from values alone; or the observation that gave no loss."""
    case = trial.case(recipe)
    stuck: list[Observation] = []

    def evaluate(labels: torch.Tensor) -> float:
        changed = trial.variation(case, lambda batch: replace(batch, labels=labels))
        observation = trial.observe(changed)
        if observation.problem is not None or observation.value is None:
            stuck.append(observation)
            return math.nan
        return observation.value

    ignored = trial.spec.terms[0].ignore_index
    rows, length = case.batch.labels.shape
    valid = [(r, t) for r in range(rows) for t in range(length) if int(case.batch.labels[r, t]) != ignored]
    weights = probe_value(evaluate, case.batch.logits, case.batch.labels, valid)
    return stuck[0] if stuck else weights


@law(
    "SELECT-1",
    "exactly the labels that count are scored, each as its own class",
    source=_PROBE + "; transformers#23530, optax#1185",
    budget=130,
    focus=calm,
    presumes=("CONTRACT-1", "ALIGN-1"),
    large=True,
    excuse=needs_gradient,
)
def targets_exact(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trained(trial, recipe, gradient=True)
    if isinstance(observation, Judgement):
        return observation
    assert observation.gradient is not None
    case = observation.case
    found = read_gradient(observation.gradient, case.batch.logits)
    expected = predict(case.pairing)
    features: set[str] = set()
    wrong: list[str] = []
    for place in sorted({*found, *expected}):
        theirs, right = set(found.get(place, {})), set(expected.get(place, {}))
        if theirs != right:
            features.add("missing" if not theirs else "added" if not right else "other class")
            wrong.append(f"logits {show(place)} are scored on {_classes(theirs)}, not on {_classes(right)}")
    return failing(f"{len(wrong)} logit rows: {wrong[0]}", *features) if wrong else PASS


@law(
    "REDUCE-1",
    "every pair has its weight: token weights, mask and denominator",
    source=_PROBE + "; transformers#34191, #46204",
    budget=130,
    focus=calm,
    presumes=("CONTRACT-1", "ALIGN-1", "SELECT-1"),
    large=True,
    excuse=needs_gradient,
)
def weights_exact(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trained(trial, recipe, gradient=True)
    if isinstance(observation, Judgement):
        return observation
    assert observation.gradient is not None
    case = observation.case
    found = read_gradient(observation.gradient, case.batch.logits)
    at = torch.tensor([(*pair.logit, pair.target) for pair in case.pairing.pairs]).unbind(1)
    allowed = trial.bounds(observation).gradient[at].tolist()
    wrong: list[str] = []
    for pair, loss, most in zip(case.pairing.pairs, case.oracle.per_token.tolist(), allowed, strict=True):
        weight = found.get(pair.logit, {}).get(pair.target)
        miss = -math.expm1(-loss)  # 1 − p at the target: what the weight is multiplied by in the gradient
        if weight is None or abs(weight - pair.weight) * miss > most:
            wrong.append(f"logits {show(pair.logit)} have weight {_number(weight)}, not {_number(pair.weight)}")
    if not wrong:
        return PASS
    return failing(f"{len(wrong)} of {len(case.pairing.pairs)} pairs: {wrong[0]}", "weight")


def show(place: Place) -> str:
    """A place in words that need no legend."""
    return f"[{place[0]}, {place[1]}]"


def _shows(places: tuple[Place, ...]) -> str:
    if not places:
        return "nothing"
    return " and ".join("what is no label" if row < 0 else f"label {show((row, at))}" for row, at in places)


def _classes(targets: set[int]) -> str:
    return " and ".join(f"class {target}" for target in sorted(targets)) or "nothing"


def _number(weight: float | None) -> str:
    return "none" if weight is None else f"{weight:.6g}"
