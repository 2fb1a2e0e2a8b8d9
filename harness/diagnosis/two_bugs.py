"""Name two bugs at once, if no single bug explains the pairs. Their joint prediction must fit exactly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations

from shiftproof.reference.spec import LossSpec

from ..cases.build import Case
from ..mutants import MUTANTS, BugVariant
from ..mutants.both import COUNTED_RIGHT, both
from ..probe.read import ScoredRows, Site, predict
from ..results import NamedBug
from .evidence import WEIGHT_TOLERANCE, Evidence, agree, explained, explains, scored_by, variants_of, wrongly_scored

Named = tuple[str, BugVariant]
Scores = frozenset[tuple[Site, int]]  # which classes were scored where, without weights

_LOOKED_AT = 10  # cases used to sift bugs; the remaining bugs must then explain all cases


def name_two_bugs(evidence: list[Evidence], spec: LossSpec, dtype: str) -> tuple[NamedBug, ...]:
    """Return two mutants of ``spec`` that together predict all of the evidence.

    Or return one mutant whose pairs are divided by the count of the right pairs. Return () if there is no such mutant,
    and if the pairs are right.
    """
    tolerance = WEIGHT_TOLERANCE[dtype]
    if not evidence or explains(evidence, lambda case: case.pairing, tolerance):
        return ()
    apart = _in_two_streams(evidence, spec, tolerance)
    if apart:
        return apart
    telling = sorted(evidence, key=lambda each: (_set(each.scored) == _right(each.case), len(each.scored)))
    firsts = _firsts(telling[:_LOOKED_AT], spec)
    for alike in firsts:
        name, first = alike[0]
        if _explain(first, COUNTED_RIGHT, telling, tolerance):
            detail = ", ".join(filter(None, (first.detail, COUNTED_RIGHT.detail)))
            return (_named(name, detail, [other for other, _ in alike]),)
    seconds = [named for named in _variants(spec) if named[1].over is not None]
    select = [named for named in seconds if _selects(named[1], telling[:_LOOKED_AT])]
    divide = [named for named in seconds if named not in select]
    for alike in firsts:
        # They are alike on a few cases; on the others, one of them may have chosen the pairs and the rest not.
        whole = (named for named in alike if all(_scores_the_same(named[1], each) for each in telling))
        name, first = next(whole, alike[0])
        same = all(_scores_the_same(first, each) for each in telling)
        found = [named for named in (divide if same else select) if _explain(first, named[1], telling, tolerance)]
        found = [named for named in found if named[0] != name]
        if found:
            second, variant = found[0]
            return (
                _named(name, first.detail, [other for other, _ in alike]),
                _named(second, variant.detail, [other for other, _ in found]),
            )
    return ()


def _firsts(evidence: list[Evidence], spec: LossSpec) -> list[list[Named]]:
    """Group the bugs that may have chosen the pairs by the pairs they choose. An exact match comes first."""
    alike: dict[tuple[Scores | None, ...], list[Named]] = {}
    for name, variant in _variants(spec):
        if _leads_to(variant, evidence):
            predicted = (wrongly_scored(variant, each.case) for each in evidence)
            alike.setdefault(tuple(None if scored is None else _set(scored) for scored in predicted), []).append(
                (name, variant)
            )
    observed = tuple(_set(each.scored) for each in evidence)
    return [alike[chosen] for chosen in sorted(alike, key=lambda chosen: chosen != observed)]


def _selects(second: BugVariant, evidence: list[Evidence]) -> bool:
    """Return whether a bug changes which pairs are scored, and not only their weights."""
    predicted = [(wrongly_scored(second, each.case), each.case) for each in evidence]
    return any(scored is not None and _set(scored) != _right(case) for scored, case in predicted)


def _scores_the_same(first: BugVariant, each: Evidence) -> bool:
    predicted = wrongly_scored(first, each.case)
    return predicted is None or _set(predicted) == _set(each.scored)


def _variants(spec: LossSpec) -> Iterator[Named]:
    for mutant in sorted(MUTANTS.values(), key=lambda mutant: not mutant.whole):
        for variant in variants_of(mutant.name, spec):
            yield mutant.name, variant


def _named(name: str, detail: str, names: list[str] | None = None) -> NamedBug:
    mutant = MUTANTS[name]
    also = tuple(dict.fromkeys(other for other in names or () if other != name))
    return NamedBug(name, 1.0, detail, mutant.formula, mutant.seen, also)


def _explain(first: BugVariant, second: BugVariant, evidence: list[Evidence], tolerance: float) -> bool:
    wrong = both(first, second)
    return explained(evidence, lambda case: scored_by(wrong(case.spec, case.batch)), tolerance)


def _leads_to(first: BugVariant, evidence: list[Evidence]) -> bool:
    """Return whether the scored pairs are those of ``first``, with some missing or some added, and are not the right
    ones."""
    differs = False
    for each in evidence:
        predicted = wrongly_scored(first, each.case)
        if predicted is None:
            continue
        theirs, observed = _set(predicted), _set(each.scored)
        if not (theirs <= observed or theirs >= observed):
            return False
        differs = differs or theirs != _right(each.case)
    return differs


def _set(scored: ScoredRows) -> Scores:
    return frozenset((site, target) for site, of_row in scored.items() for target in of_row)


@lru_cache(maxsize=256)
def _right(case: Case) -> Scores:
    return _set(predict(case.pairing))


# --- in different streams ---------------------------------------------------------------------------------------------


def _in_two_streams(evidence: list[Evidence], spec: LossSpec, tolerance: float) -> tuple[NamedBug, ...]:
    """Return two bugs in separate logits: each explains everything that was read from one of the two arrays."""
    wrong = [name for name in spec.logits if any(not _is_right(each, name, tolerance) for each in evidence)]
    if len(wrong) != 2:
        return ()
    explained_by = {name: [] for name in wrong}  # type: dict[str, list[Named]]
    for mutant, variant in _variants(spec):
        for here, there in permutations(wrong):
            if _explains_one(variant, here, there, evidence, tolerance):
                explained_by[here].append((mutant, variant))
    if not all(explained_by.values()):
        return ()
    return tuple(
        _named(*_first(explained_by[name], name), [mutant for mutant, _ in explained_by[name]]) for name in wrong
    )


def _first(explained_by: list[Named], logits: str) -> tuple[str, str]:
    (name, variant), *_ = explained_by
    return name, variant.detail or f"in {logits}"


def _explains_one(variant: BugVariant, here: str, there: str, evidence: list[Evidence], tolerance: float) -> bool:
    """Return whether a bug explains what was read at the logits ``here``, and leaves those ``there`` right."""
    compared = 0
    for each in evidence:
        predicted = wrongly_scored(variant, each.case)
        if predicted is None:
            continue
        observed = Evidence(each.case, _at(each.scored, here))
        left = Evidence(each.case, _at(predict(each.case.pairing), there))
        if not agree(observed, _at(predicted, here), tolerance) or not agree(left, _at(predicted, there), tolerance):
            return False
        compared += 1
    return compared >= min(3, len(evidence))


def _is_right(each: Evidence, logits: str, tolerance: float) -> bool:
    return agree(Evidence(each.case, _at(each.scored, logits)), _at(predict(each.case.pairing), logits), tolerance)


def _at(scored: ScoredRows, logits: str) -> ScoredRows:
    return {site: of_row for site, of_row in scored.items() if site[0] == logits}
