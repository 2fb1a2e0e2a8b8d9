"""What a candidate did on cases that separate bugs, and whether a list of pairs explains all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import torch

from shiftproof.reference.pairing import Pairing
from shiftproof.reference.spec import LossSpec

from ..candidates.loss import Observation, Trial
from ..candidates.variant import PLAIN, Variant
from ..cases.build import Case
from ..cases.recipe import Recipe
from ..cases.space import hand_made, random_recipes
from ..laws import LAWS, Law, adapt_to
from ..laws.alignment import calm, read_by_value
from ..mutants import MUTANTS, BugVariant
from ..mutants.views import variants_under
from ..probe.read import ScoredRows, Site, predict, read_gradients

_CASES = 40
_CASES_BY_VALUE = 10
_CERTAIN = {"float32": 2e-3, "float64": 2e-3, "float16": 3e-2, "bfloat16": 0.1}
"""By dtype: up to which rest of the probability a weight cannot be read, because p − 1 is rounded."""

WEIGHT_TOLERANCE = {"float32": 1e-3, "float64": 1e-3, "float16": 8e-3, "bfloat16": 3e-2}
"""By dtype: how far a weight that was read back may be from the predicted one, relative to that one."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a candidate did on one case: the classes and weights of each logit row.

    ``seen`` is the observation that they were read from, if there was a gradient. For rows in ``unsure`` only the
    classes are reliable.
    """

    case: Case
    scored: ScoredRows
    seen: Observation | None = None
    unsure: frozenset[Site] = frozenset()


def gather(
    trial: Trial,
    by_value: int = _CASES_BY_VALUE,
    variant: Variant = PLAIN,
    law: Law[Trial, Recipe] | None = None,
    recipes: Iterable[Recipe] | None = None,
) -> tuple[list[Evidence], list[Observation]]:
    """Return the evidence on a bank of cases that separate bugs, and the observations that gave no evidence.

    ``by_value`` is the number of cases for a candidate without a gradient. Each of them takes about 60 calls. All
    others are called as ``variant`` says, on cases that ``law`` covers. ``recipes`` replace the bank.
    """
    if not trial.candidate.gradient:
        return _gather_by_value(trial, by_value)
    evidence: list[Evidence] = []
    silent: list[Observation] = []
    for drawn in bank(trial, _CASES) if recipes is None else recipes:
        recipe = drawn if law is None else adapt_to(law, trial, drawn)
        if recipe is None or not recipe.rows:
            continue
        observation = trial.observe_cached(recipe, variant)
        if observation.problem is not None or observation.gradients is None:
            silent.append(observation)
            costly = observation.problem is not None and observation.problem.verdict.is_costly
            if costly and len(silent) >= 2:
                break  # each of these costs a restart or a deadline
            continue
        if all(bool(gradient.isfinite().all()) for gradient in observation.gradients.values()):
            case = observation.case
            scored = read_gradients(observation.gradients, case.pairing, case.batch)
            unsure = _unsure(case, scored) if trial.makes_logits else frozenset()  # calm logits give no certain row
            evidence.append(Evidence(case, scored, observation, unsure))
    return evidence, silent


def _unsure(case: Case, scored: ScoredRows) -> frozenset[Site]:
    """Return the rows that are certain of their target.

    Their gradient is only the small rest of the probability up to 1, and the weight is read from that.
    """
    found = set()
    for site, weights in scored.items():
        name, *place = site
        row = torch.softmax(case.batch.tensor(name)[tuple(place)].double(), dim=-1)
        if any(1 - float(row[target]) < _CERTAIN[case.recipe.dtype] for target in weights):
            found.add(site)
    return frozenset(found)


def _gather_by_value(trial: Trial, count: int) -> tuple[list[Evidence], list[Observation]]:
    evidence: list[Evidence] = []
    silent: list[Observation] = []
    law = LAWS["ALIGN-2"]
    for recipe in bank(trial, count):
        focused = adapt_to(law, trial, recipe)
        if focused is None or focused.shift_labels != "absent":
            continue
        case = trial.case(focused)
        weights = read_by_value(trial, focused)
        if isinstance(weights, Observation):
            silent.append(weights)
            if len(silent) >= 2 and not evidence:
                break
            continue
        labels = {term.logits: case.batch.tensor(term.labels) for term in trial.spec.terms}
        scored = {
            site: {int(labels[site[0]][place]): weight for place, weight in of_row.items()}
            for site, of_row in weights.items()
        }
        evidence.append(Evidence(case, scored))
    return evidence, silent


def bank(trial: Trial, count: int) -> list[Recipe]:
    drawn = [*hand_made(trial.space), *islice(random_recipes(trial.space, 1), count)]
    # A bug can confuse the axes only with as many codebooks as positions. Few such cases are drawn, so add some.
    drawn[:0] = [replace(recipe, length=recipe.codebooks) for recipe in drawn if recipe.codebooks > 2][:4]
    # With two classes, a negative weight on one looks like a positive weight on the other.
    return [calm(replace(recipe, classes=max(recipe.classes, 3))) for recipe in drawn][:count]


def explains(evidence: list[Evidence], pairs_of: Callable[[Case], Pairing | None], tolerance: float) -> bool:
    """Return whether the pairs from ``pairs_of`` match all the evidence, on the cases for which it gives pairs."""
    return explained(evidence, lambda case: scored_by(pairs_of(case)), tolerance)


def explained(evidence: list[Evidence], predicted: Callable[[Case], ScoredRows | None], tolerance: float) -> bool:
    compared = 0
    for each in evidence:
        scored = predicted(each.case)
        if scored is None:
            continue
        if not agree(each, scored, tolerance):
            return False
        compared += 1
    return compared >= min(3, len(evidence))


def scored_by(pairing: Pairing | None) -> ScoredRows | None:
    """Return what a pairing would be read back as, or None if there is no pairing or one of its weights is NaN."""
    if pairing is None or any(math.isnan(pair.weight) for pair in pairing.pairs):
        return None
    return predict(pairing)


@lru_cache(maxsize=1 << 15)
def wrongly_scored(variant: BugVariant, case: Case) -> ScoredRows | None:
    return scored_by(variant.wrong(case.spec, case.batch))


@lru_cache(maxsize=1024)
def variants_of(name: str, spec: LossSpec) -> tuple[BugVariant, ...]:
    return tuple(variants_under(MUTANTS[name], spec))


def agree(each: Evidence, predicted: ScoredRows, tolerance: float) -> bool:
    """Return whether the same rows score the same classes with the same weights, within ``tolerance``."""
    if each.scored.keys() != predicted.keys():
        return False
    for place, weights in predicted.items():
        found = each.scored[place]
        if found.keys() != weights.keys():
            return False
        if place in each.unsure:
            continue
        if any(abs(found[target] - weight) > tolerance * abs(weight) for target, weight in weights.items()):
            return False
    return True
