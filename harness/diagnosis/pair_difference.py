"""Count how the pairs that a loss used differ from the right ones, for a loss without a known bug."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import replace

from ..bounds.compare import same_value
from ..candidates.loss import Observation, Trial
from ..laws.alignment import expected_positions, how_moved, one_id_a_place, places_only, positions_of, read_by_value
from ..probe.read import predict, site_of
from ..results import Difference
from .evidence import Evidence, bank
from .patterns import patterns

_CASES = 8
_CASES_BY_VALUE = 2
_FEWEST = 4  # cases that show a rule
_MOST_CLASSES = 33  # of which a logarithm is recognised
_TOLERANCE = 0.01  # relative; a weight is off if its error is larger


def measure_in(words: str, trial: Trial, evidence: list[Evidence]) -> Difference | None:
    """Measure a loss that is wrong only in the state that ``words`` tell, by the evidence from there alone."""
    told = [each for each in evidence if each.case.pairing.pairs]
    if not told:
        return None
    right, found = (
        [set(sites) for sites in of] for of in zip(*((predict(e.case.pairing), e.scored) for e in told), strict=True)
    )
    lost = sum(len(one - other) for one, other in zip(right, found, strict=True))
    more = sum(len(other - one) for one, other in zip(right, found, strict=True))
    return replace(
        _weighed(trial, told), cases=len(told), pairs=sum(map(len, right)), missing=lost, added=more, where=words
    )


def measure(trial: Trial, evidence: list[Evidence]) -> Difference | None:
    """Count the missing, added and moved pairs on a few cases with an id for every place.

    Also return the factors by which the weights of ``evidence``'s right pairs are off. Return None if nothing could be
    read.
    """
    cases = pairs = missing = added = 0
    moved: Counter[str] = Counter()
    for recipe in bank(trial, _CASES if trial.candidate.gradient else _CASES_BY_VALUE):
        case = trial.case(one_id_a_place(recipe))
        if not case.pairing.pairs:
            continue
        if trial.candidate.gradient:
            found = positions_of(trial, case.recipe)
        else:
            weights = read_by_value(trial, case.recipe)
            found = weights if isinstance(weights, Observation) else places_only(weights)
        if isinstance(found, Observation):
            continue
        expected = expected_positions(case.pairing)
        cases, pairs = cases + 1, pairs + sum(map(len, expected.values()))
        for site in {*found, *expected}:
            theirs, right = set(found.get(site, ())), set(expected.get(site, ()))
            new, lost = sorted(theirs - right), sorted(right - theirs)
            both = min(len(new), len(lost))
            moved.update(how_moved(there, here) for there, here in zip(new, lost, strict=False))
            missing, added = missing + len(lost) - both, added + len(new) - both
    if not cases:
        return None
    moves = dict(sorted(moved.items()))
    return replace(_weighed(trial, evidence), cases=cases, pairs=pairs, missing=missing, added=added, moved=moves)


def _weighed(trial: Trial, evidence: list[Evidence]) -> Difference:
    """Describe the weights and the value, and leave the pairs to the caller."""
    factors = [
        weight / pair.weight
        for each in evidence
        for pair in each.case.pairing.pairs
        if pair.weight and (weight := each.scored.get(site_of(each.case.pairing, pair), {}).get(pair.target))
    ]
    off = [factor for factor in factors if abs(factor - 1) > _TOLERANCE]
    return Difference(
        cases=0,
        pairs=0,
        missing=0,
        added=0,
        moved={},
        weights_off=len(off),
        weights=len(factors),
        factors=(min(off), max(off)) if off else None,
        value=value_off(trial, evidence),
        patterns=patterns(evidence, trial.spec),
    )


def value_off(trial: Trial, evidence: list[Evidence]) -> str:
    """How the loss differs from the right one on every case: by the same number, or by the same factor. "" if neither.

    Example: "0.693147 = log 2 too high".
    """
    found = []
    for each in evidence:
        observed, right = each.seen, each.case.oracle.value
        if observed is None or observed.value is None or right is None or not each.case.pairing.pairs:
            continue
        if math.isfinite(right) and math.isfinite(observed.value):
            found.append((observed.value, right, trial.bounds(observed).value))
    if len(found) < _FEWEST or any(same_value(value, right, bound) for value, right, bound in found):
        return ""
    off = statistics.median(value - right for value, right, _ in found)
    if all(same_value(value, right + off, bound) for value, right, bound in found):
        return f"{abs(off):.6g}{_logarithm(abs(off))} too {'high' if off > 0 else 'low'}"
    if not all(right for _, right, _ in found):
        return ""
    factor = statistics.median(value / right for value, right, _ in found)
    if all(same_value(value, right * factor, max(1.0, abs(factor)) * bound) for value, right, bound in found):
        return f"{factor:.6g} times what it should be"
    return ""


def _logarithm(number: float) -> str:
    known = next((k for k in range(2, _MOST_CLASSES) if math.isclose(number, math.log(k), rel_tol=1e-5)), None)
    return f" = log {known}" if known else ""
