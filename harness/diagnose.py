"""Naming the bug: what was probed, compared with what every known-wrong loss would have done."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.spec import Compute, LossSpec

from .compare import Bounds, derive_bounds, different_gradients, same_value
from .evidence import WEIGHT_TOLERANCE, Evidence, explained, explains, variants_of, wrongly_scored
from .laws import LAWS
from .laws.pairs import expected_positions, one_id_a_place, places_only, positions_of, read_by_value
from .mutants import MUTANTS
from .mutants.behaviour import Asked
from .mutants.behaviours import BEHAVIOURS
from .mutants.scores import SCORES, predict_score, taken
from .mutants.scores import Wrong as WrongScore
from .mutants.symptoms import SYMPTOMS
from .picture import draw
from .probe import predict, site_of
from .recipe import Recipe, Regime
from .strategies import killers
from .trial import Observation, Trial
from .two_bugs import name_two_bugs
from .verdict import LawResult, NamedBug, Picture

_AS_COMPUTED = 0.01  # two ways of doing the same arithmetic differ by less, of what they come to
_MISMATCH = re.compile(r"Expected input batch_size \((\d+)\) to match target batch_size \((\d+)\)")


def name_bugs(
    laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence], silent: list[Observation]
) -> tuple[NamedBug, ...]:
    """The bugs that explain what was seen: of the loss, and of a model's logits, which may be wrong besides."""
    seeing = (LAWS[id] for id in ("MODEL-1", "MODEL-2") if id in trial.failed)
    of_logits = tuple(_symptom(law.suggests[0], f"{law.id} fails") for law in seeing)
    of_loss = _name_bugs_of_loss(laws, trial, evidence, silent)
    known = {bug.mutant for bug in of_loss}
    return (*of_loss, *(bug for bug in of_logits if bug.mutant not in known))


def _name_bugs_of_loss(
    laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence], silent: list[Observation]
) -> tuple[NamedBug, ...]:
    """By the pairs, else by the score, else by a symptom."""
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
        or name_two_bugs(evidence, trial.spec, trial.dtype)
        or name_by_symptom(laws, trial, evidence, silent)
    )


def name_by_pairs(evidence: list[Evidence], spec: LossSpec, dtype: str) -> tuple[NamedBug, ...]:
    """The mutants of ``spec`` that predict all of the evidence, best first; those that predict the same are one bug."""
    tolerance = WEIGHT_TOLERANCE[dtype]
    if not evidence or explains(evidence, lambda case: case.pairing, tolerance):
        return ()
    found: list[tuple[str, str]] = []
    # What is written for codebooks and streams says more of them than what is lifted from one text loss.
    for mutant in sorted(MUTANTS.values(), key=lambda mutant: not mutant.whole):
        for variant in variants_of(mutant.name, spec):
            if explained(evidence, partial(wrongly_scored, variant), tolerance):
                found.append((mutant.name, variant.detail))
                break
    if not found:
        return ()
    (name, detail), *others = found
    return (_named(name, detail, tuple(other for other, _ in others)),)


def _value_is_right(bug: NamedBug, trial: Trial, evidence: list[Evidence]) -> bool:
    """Whether the bug's pairs show in the gradient alone: the value is right, and would not be."""
    variant = next((each for each in variants_of(bug.mutant, trial.spec) if each.detail == bug.detail), None)
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
    tolerance = WEIGHT_TOLERANCE[dtype]
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
    tolerance = WEIGHT_TOLERANCE[dtype]
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
    if "LINEAR-1" in trial.failed and (still := _leaves_without_gradient(evidence)):
        return (_symptom("detached-part", f"{' and '.join(still)} has no gradient"),)
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


def _leaves_without_gradient(evidence: list[Evidence]) -> list[str]:
    """Of hidden states, weight and bias, those whose gradient is 0 on every case, though there are pairs."""
    seen = [each.seen.leaves for each in evidence if each.seen and each.seen.leaves and each.case.pairing.pairs]
    return [name for name in (seen[0] if seen else ()) if not any(bool(leaves[name].any()) for leaves in seen)]


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
