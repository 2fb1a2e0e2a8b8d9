"""Name the bug: compare what was probed with what every known-wrong loss would have done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.spec import Heads, LossSpec

from ..bounds.compare import same_value
from ..bounds.derive import derive_bounds
from ..candidates.loss import Observation, Trial
from ..cases.linear import through
from ..cases.recipe import Recipe, Streams
from ..laws import LAWS
from ..laws.alignment import (
    expected_positions,
    one_id_a_place,
    places_only,
    positions_of,
    read_by_value,
    without_coincidences,
)
from ..laws.base import OnVariants
from ..mutants import MUTANTS, BugVariant
from ..pictures.pairs import draw
from ..probe.read import predict, site_of
from ..results import LawResult, Level, NamedBug, Picture, Verdict
from .bug import mutant_bug, symptom
from .evidence import WEIGHT_TOLERANCE, Evidence, explained, explains, variants_of, wrongly_scored
from .name_by_lengths import name_by_lengths
from .name_by_numbers import AS_COMPUTED, leaves_out_zeros, name_by_numbers, same_numbers
from .name_by_score import name_by_near_score, name_by_score, of_large_logits
from .reenact import held_against_the_laws
from .two_bugs import name_two_bugs
from .where_it_fails import where_it_fails

_NEAR = 6  # cases beside a counterexample that show nothing but NaN


def name_bugs(
    laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence], silent: list[Observation]
) -> tuple[NamedBug, ...]:
    """Return the bugs of the loss that explain the evidence and what the laws found, and those of a model's logits."""
    laws = tuple(laws)
    seeing = (LAWS[id] for id in ("MODEL-1", "MODEL-8", "MODEL-2") if id in trial.failed)
    of_logits = tuple(symptom(law.points_to[0], f"{law.id} fails") for law in seeing)
    of_loss = held_against_the_laws(_name_bugs_of_loss(laws, trial, evidence, silent), laws, trial)
    known = {bug.mutant for bug in of_loss}
    return (*of_loss, *(bug for bug in of_logits if bug.mutant not in known))


def _name_bugs_of_loss(
    laws: tuple[LawResult, ...], trial: Trial, evidence: list[Evidence], silent: list[Observation]
) -> tuple[NamedBug, ...]:
    """Name the bug by the pairs, else by the score, else by a symptom, else by the pairs in the state that shows it."""
    misses = any(map(_misses_gradients, evidence)) and all(map(_adds_nothing, evidence))
    if misses and _values_are_right(trial, evidence):
        which = _without_gradient(evidence, trial.spec) or "pairs have no gradient"
        return (symptom("detached-part", f"the value is right, but {which}"),)
    if scaled := name_by_leaves(trial, evidence) or name_by_gradient(trial, evidence):
        return scaled
    named = name_by_pairs(evidence, trial.spec, trial.dtypes[0], counterexample(laws, trial))
    if parts := name_by_ratio(evidence, trial.spec, trial.dtypes[0]):
        # Ranks and micro-batches of one term alone are unlikely, but they would give the same.
        same = [name for bug in named for name in (bug.mutant, *bug.also) if name != parts[0].mutant]
        return (replace(parts[0], also=tuple(dict.fromkeys(same))),)
    if named and _value_is_right(named[0], trial, evidence):
        return (symptom("gradient-of-another", f"the value is right, but the gradient is that of {named[0].mutant}"),)
    scores = [*evidence, *of_large_logits(trial)]
    return (
        named
        or name_by_score(scores, trial.spec, trial.dtypes[0])
        or name_by_numbers(trial)
        or name_by_near_score(scores, trial.spec, trial.dtypes[0])
        or name_two_bugs(evidence, trial.spec, trial.dtypes[0])
        or name_by_symptom(laws, trial, evidence, silent)
        or name_in_state(laws, trial, evidence)
    )


def counterexample(laws: Iterable[LawResult], trial: Trial) -> Observation | None:
    """Return what the loss did on the counterexample that the report shows, if a plain call with a loss shows it."""
    shown = (law for law in laws if law.level is Level.MUST and law.counterexample is not None)
    worst = next(shown, None)
    if worst is None or worst.verdict is not Verdict.FAIL or isinstance(LAWS[worst.id].check, OnVariants):
        return None
    assert worst.counterexample is not None
    observed = trial.observe_cached(Recipe.from_json(worst.counterexample.recipe))
    if observed.problem is not None or observed.value is None or not math.isfinite(observed.value):
        return None
    return None if trial.makes_logits or not trial.candidate.gradient else observed


def _predicts(variant: BugVariant, observed: Observation | None, spec: LossSpec) -> bool:
    """Return whether a bug gives the gradient of a case, and its value or the right one.

    That is, as far as it says anything of the case.
    """
    if observed is None or (wrong := variant.wrong(spec, observed.case.batch)) is None:
        return True
    found, bounds = evaluate(wrong, observed.case.batch), derive_bounds(observed.case, spec.compute, observed.dtype)
    predicted = Observation(observed.case, None, found.value, gradients=found.gradients)
    return same_numbers(observed, predicted, bounds) or same_numbers(
        observed, replace(predicted, value=observed.case.oracle.value), bounds
    )


def name_by_pairs(
    evidence: list[Evidence], spec: LossSpec, dtype: str, shown: Observation | None = None
) -> tuple[NamedBug, ...]:
    """Return the mutants of ``spec`` that predict all of the evidence, best first, as one bug.

    They also predict the numbers of the counterexample that is ``shown``.
    """
    tolerance = WEIGHT_TOLERANCE[dtype]
    if not evidence or explains(evidence, lambda case: case.pairing, tolerance):
        return ()
    found: list[tuple[str, str]] = []
    # A mutant made for codebooks and streams describes them better than a mutant that was lifted from a text loss.
    for mutant in sorted(MUTANTS.values(), key=lambda mutant: not mutant.whole):
        for variant in variants_of(mutant.name, spec):
            if explained(evidence, partial(wrongly_scored, variant), tolerance) and _predicts(variant, shown, spec):
                found.append((mutant.name, variant.detail))
                break
    if not found:
        return ()
    # Of a model that takes no ignored label, several denominators give the same. The usual bug is told.
    found.sort(key=lambda each: each[0] != "count-ignored")
    (name, detail), *others = found
    return (mutant_bug(name, detail, tuple(other for other, _ in others)),)


def name_by_leaves(trial: Trial, evidence: list[Evidence]) -> tuple[NamedBug, ...]:
    """Name a loss that multiplies the gradient of one leaf by a factor, and gives the others theirs."""
    if not trial.is_linear or not _values_are_right(trial, evidence):
        return ()
    factors: dict[str, list[float]] = {}
    for each in evidence:
        if each.seen is None or each.seen.leaves is None or not each.case.pairing.pairs:
            continue
        right = through(trial.linear(each.case), each.case.oracle.gradients["logits"])
        for name, found in each.seen.leaves.items():
            largest = int(right[name].abs().argmax())
            if most := float(right[name].flatten()[largest]):
                factor = float(found.flatten()[largest]) / most
                near = AS_COMPUTED * abs(factor * most)
                is_multiple = bool(((found - factor * right[name]).abs() <= near).all())
                factors.setdefault(name, []).append(factor if is_multiple else math.nan)
    means = {name: sum(of) / len(of) for name, of in factors.items()}
    steady = {name: all(abs(each - means[name]) <= AS_COMPUTED for each in of) for name, of in factors.items()}
    wrong = [name for name in means if steady[name] and abs(means[name] - 1) > 2 * AS_COMPUTED and means[name]]
    if len(wrong) != 1 or not all(steady.values()) or len(means) < 2 or 0.0 in means.values():
        return ()
    return (symptom("leaf-scaled", f"{wrong[0]} has {means[wrong[0]]:.4g} times its gradient"),)


def name_by_gradient(trial: Trial, evidence: list[Evidence]) -> tuple[NamedBug, ...]:
    """Name a loss of the right value whose gradient is a multiple of the right one."""
    factors = [
        each.scored.get(site_of(each.case.pairing, pair), {}).get(pair.target, 0.0) / pair.weight
        for each in evidence
        for pair in each.case.pairing.pairs
        if pair.weight and site_of(each.case.pairing, pair) not in each.unsure
    ]
    if not factors or not all(map(_adds_nothing, evidence)) or not _values_are_right(trial, evidence):
        return ()
    near = WEIGHT_TOLERANCE[trial.dtypes[0]] * abs(factors[0])
    if max(factors) - min(factors) > 2 * near or abs(factors[0] - 1) <= near or not factors[0]:
        return ()
    return (symptom("gradient-scaled", f"the gradient is {factors[0]:.4g} times the right one"),)


def _values_are_right(trial: Trial, evidence: list[Evidence]) -> bool:
    """Return whether the loss has the right value on every case, whether or not VALUE-1 was asked."""
    if "VALUE-1" in trial.failed:
        return False
    for each in evidence:
        right = each.case.oracle.value
        if each.seen is None or each.seen.value is None or right is None or not math.isfinite(right):
            continue
        if not same_value(each.seen.value, right, trial.bounds(each.seen).value):
            return False
    return True


def _value_is_right(bug: NamedBug, trial: Trial, evidence: list[Evidence]) -> bool:
    """Return whether the bug shows only in the gradient: the value is right, but the bug's pairs give another value."""
    variant = next((each for each in variants_of(bug.mutant, trial.spec) if each.detail == bug.detail), None)
    shows = False
    for each in evidence:
        observed, right = each.seen, each.case.oracle.value
        if variant is None or observed is None or observed.value is None or right is None or not math.isfinite(right):
            continue
        bound = trial.bounds(observed).value
        if not same_value(observed.value, right, bound):
            return False
        wrong = variant.wrong(trial.spec, each.case.batch)
        value = None if wrong is None else evaluate(wrong, each.case.batch).value
        shows |= value is not None and not same_value(value, right, bound)
    return shows


def name_by_ratio(evidence: list[Evidence], spec: LossSpec, dtype: str) -> tuple[NamedBug, ...]:
    """Name the terms whose right pairs all weigh the same wrong multiple."""
    tolerance = WEIGHT_TOLERANCE[dtype]
    details = []
    every: list[float] = []
    for index, term in enumerate(spec.terms) if len(spec.terms) > 1 else ():
        ratios = [
            each.scored.get(site_of(each.case.pairing, pair), {}).get(pair.target, 0.0) / pair.weight
            for each in evidence
            for pair in each.case.pairing.pairs
            if pair.term == index and pair.weight and math.isfinite(pair.weight)
        ]
        if not ratios or max(ratios) - min(ratios) > 2 * tolerance * abs(ratios[0]):
            return ()
        every.append(ratios[0])
        if abs(ratios[0] - 1) > 2 * tolerance:
            details.append(f"{term.name} weighs {ratios[0]:.3g} times its specified share")
    if every and max(every) - min(every) <= 2 * tolerance * abs(every[0]):
        return ()  # the whole loss is scaled
    if 0.0 in every:
        return ()  # a term is missing
    return (mutant_bug("term-weight", "; ".join(details), ()),) if details else ()


def name_by_symptom(
    laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence], silent: list[Observation]
) -> tuple[NamedBug, ...]:
    """Name bugs that do not show in the pairs: by the sizes that do not fit, or by a law that fails alone."""
    laws = tuple(laws)
    if lengths := name_by_lengths(laws, trial, evidence, silent):
        return lengths
    without_gradient = [each for each in silent if each.case.pairing.pairs]
    if "STABLE-3" in trial.failed and without_gradient and all(map(_hides_nan, without_gradient)):
        return (symptom("nan-hidden", "STABLE-3 fails"),)
    if "LINEAR-1" in trial.failed and (still := _leaves_without_gradient(evidence)):
        return (symptom("detached-part", f"{' and '.join(still)} has no gradient"),)
    over_ignored = "GRAD-2" in trial.failed and not any(map(_misses_gradients, evidence))
    if over_ignored and "GRAD-1" in trial.failed:
        for name, charged in (("aux-over-ignored", "z_loss"), ("smooth-ignored", "label_smoothing")):
            if any(getattr(term.score, charged) for term in trial.spec.terms):
                return (symptom(name, "ignored rows have a gradient"),)
    if "STABLE-3" in trial.failed and any(
        leaves_out_zeros(seen, trial.bounds(seen)) for seen in _with_a_value(laws, trial)
    ):
        return (symptom("nan-hidden", "STABLE-3 fails, and a codebook whose loss is 0 is left out"),)
    alone = [
        result
        for result in laws
        if result.verdict.is_failure and not any(id in trial.failed for id in LAWS[result.id].depends_on)
    ]
    # A law that fails beside another one may fail because of it, and an exception does not show a wrong answer.
    for result in sorted(alone, key=lambda result: result.level is not Level.MUST)[:1]:
        points_to = LAWS[result.id].points_to
        if result.verdict is Verdict.FAIL and len(points_to) == 1:
            return (symptom(points_to[0], f"{result.id} fails"),)
    return ()


def _with_a_value(laws: Iterable[LawResult], trial: Trial) -> Iterator[Observation]:
    """Yield what the loss did on the counterexample and on cases near it, where its value is a number."""
    shown = (law.counterexample for law in laws if law.level is Level.MUST and law.counterexample is not None)
    worst = next(shown, None)
    if worst is None:
        return
    recipe = Recipe.from_json(worst.recipe)
    near = [replace(recipe, streams=Streams.BOTH, seed=recipe.seed + ahead) for ahead in range(_NEAR)]
    for seen in map(trial.observe_cached, (recipe, *near)):
        if seen.problem is None and seen.value is not None and math.isfinite(seen.value):
            yield seen


def name_in_state(laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence]) -> tuple[NamedBug, ...]:
    """Name a bug that shows only in some state, form or size of a call: by its pairs there, or by its score."""
    found = where_it_fails(laws, trial, evidence)
    if found is None:
        return ()
    named = (
        name_by_pairs(found.evidence, trial.spec, found.dtype)
        or name_by_score(found.evidence, trial.spec, found.dtype)
        or name_by_near_score(found.evidence, trial.spec, found.dtype)
    )
    if not named:
        return ()
    detail = f"{found.words}; {named[0].detail}" if named[0].detail else found.words
    return (replace(named[0], detail=detail),)


def _leaves_without_gradient(evidence: list[Evidence]) -> list[str]:
    """Return which of hidden states, weight and bias have a gradient of 0 on every case, although there are pairs."""
    observed = [each.seen.leaves for each in evidence if each.seen and each.seen.leaves and each.case.pairing.pairs]
    return [
        name for name in (observed[0] if observed else ()) if not any(bool(leaves[name].any()) for leaves in observed)
    ]


def _hides_nan(observed: Observation) -> bool:
    """Return whether the loss is a number without a gradient where it should be NaN."""
    right = observed.case.oracle.value
    return observed.problem is None and right is not None and math.isnan(right) and math.isfinite(observed.value or 0.0)


def _misses_gradients(each: Evidence) -> bool:
    """Return whether pairs have no gradient on this case."""
    return not predict(each.case.pairing).keys() <= each.scored.keys()


def _without_gradient(evidence: list[Evidence], spec: LossSpec) -> str:
    """Say which term, or which codebook or head of it, has no gradient on any case. "" if that is not all."""
    found: dict[tuple[int, int | None], set[bool]] = {}
    for each in evidence:
        for pair in each.case.pairing.pairs:
            site = site_of(each.case.pairing, pair)
            codebook = site[3] if len(site) > 3 else None
            if pair.weight:
                found.setdefault((pair.term, codebook), set()).add(site in each.scored)
    missing = [key for key, has in found.items() if has == {False}]
    if not missing or len(missing) == len(found) or any(len(has) > 1 for has in found.values()):
        return ""
    several = len(spec.terms) > 1
    terms = {term for term, _ in missing}
    whole = [term for term in terms if all(key in missing for key in found if key[0] == term)]
    parts = [spec.terms[term].name for term in whole]
    for term, codebook in missing:
        if term not in whole:
            kind = "head" if spec.terms[term].heads is Heads.AHEAD else "codebook"
            parts.append(f"{kind} {codebook}" + (f" of {spec.terms[term].name}" if several else ""))
    return f"{' and '.join(parts)} {'has' if len(parts) == 1 else 'have'} no gradient"


def _adds_nothing(each: Evidence) -> bool:
    """Return whether all pairs found on this case are right ones, with the right classes."""
    right = predict(each.case.pairing)
    return all(site in right and set(found) == set(right[site]) for site, found in each.scored.items())


def picture(trial: Trial, recipe: Recipe) -> Picture | None:
    """Draw expected against found pairs on one recipe, or return None if nothing could be read."""
    case = trial.case(one_id_a_place(recipe))
    expected = expected_positions(case.pairing)
    if trial.candidate.gradient:
        found = positions_of(trial, case.recipe)
        if isinstance(found, Observation):
            return None
        return draw(case, expected, without_coincidences(trial, case.recipe, found, expected))
    weights = read_by_value(trial, case.recipe)
    return None if isinstance(weights, Observation) else draw(case, expected, places_only(weights))
