"""Naming the bug: what was probed, compared with what every known-wrong loss would have done."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice

import torch
from torch import Tensor

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import Pairing
from shiftproof.reference.spec import Compute, LossSpec

from .cases import Case
from .compare import Bounds, derive_bounds, different_gradients, same_value
from .laws import LAWS
from .laws.pairs import calm, expected_positions, one_id_a_place, places_only, positions_of, read_by_value
from .mutants import MUTANTS, Variant
from .mutants.behaviour import Asked
from .mutants.behaviours import BEHAVIOURS
from .mutants.scores import SCORES, predict_score, taken
from .mutants.scores import Wrong as WrongScore
from .mutants.symptoms import SYMPTOMS
from .mutants.views import variants_under
from .picture import draw
from .probe import Scored, predict, read_gradients, site_of
from .recipe import Recipe, Regime
from .strategies import killers, plain
from .trial import Observation, Trial
from .verdict import LawResult, NamedBug, Picture, Verdict

_CASES = 40
_CASES_BY_VALUE = 10
_AS_COMPUTED = 0.01  # two ways of doing the same arithmetic differ by less, of what they come to
_WEIGHT_TOLERANCE = {"float32": 1e-3, "float64": 1e-3, "float16": 8e-3, "bfloat16": 3e-2}
_MISMATCH = re.compile(r"Expected input batch_size \((\d+)\) to match target batch_size \((\d+)\)")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a candidate was seen to do on one case: each logit row's classes and weights, and, where there was a
    gradient, what they were read from."""

    case: Case
    scored: Scored
    seen: Observation | None = None


def gather(trial: Trial) -> tuple[list[Evidence], list[Observation]]:
    """The evidence on a bank of telling cases, and the observations that gave none."""
    if not trial.candidate.gradient:
        return _gather_by_value(trial)
    evidence: list[Evidence] = []
    silent: list[Observation] = []
    for recipe in _bank(trial, _CASES):
        if not recipe.rows:
            continue
        observation = trial.look(recipe)
        if observation.problem is not None or observation.gradients is None:
            silent.append(observation)
            if len(silent) >= 2 and observation.problem and observation.problem.verdict is not Verdict.ERROR:
                break  # each of these costs a restart or a deadline
            continue
        if all(bool(gradient.isfinite().all()) for gradient in observation.gradients.values()):
            case = observation.case
            scored = read_gradients(observation.gradients, case.pairing, case.batch)
            evidence.append(Evidence(case, scored, observation))
    return evidence, silent


def _gather_by_value(trial: Trial) -> tuple[list[Evidence], list[Observation]]:
    evidence: list[Evidence] = []
    silent: list[Observation] = []
    law = LAWS["ALIGN-2"]
    for recipe in _bank(trial, _CASES_BY_VALUE):
        focused = law.focus(recipe)
        if focused is None or focused.shift_labels != "absent":
            continue
        case = trial.case(focused)
        weights = read_by_value(trial, focused)
        if isinstance(weights, Observation):
            silent.append(weights)
            continue
        labels = {term.logits: case.batch.tensor(term.labels) for term in trial.spec.terms}
        scored = {
            site: {int(labels[site[0]][place]): weight for place, weight in of_row.items()}
            for site, of_row in weights.items()
        }
        evidence.append(Evidence(case, scored))
    return evidence, silent


def _bank(trial: Trial, count: int) -> list[Recipe]:
    drawn = [*killers(trial.space), *islice(plain(trial.space, 1), count)]
    # Few cases are drawn with as many codebooks as positions, where alone their axes can be mistaken for each other.
    drawn[:0] = [replace(recipe, length=recipe.codebooks) for recipe in drawn if recipe.codebooks > 2][:2]
    # With two classes a negative weight on one looks like a positive weight on the other.
    return [calm(replace(recipe, classes=max(recipe.classes, 3))) for recipe in drawn][:count]


def explains(evidence: list[Evidence], pairs_of: Callable[[Case], Pairing | None], tolerance: float) -> bool:
    """Whether the pairs that ``pairs_of`` gives are those of all the evidence, as far as it has any to give."""
    return _explained(evidence, lambda case: _scored(pairs_of(case)), tolerance)


def _explained(evidence: list[Evidence], predicted: Callable[[Case], Scored | None], tolerance: float) -> bool:
    compared = 0
    for seen in evidence:
        scored = predicted(seen.case)
        if scored is None:
            continue
        if not _agree(seen, scored, tolerance):
            return False
        compared += 1
    return compared >= min(3, len(evidence))


def _scored(pairing: Pairing | None) -> Scored | None:
    """What a pairing would be read back as; None where there is none, or it divides nothing by nothing."""
    if pairing is None or any(math.isnan(pair.weight) for pair in pairing.pairs):
        return None
    return predict(pairing)


@lru_cache(maxsize=1 << 15)
def _wrongly_scored(variant: Variant, case: Case) -> Scored | None:
    return _scored(variant.wrong(case.spec, case.batch))


@lru_cache(maxsize=1024)
def _variants(name: str, spec: LossSpec) -> tuple[Variant, ...]:
    return tuple(variants_under(MUTANTS[name], spec))


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


def name_bugs(
    laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence], silent: list[Observation]
) -> tuple[NamedBug, ...]:
    """The bugs that explain what was seen: by the pairs, else by the score, else by a symptom."""
    if "VALUE-1" not in trial.failed and any(map(_lacks, evidence)) and all(map(_adds_nothing, evidence)):
        return (_symptom("detached-part", "the value is right and pairs have no gradient"),)
    named = name_by_pairs(evidence, trial.spec, trial.dtype)
    if named and _value_is_right(named[0], trial, evidence):
        return (_symptom("gradient-of-another", f"the value is right, the gradient that of {named[0].mutant}"),)
    return (
        named
        or name_by_score(evidence, trial.spec, trial.dtype)
        or name_by_ratio(evidence, trial.spec, trial.dtype)
        or name_by_numbers(trial)
        or name_by_symptom(laws, trial, evidence, silent)
    )


def name_by_pairs(evidence: list[Evidence], spec: LossSpec, dtype: str) -> tuple[NamedBug, ...]:
    """The mutants of ``spec`` that predict all of the evidence, best first; those that predict the same are one bug."""
    tolerance = _WEIGHT_TOLERANCE[dtype]
    if not evidence or explains(evidence, lambda case: case.pairing, tolerance):
        return ()
    found: list[tuple[str, str]] = []
    # What is written for codebooks and streams says more of them than what is lifted from one text loss.
    for mutant in sorted(MUTANTS.values(), key=lambda mutant: not mutant.whole):
        for variant in _variants(mutant.name, spec):
            if _explained(evidence, partial(_wrongly_scored, variant), tolerance):
                found.append((mutant.name, variant.detail))
                break
    if not found:
        return ()
    (name, detail), *others = found
    return (_named(name, detail, tuple(other for other, _ in others)),)


def _value_is_right(bug: NamedBug, trial: Trial, evidence: list[Evidence]) -> bool:
    """Whether the bug's pairs show in the gradient alone: the value is right, and would not be."""
    variant = next((each for each in _variants(bug.mutant, trial.spec) if each.detail == bug.detail), None)
    told = False
    for each in evidence:
        seen, right = each.seen, each.case.oracle.value
        if variant is None or seen is None or seen.value is None or right is None or not math.isfinite(right):
            continue
        bound = trial.bounds(seen).value
        if not same_value(seen.value, right, bound):
            return False
        wrong = variant.wrong(trial.spec, each.case.batch)
        value = None if wrong is None else evaluate(wrong, each.case.batch).value
        told |= value is not None and not same_value(value, right, bound)
    return told


def _named(name: str, detail: str, also: tuple[str, ...]) -> NamedBug:
    mutant = MUTANTS[name]
    return NamedBug(name, 1.0, detail, mutant.formula, mutant.seen, also)


def name_by_ratio(evidence: list[Evidence], spec: LossSpec, dtype: str) -> tuple[NamedBug, ...]:
    """Terms whose right pairs all weigh the same multiple of what they should."""
    tolerance = _WEIGHT_TOLERANCE[dtype]
    details = []
    for index, term in enumerate(spec.terms) if len(spec.terms) > 1 else ():
        ratios = [
            each.scored.get(site_of(each.case.pairing, pair), {}).get(pair.target, 0.0) / pair.weight
            for each in evidence
            for pair in each.case.pairing.pairs
            if pair.term == index and pair.weight and math.isfinite(pair.weight)
        ]
        if not ratios or max(ratios) - min(ratios) > 2 * tolerance * abs(ratios[0]):
            return ()
        if abs(ratios[0] - 1) > 2 * tolerance:
            details.append(f"{term.name} weighs {ratios[0]:.3g} times what was promised")
    return (_named("term-weight", "; ".join(details), ()),) if details else ()


def name_by_score(evidence: list[Evidence], spec: LossSpec, dtype: str) -> tuple[NamedBug, ...]:
    """The wrong scores that predict value and gradient of all the evidence, best first."""
    promised = [term.score for term in spec.terms]
    if not evidence or _takes_score(evidence, taken, dtype):
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


def _takes_score(evidence: list[Evidence], score: WrongScore, dtype: str) -> bool:
    """Whether the right pairs with this score give the value and the gradient of every case with pairs."""
    tolerance = _WEIGHT_TOLERANCE[dtype]
    compared = 0
    for each in evidence:
        case, seen = each.case, each.seen
        if seen is None or seen.gradients is None or seen.value is None or not math.isfinite(seen.value):
            continue
        value, gradients = predict_score(score, case.pairing, case.batch)
        if abs(value - seen.value) > tolerance * max(abs(value), 1e-3):
            return False
        for name, gradient in gradients.items():
            most = float(gradient.abs().amax()) if gradient.numel() else 0.0
            if bool(((seen.gradients[name] - gradient).abs() > tolerance * most).any()):
                return False
        compared += bool(case.pairing.pairs)
    return compared >= min(3, len(evidence))


def name_by_numbers(trial: Trial) -> tuple[NamedBug, ...]:
    """The arithmetic that gives the same numbers, where the right pairs are scored and the numbers are wrong."""
    seen = [trial.look(recipe) for recipe in _hard_on_numbers(trial)]
    seen = [each for each in seen if each.problem is None and each.case.pairing.pairs]
    right = [_conforms(each, trial.compute) for each in seen]
    if not seen or (all(by_value for by_value, _ in right) and all(by_gradient for _, by_gradient in right)):
        return ()
    found = [
        behaviour
        for behaviour in BEHAVIOURS
        if behaviour.numeric
        and behaviour.needs(trial.spec) is None
        and (behaviour.dtype == "float32" or trial.dtype != "float32")
        and all(_same_numbers(each, behaviour.act(Asked(each.case)), trial.bounds(each)) for each in seen)
    ]
    if found:
        name, detail = found[0].name, found[0].detail
        also = tuple(dict.fromkeys(other.name for other in found if other.name != name))
        return (replace(_symptom(name, detail), also=also),)
    value_is_wrong = not all(by_value for by_value, _ in right)
    native = value_is_wrong and trial.compute is Compute.STRICT and trial.dtype not in ("float32", "float64")
    if native and all(all(_conforms(each, Compute.NATIVE)) for each in seen):
        return (_symptom("no-upcast", "right for arithmetic in the dtype of the logits"),)
    return ()


def _hard_on_numbers(trial: Trial) -> list[Recipe]:
    """Cases on which arithmetic shows: probabilities near 0 and 1, and logits far from 0; and the widest classes."""
    several = killers(trial.space)
    hard = [replace(recipe, regime=regime) for recipe in several[:3] for regime in (Regime.SHARP, Regime.HUGE)]
    return [
        *hard,
        replace(several[0], regime=Regime.NORMAL),
        *(recipe for recipe in several if recipe.classes > 1 << 15),
    ]


def _conforms(seen: Observation, compute: Compute) -> tuple[bool, bool]:
    """Whether value and gradient are the oracle's within the bounds of this arithmetic."""
    bounds = derive_bounds(seen.case, compute, seen.dtype)
    oracle = seen.case.oracle
    by_value = oracle.value is None or same_value(seen.value or 0.0, oracle.value, bounds.value)
    if seen.gradients is None:
        return by_value, True
    return by_value, different_gradients(seen.gradients, oracle.gradients, bounds.gradients) is None


def _same_numbers(seen: Observation, predicted: Observation, bounds: Bounds) -> bool:
    """Whether two answers are the same but for rounding, and not finite in the same places."""
    if seen.value is None or predicted.value is None:
        return False
    if not _near(torch.tensor(seen.value), torch.tensor(predicted.value), bounds.value):
        return False
    if seen.gradients is None or predicted.gradients is None:
        return seen.gradients is predicted.gradients
    return all(
        _near(gradient, predicted.gradients[name], bounds.gradients[name]) for name, gradient in seen.gradients.items()
    )


def _near(found: Tensor, predicted: Tensor, bound: Tensor | float) -> bool:
    off = (found - predicted).abs()
    near = off <= _AS_COMPUTED * predicted.abs() + bound
    return bool((near | (~found.isfinite() & ~predicted.isfinite())).all())


def name_by_symptom(
    laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence], silent: list[Observation]
) -> tuple[NamedBug, ...]:
    """Bugs that show not in the pairs but in what fails: an exception's own words, or one law that fails alone."""
    for observation in silent:
        problem = observation.problem
        match = _MISMATCH.search(problem.message) if problem else None
        if match is not None:
            rows = max(observation.case.recipe.rows, 1)
            logits, labels = (int(size) // rows for size in match.groups())
            return (_symptom("length-mismatch", f"{logits} logits a row against {labels} labels"),)
    if "STABLE-3" in trial.failed and silent and all(map(_hides_nan, silent)):
        return (_symptom("nan-hidden", "STABLE-3 fails"),)
    over_ignored = "GRAD-2" in trial.failed and not any(map(_lacks, evidence))
    if over_ignored and "GRAD-1" in trial.failed:
        for name, charged in (("aux-over-ignored", "z_loss"), ("smooth-ignored", "label_smoothing")):
            if any(getattr(term.score, charged) for term in trial.spec.terms):
                return (_symptom(name, "ignored rows have a gradient"),)
    for result in laws:
        law = LAWS[result.id]
        alone = not any(id in trial.failed for id in law.presumes)
        if result.verdict.is_failure and alone and len(law.suggests) == 1:
            return (_symptom(law.suggests[0], f"{law.id} fails"),)
    return ()


def _hides_nan(seen: Observation) -> bool:
    """Whether there is a number, and nothing to learn from, where the loss is NaN."""
    right = seen.case.oracle.value
    return seen.problem is None and right is not None and math.isnan(right) and math.isfinite(seen.value or 0.0)


def _lacks(each: Evidence) -> bool:
    """Whether pairs lack their gradient on this case."""
    return not predict(each.case.pairing).keys() <= each.scored.keys()


def _adds_nothing(each: Evidence) -> bool:
    """Whether what pairs there are on this case are right ones, of the right classes."""
    right = predict(each.case.pairing)
    return all(site in right and set(found) == set(right[site]) for site, found in each.scored.items())


def _symptom(name: str, detail: str) -> NamedBug:
    bug = SYMPTOMS.get(name) or MUTANTS[name]
    return NamedBug(name, 1.0, detail, bug.formula, bug.seen)


def picture(trial: Trial, recipe: Recipe) -> Picture | None:
    """Expected against found on one recipe, or None where nothing could be read."""
    case = trial.case(one_id_a_place(recipe))
    expected = expected_positions(case.pairing)
    if trial.candidate.gradient:
        found = positions_of(trial, case.recipe)
        return None if isinstance(found, Observation) else draw(case, expected, found)
    weights = read_by_value(trial, case.recipe)
    return None if isinstance(weights, Observation) else draw(case, expected, places_only(weights))
