"""Laws on the list of pairs, read back from the gradient and compared as sets, without any tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from shiftproof.reference.pairing import Pairing, Place
from shiftproof.reference.score import map_logits

from ..cases import classes_of
from ..probe import UNCLEAR, Positions, Scored, Site, predict, probe_value, read_gradients, read_positions, site_of
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
    places = recipe.rows * recipe.length * recipe.codebooks
    wide = max(recipe.classes, places + 3) if places <= _ONE_PROBE else recipe.classes
    return replace(calm(recipe), classes=max(wide, 2), ids=Ids.COUNTING, digit=0)


def positions_of(trial: Trial, recipe: Recipe) -> Positions | Observation:
    """The label places that each logit row was scored on, or the observation that gave no loss or no gradient."""
    case = trial.case(recipe)
    recipe = case.recipe
    labels = {name: tuple(case.batch.tensor(name).shape) for name in trial.spec.labels}
    classes = {name: classes_of(trial.spec, name, recipe) for name in labels}
    digits = max(_digits(math.prod(shape), classes[name]) for name, shape in labels.items())
    scored = []
    for digit in range(digits):
        observation = trial.look(replace(recipe, ids=Ids.COUNTING, digit=digit))
        if observation.problem is not None or observation.gradients is None:
            return observation
        scored.append(read_gradients(observation.gradients, case.pairing, observation.case.batch))
    found: dict[Site, tuple[Place, ...]] = {}
    for term in trial.spec.terms:
        shape = labels[term.labels]
        used = _digits(math.prod(shape), classes[term.labels])
        own: list[Scored] = [
            {site: of for site, of in read.items() if site[0] == term.logits} for read in scored[:used]
        ]
        found |= read_positions(own, classes[term.labels], shape)
    return found


def _digits(places: int, classes: int) -> int:
    return max(1, math.ceil(round(math.log(max(places, 2), classes), 9)))


def expected_positions(pairing: Pairing) -> Positions:
    """The label places that each logit row must be scored on."""
    expected: dict[Site, tuple[Place, ...]] = {}
    for pair in pairing.pairs:
        site = site_of(pairing, pair)
        expected[site] = tuple(sorted((*expected.get(site, ()), pair.label)))
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
    for site in sorted({*found, *expected}):
        theirs, right = found.get(site, ()), expected.get(site, ())
        if theirs in (right, (UNCLEAR,)):  # a matter of classes is for SELECT-1
            continue
        features.add(_kind_of_difference(theirs, right))
        wrong.append(f"{show(site)} are scored on {_shows(theirs)}, not on {_shows(right)}")
    if not wrong:
        return PASS
    return failing(f"{len(wrong)} of {len({*found, *expected})} logit rows: {wrong[0]}", *features)


def _kind_of_difference(theirs: tuple[Place, ...], right: tuple[Place, ...]) -> str:
    if not theirs:
        return "missing"
    if not right:
        return "added"
    return f"moved: {how_moved(theirs[0], right[0])}"


def how_moved(found: Place, right: Place) -> str:
    """Where a label stands that was scored in place of the right one, in a word."""
    (row, position, *book), (right_row, right_position, *right_book) = found, right
    if row < 0:
        return "off the batch"
    if row != right_row:
        return "another row"
    if book != right_book:
        return "another codebook"
    return f"{position - right_position:+d}" if abs(position - right_position) <= 2 else "far"


@law(
    "ALIGN-2",
    "the pairs read back from values alone are the right ones",
    source="ΔL = Σ_i W_ij·(x_i[a] − x_i[b]) when the label at place j changes from a to b",
    budget=12,
    presumes=("CONTRACT-1", "ALIGN-1"),
    focus=lambda recipe: _few_places(recipe),
    excuse=lambda trial: (
        "its gradient says the same, at once"
        if trial.candidate.gradient
        else "with class weights or DFT, a label's class changes its own weight"
        if any(term.score.class_weights or term.score.dft for term in trial.spec.terms)
        else None
    ),
)
def pairs_by_value(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if not case.pairing.pairs or recipe.shift_labels != "absent" or not math.isfinite(case.oracle.value or 0.0):
        return NOT_MEANT  # a codebook or head without a label may make the loss NaN, of which no change is seen
    found = read_by_value(trial, recipe)
    if isinstance(found, Observation):
        return not_answered(found)
    return judge_positions(places_only(found), expected_positions(case.pairing))


def _few_places(recipe: Recipe) -> Recipe:
    """So few logit rows that there are more classes than rows, and few evaluations for all of them."""
    rows, length, codebooks = min(recipe.rows, 2), min(recipe.length, 4), min(recipe.codebooks, 2)
    if codebooks > 1:
        rows, length = min(rows, 1), min(length, 3)
    return replace(
        calm(recipe),
        rows=rows,
        length=length,
        codebooks=codebooks,
        classes=rows * (length + recipe.extra) * (2 * codebooks if codebooks > 1 else 1) + 4,
        ids=Ids.COUNTING,
        dtype="float32",
    )


def places_only(weights: Mapping[Site, Mapping[Place, float]]) -> Positions:
    """The label places of weights read by value."""
    return {at: tuple(sorted(of_row)) for at, of_row in weights.items()}


def read_by_value(trial: Trial, recipe: Recipe) -> dict[Site, dict[Place, float]] | Observation:
    """The weight of every label place on every logit row, from values alone; or the observation that gave no loss."""
    case = trial.scored(recipe)
    stuck: list[Observation] = []
    found: dict[Site, dict[Place, float]] = {}
    for name in trial.spec.labels:

        def evaluate(labels: torch.Tensor, name: str = name) -> float:
            if stuck:
                return math.nan  # one case without a loss is enough: nothing more is asked
            changed: dict[str, Any] = {name: labels}
            observation = trial.observe(replace(case, batch=replace(case.batch, **changed)))  # no right answer needed
            if observation.problem is not None or observation.value is None:
                stuck.append(observation)
                return math.nan
            return observation.value

        terms = [term for term in trial.spec.terms if term.labels == name]
        labels = case.batch.tensor(name)
        classes = classes_of(trial.spec, name, case.recipe)
        never = {term.ignore_index for term in terms} | {id for term in terms for id in term.ignored_ids}
        if any(term.ignores_bos for term in terms):
            never.add(case.batch.bos_token_id)
        legal = [id for id in range(classes) if id not in never]
        valid = [tuple(place) for place in torch.isin(labels, torch.tensor(legal)).nonzero().tolist()]
        logits = {term.logits: map_logits(case.batch.tensor(term.logits).double(), term.score) for term in terms}
        found |= probe_value(evaluate, logits, labels, valid, legal)
    return stuck[0] if stuck else found


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
    assert observation.gradients is not None
    case = observation.case
    found = read_gradients(observation.gradients, case.pairing, case.batch)
    expected = predict(case.pairing)
    features: set[str] = set()
    wrong: list[str] = []
    for site in sorted({*found, *expected}):
        theirs, right = set(found.get(site, {})), set(expected.get(site, {}))
        if theirs != right:
            features.add("missing" if not theirs else "added" if not right else "other class")
            wrong.append(f"{show(site)} are scored on {_classes(theirs)}, not on {_classes(right)}")
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
    assert observation.gradients is not None
    case = observation.case
    found = read_gradients(observation.gradients, case.pairing, case.batch)
    bounds = trial.bounds(observation).gradients
    wrong: list[str] = []
    for pair in case.pairing.pairs:
        site = site_of(case.pairing, pair)
        weight = found.get(site, {}).get(pair.target)
        # What the weight is multiplied by in the gradient at the target: the bound is on their product.
        right = float(case.oracle.gradients[site[0]][pair.logit][pair.target])
        most = float(bounds[site[0]][pair.logit][pair.target])
        if weight is None or abs(weight / pair.weight - 1) * abs(right) > most:
            wrong.append(f"{show(site)} have weight {_number(weight)}, not {_number(pair.weight)}")
    if not wrong:
        return PASS
    return failing(f"{len(wrong)} of {len(case.pairing.pairs)} pairs: {wrong[0]}", "weight")


def show(site: Site) -> str:
    """A place in words that need no legend: ``logits [0, 2]``, ``audio_logits [0, 2, codebook 1]``."""
    name, *place = site
    row, position, *book = place
    return f"{name} [{row}, {position}{f', codebook {book[0]}' if book else ''}]"


def _shows(places: tuple[Place, ...]) -> str:
    if not places:
        return "nothing"
    return " and ".join("what is no label" if place[0] < 0 else show(("label", *place)) for place in places)


def _classes(targets: set[int]) -> str:
    return " and ".join(f"class {target}" for target in sorted(targets)) or "nothing"


def _number(weight: float | None) -> str:
    return "none" if weight is None else f"{weight:.6g}"
