"""From the plan to the verdict on a candidate. Every planned law gets a result, whatever happened to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..branches import UNREAD
from ..candidates.allowance import Allowance
from ..candidates.declaration import Candidate
from ..laws.base import Law
from ..results import CandidateResult, LawResult, Level, Overall, Verdict, overall

Missing = Callable[[str], tuple[Verdict, str]]
"""A function from the id of a law without a result to NOT_ASKED or UNJUDGED, and the reason."""


def conclude(
    found: CandidateResult, planned: Sequence[Law[Any, Any]], results: Mapping[str, LawResult], missing: Missing
) -> CandidateResult:
    """Return ``found`` with a result for every law in ``planned``, and the verdict that follows from the results.

    If ``found`` has a message, not everything is known of the candidate. Then the verdict is FAILS or ERROR.
    """
    laws = tuple(results.get(law.id) or without_result(law, *missing(law.id)) for law in planned)
    verdict = overall(laws, found.coverage, found.values_only, found.branches)
    if found.message and verdict is not Overall.FAILS:
        verdict = Overall.ERROR
    return replace(found, laws=laws, verdict=verdict, message=found.message or _message(verdict, laws, found))


def without_result(law: Law[Any, Any], verdict: Verdict, message: str) -> LawResult:
    """Make a result for a law that has none."""
    return LawResult(law.id, law.title, law.level, verdict, message=message)


def _message(verdict: Overall, laws: tuple[LawResult, ...], found: CandidateResult) -> str:
    """The reason for a verdict other than CONFORMS and FAILS, or ""."""
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
            f"the candidate refused {count} cases of {len(refused)} MUST laws; these were not judged: {some}. "
            f"It {refused[0].message.partition(': ')[2] or refused[0].message}. "
            "Declare the sizes that it requires, or allow the refusal, with a reason"
        )
    branches = found.branches
    if verdict is Overall.INCONCLUSIVE and branches is not None and branches.is_due and branches.exceptions:
        said = f"not judged: {'; '.join(branches.exceptions)}"
        key = next((branch.key for branch in branches.never), UNREAD if branches.unread else "")
        hint = "Judge it where it goes there (--shape), or allow it with a reason"
        return f"{said}. {hint}: --allow 'branch={key}: why'" if key else said
    return ""


def declared_scope(candidate: Candidate) -> tuple[str, ...]:
    """The limits of the judgement that the user declared, in words."""
    found = [] if candidate.gradient else ["only its value, as declared (gradient = false)"]
    found += [f"only sizes that it requires: {candidate.sizes}"] if candidate.requires else []
    found += [f"allowed: {allowance}" for allowance in candidate.allowances]
    if candidate.given is not None and candidate.given.stays:
        found.append(f"in this process, without protection from crashes: {candidate.given.stays}")
    return tuple(found)


def stale(allowance: Allowance, results: Iterable[CandidateResult]) -> bool:
    """Whether an allowance is no longer needed: every law was asked, and nothing that it allows was found."""
    results = list(results)
    laws = [law for result in results for law in result.laws]
    if any(not law.was_asked for law in laws) or not laws:
        return False
    if allowance.branch:
        known = [result.branches for result in results if result.branches is not None]
        unread = any(each.unread for each in known) and allowance.branch == UNREAD
        return not unread and not any(
            branch.key == allowance.branch and branch.never for each in known for branch in each.found
        )
    if allowance.law:
        return all(law.verdict in (Verdict.PASS, Verdict.SKIP) for law in laws if law.id == allowance.law)
    # A law that fails is not asked on further cases, which the candidate may have refused.
    return not any(str(allowance) in law.message or law.verdict.is_failure for law in laws)
