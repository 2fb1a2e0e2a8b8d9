"""Naming the bug: what was probed, compared with what every known-wrong loss would have done."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

from shiftproof.reference.pairing import Pairing
from shiftproof.reference.spec import LossSpec

from .cases import Case
from .laws import LAWS
from .laws.pairs import calm, expected_positions, one_id_a_place, places_only, positions_of, read_by_value
from .mutants import MUTANTS
from .mutants.symptoms import SYMPTOMS
from .picture import draw
from .probe import Scored, predict, read_gradient
from .recipe import Recipe
from .strategies import killers, plain
from .trial import Observation, Trial
from .verdict import LawResult, NamedBug, Picture, Verdict

_CASES = 40
_CASES_BY_VALUE = 10
_WEIGHT_TOLERANCE = {"float32": 1e-3, "float64": 1e-3, "float16": 8e-3, "bfloat16": 3e-2}
_MISMATCH = re.compile(r"Expected input batch_size \((\d+)\) to match target batch_size \((\d+)\)")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a candidate was seen to do on one case: each logit row's classes and weights."""

    case: Case
    scored: Scored


def gather(trial: Trial) -> tuple[list[Evidence], list[Observation]]:
    """The evidence on a bank of telling cases, and the observations that gave none."""
    if not trial.candidate.gradient:
        return _gather_by_value(trial)
    evidence: list[Evidence] = []
    silent: list[Observation] = []
    for recipe in _bank(trial, _CASES):
        if not trial.case(recipe).pairing.logits_shape[0]:
            continue
        observation = trial.look(recipe)
        if observation.problem is not None or observation.gradient is None:
            silent.append(observation)
            if len(silent) >= 2 and observation.problem and observation.problem.verdict is not Verdict.ERROR:
                break  # each of these costs a restart or a deadline
            continue
        if bool(observation.gradient.isfinite().all()):
            scored = read_gradient(observation.gradient, observation.case.batch.logits)
            evidence.append(Evidence(observation.case, scored))
    return evidence, silent


def _gather_by_value(trial: Trial) -> tuple[list[Evidence], list[Observation]]:
    evidence: list[Evidence] = []
    silent: list[Observation] = []
    law = LAWS["ALIGN-2"]
    for recipe in _bank(trial, _CASES_BY_VALUE):
        focused = law.focus(recipe)
        if focused is None or focused.shift_labels != "absent" or "labels" not in trial.binding.names:
            continue
        case = trial.case(focused)
        weights = read_by_value(trial, focused)
        if isinstance(weights, Observation):
            silent.append(weights)
            continue
        scored = {
            at: {int(case.batch.labels[place]): weight for place, weight in of_row.items()}
            for at, of_row in weights.items()
        }
        evidence.append(Evidence(case, scored))
    return evidence, silent


def _bank(trial: Trial, count: int) -> list[Recipe]:
    drawn = [*killers(trial.space), *islice(plain(trial.space, 1), count)]
    # With two classes a negative weight on one looks like a positive weight on the other.
    return [calm(replace(recipe, classes=max(recipe.classes, 3))) for recipe in drawn][:count]


def agreement(evidence: Iterable[Evidence], pairings: Iterable[Pairing | None], tolerance: float) -> tuple[float, int]:
    """The share of the evidence that the pairings predict exactly, and how many cases could be compared."""
    same = compared = 0
    for seen, pairing in zip(evidence, pairings, strict=True):
        if pairing is None or any(math.isnan(pair.weight) for pair in pairing.pairs):
            continue
        compared += 1
        same += _agree(seen, predict(pairing), tolerance)
    return (same / compared if compared else 0.0), compared


def _agree(seen: Evidence, predicted: Scored, tolerance: float) -> bool:
    """Whether the same rows were scored on the same classes with the same weights, as far as the dtype can tell."""
    if seen.scored.keys() != predicted.keys():
        return False
    for place, weights in predicted.items():
        found = seen.scored[place]
        if found.keys() != weights.keys():
            return False
        if any(abs(found[target] - weight) > tolerance * abs(weight) for target, weight in weights.items()):
            return False
    return True


def name_by_pairs(evidence: list[Evidence], spec: LossSpec, dtype: str) -> tuple[NamedBug, ...]:
    """The mutants of ``spec`` that predict all of the evidence, best first; those that predict the same are one bug."""
    tolerance = _WEIGHT_TOLERANCE[dtype]
    right, _ = agreement(evidence, [seen.case.pairing for seen in evidence], tolerance)
    if right == 1.0 or not evidence:
        return ()
    found: list[tuple[str, str]] = []
    for mutant in MUTANTS.values():
        for variant in mutant.variants:
            pairings = [variant.wrong(spec, seen.case.batch) for seen in evidence]
            share, compared = agreement(evidence, pairings, tolerance)
            if share == 1.0 and compared >= min(3, len(evidence)):
                found.append((mutant.name, variant.detail))
                break
    if not found:
        return ()
    (name, detail), *others = found
    return (_named(name, detail, tuple(other for other, _ in others)),)


def _named(name: str, detail: str, also: tuple[str, ...]) -> NamedBug:
    mutant = MUTANTS[name]
    return NamedBug(name, 1.0, detail, mutant.formula, mutant.seen, also)


def name_by_symptom(
    laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence], silent: list[Observation]
) -> tuple[NamedBug, ...]:
    """Bugs that show not in the pairs but in what fails: an exception's own words, or one law that fails alone."""
    for observation in silent:
        problem = observation.problem
        match = _MISMATCH.search(problem.message) if problem else None
        if match is not None:
            rows = max(observation.case.batch.labels.shape[0], 1)
            logits, labels = (int(size) // rows for size in match.groups())
            return (_symptom("length-mismatch", f"{logits} logits a row against {labels} labels"),)
    if "VALUE-1" not in trial.failed and evidence and all(map(_lacks_only, evidence)):
        return (_symptom("detached-part", "the value is right and pairs have no gradient"),)
    for result in laws:
        law = LAWS[result.id]
        alone = not any(id in trial.failed for id in law.presumes)
        if result.verdict.is_failure and alone and len(law.suggests) == 1:
            return (_symptom(law.suggests[0], f"{law.id} fails"),)
    return ()


def _lacks_only(seen: Evidence) -> bool:
    """Whether pairs lack their gradient on this case and nothing else is amiss."""
    right = predict(seen.case.pairing)
    found = {place: set(weights) for place, weights in seen.scored.items()}
    expected = {place: set(weights) for place, weights in right.items()}
    return found != expected and all(found[place] == expected.get(place) for place in found)


def _symptom(name: str, detail: str) -> NamedBug:
    symptom = SYMPTOMS[name]
    return NamedBug(name, 1.0, detail, symptom.formula, symptom.seen)


def picture(trial: Trial, recipe: Recipe) -> Picture | None:
    """Expected against found on one recipe, or None where nothing could be read."""
    case = trial.case(one_id_a_place(recipe))
    expected = expected_positions(case.pairing)
    if trial.candidate.gradient:
        found = positions_of(trial, case.recipe)
        return None if isinstance(found, Observation) else draw(case, expected, found)
    weights = read_by_value(trial, case.recipe)
    return None if isinstance(weights, Observation) else draw(case, expected, places_only(weights))
