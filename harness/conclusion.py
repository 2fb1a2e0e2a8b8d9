"""From the plan to the verdict on a candidate: a result for every law that was planned, whatever became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .allowance import Allowance
from .candidate import Candidate
from .laws.base import Law
from .verdict import CandidateResult, LawResult, Level, Overall, Verdict, overall

Missing = Callable[[str], tuple[Verdict, str]]
"""Of a law without a result, by its id: NOT_ASKED or UNJUDGED, and why."""


def conclude(
    found: CandidateResult, planned: Sequence[Law[Any, Any]], results: Mapping[str, LawResult], missing: Missing
) -> CandidateResult:
    """``found`` with a result of every law that was ``planned``, and the verdict that follows from them.

    Where ``found`` has a message, not all is known of the candidate: then nothing but a failure can be said of it.
    """
    laws = tuple(results.get(law.id) or without_result(law, *missing(law.id)) for law in planned)
    verdict = overall(laws, found.coverage, found.values_only)
    if found.message and verdict is not Overall.FAILS:
        verdict = Overall.ERROR
    return replace(found, laws=laws, verdict=verdict, message=found.message or _message(verdict, laws, found))


def without_result(law: Law[Any, Any], verdict: Verdict, message: str) -> LawResult:
    """The result of a law that has none."""
    return LawResult(law.id, law.title, law.level, verdict, message=message)


def _message(verdict: Overall, laws: tuple[LawResult, ...], found: CandidateResult) -> str:
    """One sentence on why it is neither right nor wrong, or "" where it is one of these."""
    unjudged = [law for law in laws if law.verdict is Verdict.UNJUDGED]
    late = [law for law in laws if law.verdict is Verdict.TIMEOUT and law.level is Level.MUST]
    if verdict is Overall.ERROR and unjudged:
        first, *others = unjudged
        more = f", and {len(others)} more of {len(laws)} laws," if others else ""
        return f"{first.id}{more} could not be asked: {first.message}"
    if verdict is Overall.ERROR and late:
        return f"nothing failed but deadlines, {late[0].id} first: {late[0].message}; allow more time with --deadline"
    if verdict is Overall.PARTIAL:
        asked = sum(law.was_asked for law in laws)
        return f"no violation in {asked} of {len(laws)} laws; the others were not asked"
    if verdict is Overall.VALUES_ONLY:
        return found.values_only
    refused = [law for law in laws if law.verdict is Verdict.REFUSED and law.level is Level.MUST]
    if verdict is Overall.INCONCLUSIVE and refused:
        count = sum(law.refused for law in refused)
        cells = dict.fromkeys(cell for law in refused for cell in law.refusals)
        some = "; ".join(list(cells)[:2]) + (f"; and {len(cells) - 2} more" if len(cells) > 2 else "")
        return (
            f"the candidate refused {count} cases of {len(refused)} laws that decide; these were not judged: {some}. "
            "Declare the sizes that it requires, or allow the refusal, with a reason"
        )
    return ""


def declared_scope(candidate: Candidate) -> tuple[str, ...]:
    """What the user declared that the candidate need not do, in words."""
    found = [] if candidate.gradient else ["its value alone, as declared (gradient = false)"]
    found += [f"sizes as it requires: {candidate.sizes}"] if candidate.requires else []
    found += [f"allowed: {allowance}" for allowance in candidate.allowances]
    return tuple(found)


def stale(allowance: Allowance, results: Iterable[CandidateResult]) -> bool:
    """Whether an allowance matches nothing of what was found: all that it speaks of was asked, and holds."""
    laws = [law for result in results for law in result.laws]
    if any(not law.was_asked for law in laws) or not laws:
        return False
    if allowance.law:
        return all(law.verdict in (Verdict.PASS, Verdict.SKIP) for law in laws if law.id == allowance.law)
    seen = any(str(allowance) in law.message or law.verdict.is_failure for law in laws)
    return not seen  # what fails is asked no further, and may have had refusals to come
