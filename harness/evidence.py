"""What a candidate was seen to do on telling cases, and whether a list of pairs explains all of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

import torch

from shiftproof.reference.pairing import Pairing
from shiftproof.reference.spec import LossSpec

from .cases import Case
from .laws import LAWS, aim
from .laws.pairs import calm, read_by_value
from .mutants import MUTANTS, Variant
from .mutants.views import variants_under
from .probe import Scored, Site, predict, read_gradients
from .recipe import Recipe
from .strategies import killers, plain
from .trial import Observation, Trial

_CASES = 40
_CASES_BY_VALUE = 10
_CERTAIN = 2e-3
WEIGHT_TOLERANCE = {"float32": 1e-3, "float64": 1e-3, "float16": 8e-3, "bfloat16": 3e-2}
"""How far a weight read back may be from the one predicted, of it, by dtype."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a candidate was seen to do on one case: each logit row's classes and weights, and, where there was a
    gradient, what they were read from. Of the rows ``unsure`` the classes alone can be relied on."""

    case: Case
    scored: Scored
    seen: Observation | None = None
    unsure: frozenset[Site] = frozenset()


def gather(trial: Trial, by_value: int = _CASES_BY_VALUE) -> tuple[list[Evidence], list[Observation]]:
    """The evidence on a bank of telling cases, and the observations that gave none.

    ``by_value`` is how many cases a candidate without a gradient is asked: each takes some 60 calls.
    """
    if not trial.candidate.gradient:
        return _gather_by_value(trial, by_value)
    evidence: list[Evidence] = []
    silent: list[Observation] = []
    for recipe in bank(trial, _CASES):
        if not recipe.rows:
            continue
        observation = trial.look(recipe)
        if observation.problem is not None or observation.gradients is None:
            silent.append(observation)
            costly = observation.problem is not None and observation.problem.verdict.is_costly
            if costly and len(silent) >= 2:
                break  # each of these costs a restart or a deadline
            continue
        if all(bool(gradient.isfinite().all()) for gradient in observation.gradients.values()):
            case = observation.case
            scored = read_gradients(observation.gradients, case.pairing, case.batch)
            unsure = _unsure(case, scored) if trial.makes_logits else frozenset()  # calm logits are certain of nothing
            evidence.append(Evidence(case, scored, observation, unsure))
    return evidence, silent


def _unsure(case: Case, scored: Scored) -> frozenset[Site]:
    """The rows that are certain of what they are scored on: their gradient is no more than what is left of 1, and the
    weight is read from that."""
    found = set()
    for site, weights in scored.items():
        name, *place = site
        row = torch.softmax(case.batch.tensor(name)[tuple(place)].double(), dim=-1)
        if any(1 - float(row[target]) < _CERTAIN for target in weights):
            found.add(site)
    return frozenset(found)


def _gather_by_value(trial: Trial, count: int) -> tuple[list[Evidence], list[Observation]]:
    evidence: list[Evidence] = []
    silent: list[Observation] = []
    law = LAWS["ALIGN-2"]
    for recipe in bank(trial, count):
        focused = aim(law, trial, recipe)
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
    drawn = [*killers(trial.space), *islice(plain(trial.space, 1), count)]
    # Few cases are drawn with as many codebooks as positions, where alone their axes can be mistaken for each other.
    drawn[:0] = [replace(recipe, length=recipe.codebooks) for recipe in drawn if recipe.codebooks > 2][:2]
    # With two classes a negative weight on one looks like a positive weight on the other.
    return [calm(replace(recipe, classes=max(recipe.classes, 3))) for recipe in drawn][:count]


def explains(evidence: list[Evidence], pairs_of: Callable[[Case], Pairing | None], tolerance: float) -> bool:
    """Whether the pairs that ``pairs_of`` gives are those of all the evidence, as far as it has any to give."""
    return explained(evidence, lambda case: scored_by(pairs_of(case)), tolerance)


def explained(evidence: list[Evidence], predicted: Callable[[Case], Scored | None], tolerance: float) -> bool:
    compared = 0
    for seen in evidence:
        scored = predicted(seen.case)
        if scored is None:
            continue
        if not agree(seen, scored, tolerance):
            return False
        compared += 1
    return compared >= min(3, len(evidence))


def scored_by(pairing: Pairing | None) -> Scored | None:
    """What a pairing would be read back as; None where there is none, or it divides nothing by nothing."""
    if pairing is None or any(math.isnan(pair.weight) for pair in pairing.pairs):
        return None
    return predict(pairing)


@lru_cache(maxsize=1 << 15)
def wrongly_scored(variant: Variant, case: Case) -> Scored | None:
    return scored_by(variant.wrong(case.spec, case.batch))


@lru_cache(maxsize=1024)
def variants_of(name: str, spec: LossSpec) -> tuple[Variant, ...]:
    return tuple(variants_under(MUTANTS[name], spec))


def agree(seen: Evidence, predicted: Scored, tolerance: float) -> bool:
    """Whether the same rows were scored on the same classes with the same weights, as far as the dtype can tell."""
    if seen.scored.keys() != predicted.keys():
        return False
    for place, weights in predicted.items():
        found = seen.scored[place]
        if found.keys() != weights.keys():
            return False
        if place in seen.unsure:
            continue
        if any(abs(found[target] - weight) > tolerance * abs(weight) for target, weight in weights.items()):
            return False
    return True
