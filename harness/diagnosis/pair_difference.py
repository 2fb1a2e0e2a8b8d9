"""Count how the pairs that a loss used differ from the right ones, for a loss without a known bug."""

from __future__ import annotations

from collections import Counter

from ..candidates.loss import Observation, Trial
from ..laws.alignment import expected_positions, how_moved, one_id_a_place, places_only, positions_of, read_by_value
from ..probe.read import site_of
from ..results import Difference
from .evidence import Evidence, bank

_CASES = 8
_CASES_BY_VALUE = 2
_TOLERANCE = 0.01  # relative; a weight is off if its error is larger


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
    factors = [
        weight / pair.weight
        for each in evidence
        for pair in each.case.pairing.pairs
        if pair.weight and (weight := each.scored.get(site_of(each.case.pairing, pair), {}).get(pair.target))
    ]
    off = [factor for factor in factors if abs(factor - 1) > _TOLERANCE]
    return Difference(
        cases=cases,
        pairs=pairs,
        missing=missing,
        added=added,
        moved=dict(sorted(moved.items())),
        weights_off=len(off),
        weights=len(factors),
        factors=(min(off), max(off)) if off else None,
    )
