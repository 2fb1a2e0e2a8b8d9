"""Name a wrong score of the right pairs: the value and the gradient of every case follow from it."""

from __future__ import annotations

import math

from shiftproof.reference.spec import LossSpec

from ..candidates.loss import Trial
from ..mutants.scores import SCORES, predict_score, taken
from ..mutants.scores import Wrong as WrongScore
from ..probe.read import predict
from ..results import NamedBug
from .bug import symptom
from .evidence import WEIGHT_TOLERANCE, Evidence
from .name_by_numbers import hard_on_numbers
from .near_scores import other_mass, other_scores


def name_by_score(evidence: list[Evidence], spec: LossSpec, dtype: str) -> tuple[NamedBug, ...]:
    """Return the wrong scores that predict the value and gradient of all the evidence, best first, as one bug."""
    promised = [term.score for term in spec.terms]
    if not evidence or has_right_score(evidence, dtype):
        return ()
    found = [
        mutant
        for mutant in SCORES.values()
        if any(map(mutant.applies, promised)) and _takes_score(evidence, mutant.wrong, dtype)
    ]
    if not found:
        return ()
    first, *others = found
    also = tuple(mutant.name for mutant in others)
    return (NamedBug(first.name, 1.0, "", first.formula, first.seen, also),)


def name_by_near_score(evidence: list[Evidence], spec: LossSpec, dtype: str) -> tuple[NamedBug, ...]:
    """Name a score that is right but for one of its constants, or for the mass of its label smoothing."""
    if not evidence or not all(each.scored.keys() == predict(each.case.pairing).keys() for each in evidence):
        return ()
    if has_right_score(evidence, dtype):
        return ()
    for score, words in other_scores(evidence, spec):
        if _takes_score(evidence, score, dtype):
            return (symptom("another-score", words),)
    if mass := other_mass(evidence, spec):
        return (symptom("smoothing-mass", mass),)
    return ()


def of_large_logits(trial: Trial) -> list[Evidence]:
    """Return evidence on logits beyond a softcap, without the pairs. On smaller ones, softcaps hardly differ."""
    if all(term.score.softcap is None for term in trial.spec.terms):
        return []
    observed = [trial.observe_cached(recipe) for recipe in hard_on_numbers(trial)]
    return [Evidence(each.case, predict(each.case.pairing), each) for each in observed if each.problem is None]


def _takes_score(evidence: list[Evidence], score: WrongScore, dtype: str) -> bool:
    """Return whether the right pairs with this score give the value and the gradient of every case with pairs."""
    tolerance = WEIGHT_TOLERANCE[dtype]
    compared = 0
    for each in evidence:
        case, observed = each.case, each.seen
        if (
            observed is None
            or observed.gradients is None
            or observed.value is None
            or not math.isfinite(observed.value)
        ):
            continue
        value, gradients = predict_score(score, case.pairing, case.batch)
        if abs(value - observed.value) > tolerance * max(abs(value), 1e-3):
            return False
        for name, gradient in gradients.items():
            most = float(gradient.abs().amax()) if gradient.numel() else 0.0
            if bool(((observed.gradients[name] - gradient).abs() > tolerance * most).any()):
                return False
        compared += bool(case.pairing.pairs)
    return compared >= min(3, len(evidence))


def has_right_score(evidence: list[Evidence], dtype: str) -> bool:
    """Return whether the right pairs with the right score give the value and the gradient of every case with pairs."""
    return _takes_score(evidence, taken, dtype)
