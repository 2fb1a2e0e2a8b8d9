"""Laws on the list of pairs. The list is read back from the gradient and compared as a set, without any tolerance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from shiftproof.reference.pairing import Pairing, Place
from shiftproof.reference.score import map_logits
from shiftproof.reference.spec import ShiftedBy

from ..candidates.loss import Observation, Trial
from ..cases.build import Case, classes_of
from ..cases.recipe import AudioClasses, AudioLength, Ids, Recipe, Regime, Weights
from ..probe.read import (
    UNCLEAR,
    Positions,
    ScoredRows,
    Site,
    predict,
    probe_value,
    read_gradients,
    read_positions,
    site_of,
)
from .base import NOT_APPLICABLE, PASS, Judgement, failing, law, needs_gradient, not_answered, trained, trains

_PROBE = "the gradient of cross-entropy: ∂L/∂x_i = W_i·(softmax(x_i) − onehot(y_i))"


_SEEDS = 9  # of ids, until those of the wrong places differ
_ONE_PROBE = 1024  # up to this number of label positions, one probe has an id for each


def calm(recipe: Recipe) -> Recipe:
    """Return the recipe with calm numbers. The pairing does not depend on them, and they show it best.

    No weight is 0: such a pair does not show.
    """
    weights = Weights.QUARTERS if recipe.weights is Weights.ZEROS else recipe.weights
    return replace(recipe, regime=Regime.CALM, classes=max(recipe.classes, 2), weights=weights)


def one_id_a_place(recipe: Recipe) -> Recipe:
    """Return a calm case with one id per label place, or, if there are too many places, their base-V digits."""
    places = recipe.rows * max(recipe.length, recipe.audio_frames) * recipe.codebooks
    wide = max(recipe.classes, places + 3) if places <= _ONE_PROBE else recipe.classes
    return replace(calm(recipe), classes=max(wide, 2), audio_classes=AudioClasses.MORE, ids=Ids.COUNTING, digit=0)


_read: WeakKeyDictionary[Observation, ScoredRows] = WeakKeyDictionary()


def pairs_of(observation: Observation) -> ScoredRows:
    """The pairs that the gradient of an observation shows, with their weights. They are read once."""
    if observation not in _read:
        assert observation.gradients is not None
        case = observation.case
        _read[observation] = read_gradients(observation.gradients, case.pairing, case.batch)
    return _read[observation]


def positions_of(trial: Trial, recipe: Recipe) -> Positions | Observation:
    """Return the label places that each logit row was scored on, or the observation without a loss or gradient."""
    case = trial.case(recipe)
    recipe = case.recipe
    labels = {name: tuple(case.batch.tensor(name).shape) for name in trial.spec.labels}
    classes = {name: classes_of(trial.spec, name, recipe) for name in labels}
    digits = max(_digits(math.prod(shape), classes[name]) for name, shape in labels.items())
    scored = []
    for digit in range(digits):
        observation = trial.observe_cached(replace(recipe, ids=Ids.COUNTING, digit=digit))
        if observation.problem is not None or observation.gradients is None:
            return observation
        scored.append(pairs_of(observation))
    found: dict[Site, tuple[Place, ...]] = {}
    for term in trial.spec.terms:
        shape = labels[term.labels]
        used = _digits(math.prod(shape), classes[term.labels])
        own: list[ScoredRows] = [
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
    adapt=one_id_a_place,
    skip_reason=needs_gradient,
)
def pairs_exact(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if not trains(case):
        return NOT_APPLICABLE
    found = positions_of(trial, recipe)
    if isinstance(found, Observation):
        return not_answered(found) if found.problem else failing("no gradient at the logits", "no gradient")
    expected = expected_positions(case.pairing)
    return judge_positions(without_coincidences(trial, case.recipe, found, expected), expected)


def without_coincidences(trial: Trial, recipe: Recipe, found: Positions, expected: Positions) -> Positions:
    """Return the positions, with (-1, class) for each wrong one that is a class and no label.

    Class 0 is the id of the first label, and may be the pad of a loss too. Under other ids, only the label moves with
    its place.
    """
    wrong = [site for site, places in found.items() if places != expected.get(site, ())]
    if not wrong or not trial.candidate.gradient:
        return found
    others = (replace(recipe, ids=Ids.SEEDED, digit=0, seed=recipe.seed + more) for more in range(1, _SEEDS))
    told = next((other for other in others if _tells(trial.case(recipe), trial.case(other), found, wrong)), None)
    if told is None:
        return found
    observation = trial.observe_cached(told)
    if observation.problem is not None or observation.gradients is None:
        return found
    batch, scored = observation.case.batch, pairs_of(observation)
    names = {term.logits: term.labels for term in trial.spec.terms}
    sure = dict(found)
    for site in wrong:
        labels, classes = batch.tensor(names[site[0]]), scored.get(site, {})
        at = tuple(
            (-1, next(iter(classes)))
            if place[0] >= 0 and place not in expected.get(site, ()) and classes and int(labels[place]) not in classes
            else place
            for place in found[site]
        )
        sure[site] = at
    return sure


def _tells(case: Case, other: Case, found: Positions, sites: list[Site]) -> bool:
    """Whether the label at each wrong place is another class in the ``other`` case."""
    names = {term.logits: term.labels for term in case.spec.terms}
    places = [(names[site[0]], place) for site in sites for place in found[site] if place[0] >= 0]
    return all(case.batch.tensor(name)[place] != other.batch.tensor(name)[place] for name, place in places)


def judge_positions(found: Positions, expected: Positions) -> Judgement:
    """Compare two position maps. The features are the ways in which labels were moved, lost or added."""
    features: set[str] = set()
    wrong: list[str] = []
    for site in sorted({*found, *expected}):
        theirs, right = found.get(site, ()), expected.get(site, ())
        if theirs in (right, (UNCLEAR,)):  # SELECT-1 judges the classes
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
    """Describe in a word where the scored label stands, relative to the right one."""
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
    calls_again=True,
    depends_on=("CONTRACT-1", "ALIGN-1"),
    adapt=lambda recipe: _few_places(recipe),
    skip_reason=lambda trial: (
        "its gradient shows the same in one call"
        if trial.candidate.gradient
        else "with class weights or DFT, a label's class changes its own weight"
        if any(term.score.class_weights or term.score.dft for term in trial.spec.terms)
        else None
    ),
)
def pairs_by_value(trial: Trial, recipe: Recipe) -> Judgement:
    case = trial.case(recipe)
    if not trains(case) or recipe.shift_labels != "absent" or not math.isfinite(case.oracle.value or 0.0):
        return NOT_APPLICABLE  # a codebook or head without a label can make the loss NaN, and NaN hides every change
    found = read_by_value(trial, recipe)
    if isinstance(found, Observation):
        return not_answered(found)
    return judge_positions(places_only(found), expected_positions(case.pairing))


def _few_places(recipe: Recipe) -> Recipe:
    """Limit the logit rows, so that there are more classes than rows and few evaluations are needed."""
    rows, length, codebooks = min(recipe.rows, 2), min(recipe.length, 4), min(recipe.codebooks, 2)
    if codebooks > 1:
        rows, length = min(rows, 1), min(length, 3)
    return replace(
        calm(recipe),
        rows=rows,
        length=length,
        codebooks=codebooks,
        audio_classes=AudioClasses.MORE,
        audio_length=AudioLength.SAME,
        classes=rows * (length + recipe.extra) * 2 * codebooks + 4,  # two arrays of logits may share the labels
        ids=Ids.COUNTING,
        dtype="float32",
    )


def places_only(weights: Mapping[Site, Mapping[Place, float]]) -> Positions:
    """Return the label places of weights that were read by value."""
    return {at: tuple(sorted(of_row)) for at, of_row in weights.items()}


def read_by_value(trial: Trial, recipe: Recipe) -> dict[Site, dict[Place, float]] | Observation:
    """Return the weight of every label place on every logit row, read from values alone.

    Return the observation instead if a case gives no loss.
    """
    case = trial.scored(recipe)
    # The tokens are the labels before any was ignored. A model's are not changed, since its logits would change too.
    # Those of a decoder's inputs stand elsewhere, and where they end a row, they say which labels count.
    of_tokens = all(term.shifted_by is ShiftedBy.LOSS and not term.stops_at_eos for term in trial.spec.terms)
    tokens = case.batch.input_ids if of_tokens and not trial.makes_logits else None
    stuck: list[Observation] = []
    found: dict[Site, dict[Place, float]] = {}
    for name in trial.spec.labels:

        def evaluate(labels: torch.Tensor, name: str = name) -> float:
            if stuck:
                return math.nan  # after one case without a loss, no more calls are made
            changed: dict[str, Any] = {name: labels}
            if name == "labels" and tokens is not None:
                changed["input_ids"] = tokens.where(labels == case.batch.tensor(name), labels)
            observation = trial.observe(replace(case, batch=replace(case.batch, **changed)))  # needs no right answer
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
    adapt=calm,
    depends_on=("CONTRACT-1", "ALIGN-1"),
    skip_reason=needs_gradient,
)
def targets_exact(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trained(trial, recipe, gradient=True)
    if isinstance(observation, Judgement):
        return observation
    case = observation.case
    found = pairs_of(observation)
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
    adapt=calm,
    depends_on=("CONTRACT-1", "ALIGN-1", "SELECT-1"),
    skip_reason=needs_gradient,
)
def weights_exact(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trained(trial, recipe, gradient=True)
    if isinstance(observation, Judgement):
        return observation
    case = observation.case
    found = pairs_of(observation)
    bounds = trial.bounds(observation).gradients
    wrong: list[str] = []
    for name in trial.spec.logits:
        pairs = case.pairing.of(name)
        if not pairs:
            continue
        at = torch.tensor([(*pair.logit, pair.target) for pair in pairs]).unbind(1)
        # The factor on the weight in the gradient at the target. The bound applies to their product.
        factors, most = case.oracle.gradients[name][at].abs().tolist(), bounds[name][at].tolist()
        for pair, factor, allowed in zip(pairs, factors, most, strict=True):
            weight = found.get((name, *pair.logit), {}).get(pair.target)
            if weight is None or abs(weight / pair.weight - 1) * factor > allowed:
                site = site_of(case.pairing, pair)
                wrong.append(f"{show(site)} have weight {_number(weight)}, not {_number(pair.weight)}")
    if not wrong:
        return PASS
    return failing(f"{len(wrong)} of {len(case.pairing.pairs)} pairs: {wrong[0]}", "weight")


def show(site: Site) -> str:
    """Write a place in words that need no legend: ``logits [0, 2]``, ``audio_logits [0, 2, codebook 1]``."""
    name, *place = site
    row, position, *book = place
    return f"{name} [{row}, {position}{f', codebook {book[0]}' if book else ''}]"


def _shows(places: tuple[Place, ...]) -> str:
    if not places:
        return "nothing"
    return " and ".join(map(_show_place, places))


def _show_place(place: Place) -> str:
    if place[0] >= 0:
        return show(("label", *place))
    return f"class {place[1]}, which is no label" if place[1] >= 0 else "something other than a label"


def _classes(targets: set[int]) -> str:
    return " and ".join(f"class {target}" for target in sorted(targets)) or "nothing"


def _number(weight: float | None) -> str:
    return "none" if weight is None else f"{weight:.6g}"
