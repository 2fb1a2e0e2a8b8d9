"""Ask one law of one trial: draw cases, judge each, and on failure find the smallest that fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Generic, TypeVar, cast

from ..candidates.allowance import Allowance
from ..cases.generators import R
from ..cases.shrink import Effort, shrink
from ..laws import REFUSED, Judgement, Law, adapt_to
from ..results import Counterexample, LawResult, Level, Verdict
from .coverage import gaps
from .laws_of import laws_of
from .on_trial import OnTrial
from .pool import Pool, pool_of
from .profile import Profile
from .store import Stored

PREREQUISITES = ("CONTRACT-1", "CONTRACT-2", "BUILD-1")
"""A candidate that fails one of these that applies to it cannot be judged by other laws."""

_UNJUDGED_AT_MOST = 3  # laws per trial: each costs a process, and the other laws would end in the same way
_FAILURES_KEPT = 6
_CASES_AFTER_FAILURE = 40


T = TypeVar("T", bound=OnTrial)


class Refusals:
    """The cases that a candidate refuses to answer, without those that its declaration allows it to refuse.

    Attributes:
        count: the number of refused cases.
        cells: the cells of the space that these cases are in.
        allowed: a message on the allowed refusals, or "".
    """

    def __init__(self, allowances: tuple[Allowance, ...]) -> None:
        self._allowances = allowances
        self._first = ""
        self.count = 0
        self.cells: dict[str, None] = {}
        self.allowed = ""

    def note(self, message: str, cells: Iterable[str]) -> None:
        for allowance in self._allowances:
            if allowance.refuses and allowance.refuses in message:
                self.allowed = self.allowed or f"some cases are refused, as declared: {allowance}"
                return
        self.count += 1
        self._first = self._first or message
        self.cells.update(dict.fromkeys(cells))

    def __str__(self) -> str:
        return f"refused {self.count} case{'s' if self.count > 1 else ''}: {self._first}"


@dataclass(frozen=True)
class Failure(Generic[R]):
    recipe: R
    judgement: Judgement


def ask(
    law: Law[T, R],
    trial: T,
    profile: Profile,
    seed: int,
    tick: Callable[[], None] = lambda: None,
    among: Mapping[str, Law[Any, Any]] | None = None,
) -> LawResult:
    """Ask ``law`` of ``trial``. Call ``tick`` after every case. If the declaration allows a failure, it is ALLOWED.

    ``among``: the laws that the trial is asked, which share their cases. None means all laws of its spec, or ``law``
    alone if it is not one of them.
    """
    allowance = next((each for each in trial.candidate.allowances if each.law == law.id), None)
    if among is None:
        every = laws_of(cast("Any", trial.spec))
        among = every if every.get(law.id) is law else {law.id: law}
    pool = pool_of(among, trial, profile, seed)
    found = _ask(law, trial, pool, profile, tick)
    if allowance is None:
        if found.verdict.is_failure:
            trial.failed.add(law.id)
        return found
    if found.verdict.is_failure or found.verdict in (Verdict.REFUSED, Verdict.VACUOUS, Verdict.INCONCLUSIVE):
        return replace(found, verdict=Verdict.ALLOWED, message=f"{found.message}; allowed: {allowance.reason}")
    return found


def _ask(law: Law[T, R], trial: T, pool: Pool[T, R], profile: Profile, tick: Callable[[], None]) -> LawResult:
    started = time.perf_counter()

    def result(verdict: Verdict, message: str = "", cases: int = 0, vacuous: int = 0, **rest: object) -> LawResult:
        return LawResult(
            id=law.id,
            title=law.title,
            level=law.level,
            mode=law.mode,
            verdict=verdict,
            message=message,
            cases=cases,
            vacuous=vacuous,
            seconds=round(time.perf_counter() - started, 3),
            **rest,  # type: ignore[arg-type]
        )

    skip_reason = trial.skip_reason(law.id) or law.skip_reason(trial)
    if skip_reason is not None:
        return result(Verdict.SKIP, skip_reason)
    basic = [id for id in PREREQUISITES if id in trial.failed and id in (*law.depends_on, "CONTRACT-1")]
    if basic:
        return result(Verdict.SKIP, f"not asked, because {basic[0]} failed")
    if len(trial.unjudged) >= _UNJUDGED_AT_MOST:
        first, why = next(iter(trial.unjudged.items()))
        return result(Verdict.UNJUDGED, f"was not asked, because {first} and others could not be judged: {why}")
    follows = next((id for id in law.depends_on if id in trial.failed), None)
    doubtful = follows is not None
    proves_nothing = False  # whether any case was vacuous; of other laws' cases, these are not counted
    cases = vacuous = since = slow = forgiven = 0
    error = ""  # the exception of the first case that the law lets the candidate refuse
    outside = ""  # the message on cases whose sizes the candidate is not declared to take
    refusals = Refusals(trial.candidate.allowances)
    failures: list[Failure[R]] = []
    missing = gaps(law, trial) if profile.complete and not doubtful else ()
    pooled = pool.of(law, by_hand=doubtful)
    following = chain(zip(pooled, [*pooled[1:], None], strict=False), ((recipe, None) for recipe in missing))
    for recipe, trial.ahead in following:
        if not profile.complete and trial.takes_long(recipe) and pool.may_be_left_out(law, recipe):
            slow += 1
            continue
        recipe, judgement = judge_in_pool(law, trial, pool, recipe)
        if judgement.verdict is Verdict.SKIP:
            outside = outside or judgement.message
            continue
        if judgement.verdict is Verdict.REFUSED:
            refusals.note(judgement.message, map(str, trial.cell_counts.sort(recipe)))
            continue
        tick()
        if judgement.verdict is Verdict.UNJUDGED:
            if failures:
                break
            trial.unjudged[law.id] = judgement.message
            return result(Verdict.UNJUDGED, judgement.message, cases, vacuous)
        if judgement.verdict is Verdict.VACUOUS:
            proves_nothing = True
            vacuous += not pool.is_others(law, recipe)
            continue
        cases += 1
        if REFUSED in judgement.features:
            forgiven, error = forgiven + 1, error or judgement.message
        trial.cell_counts.note(law.id, recipe, law.level is Level.MUST)
        if judgement.verdict.is_failure:
            failures.append(Failure(recipe, judgement))
        since += bool(failures)
        enough = doubtful or judgement.verdict.is_costly or len(failures) >= _FAILURES_KEPT
        if failures and (enough or since > _CASES_AFTER_FAILURE):
            break
    if failures:
        worst = _worth_shrinking(failures)
        smallest = worst if doubtful else shrunk(law, trial, worst)
        stored = _store(law, trial, smallest)
        return result(
            smallest.judgement.verdict,
            smallest.judgement.message,
            cases,
            vacuous,
            counterexample=Counterexample(stored.save(), smallest.recipe.to_json()),
            first_failure=cases - since + 1,
            follows=follows,
        )
    if refusals.count:
        return result(
            Verdict.REFUSED, str(refusals), cases, vacuous, refused=refusals.count, refusals=tuple(refusals.cells)
        )
    if cases == 0:
        if proves_nothing:
            return result(Verdict.VACUOUS, "no case could tell a null candidate from a right one", vacuous=vacuous)
        return result(Verdict.SKIP, refusals.allowed or outside or "the law applies to no case of this spec")
    left_out = f"{slow} cases at larger sizes were left out: each call would take half a second or more" if slow else ""
    may_refuse = f"{forgiven} of {cases} cases were refused, as they may be: {error}" if forgiven else ""
    message = "; ".join(filter(None, (refusals.allowed, may_refuse, left_out)))
    return result(Verdict.PASS, message, cases, vacuous, refused=forgiven)


def judge_in_pool(law: Law[T, R], trial: T, pool: Pool[T, R], recipe: R) -> tuple[R, Judgement]:
    """Judge ``recipe``. If it is vacuous, redraw it, except if it is another law's case: it was not made for this."""
    if not pool.is_others(law, recipe):
        return judge_or_redraw(law, trial, recipe)
    return recipe, law.check(trial, recipe)


def judge_or_redraw(law: Law[T, R], trial: T, recipe: R) -> tuple[R, Judgement]:
    """Judge ``recipe``. If it is vacuous, judge its redraws. Return the first recipe that proves something.

    A recipe is judged before it is redrawn, so that no failure is lost. If no redraw proves anything either, the recipe
    stays vacuous.
    """
    judgement = law.check(trial, recipe)
    if judgement.verdict is not Verdict.VACUOUS:
        return recipe, judgement
    for drawn in trial.generators.again(recipe, law.restrict(trial.space)):
        again = adapt_to(law, trial, drawn)
        if again is not None:
            other = law.check(trial, again)
            if other.verdict not in (Verdict.VACUOUS, Verdict.SKIP):
                return again, other
    return recipe, judgement


def planned(law: Law[Any, Any], profile: Profile) -> int:
    """About the number of cases that :func:`ask` judges: a law that covers other laws' cases gets more."""
    return round(law.budget * profile.factor)


def _worth_shrinking(failures: list[Failure[R]]) -> Failure[R]:
    """Choose the failure to shrink.

    Prefer a failure in which labels are moved or special ids are confused, and then the one with the fewest other
    features. On the smallest cases, many bugs show only a missing pair, which does not tell them apart.
    """

    def telling(failure: Failure[R]) -> tuple[int, int, int]:
        features = failure.judgement.features
        moved = sum(feature.startswith(("moved", "BOS", "EOS", "PAD")) for feature in features)
        return moved, moved - len(features), -failure.recipe.size

    return max(failures, key=telling)


def shrunk(law: Law[T, R], trial: T, failure: Failure[R]) -> Failure[R]:
    """Find the smallest case on which the law fails in the same way."""
    kept = failure

    def same_failure(recipe: R) -> bool:
        nonlocal kept
        if adapt_to(law, trial, recipe) != recipe:
            return False
        judgement = law.check(trial, recipe)
        same = judgement.verdict is failure.judgement.verdict and judgement.features == failure.judgement.features
        if same:
            kept = Failure(recipe, judgement)
        return same

    slow = failure.judgement.verdict.is_costly
    # What failed first is what is shown. With large cases, each further law would take as long as the first.
    # Many simpler cases do not crash or hang, and cost nothing. Those that do are bounded by the seconds.
    effort = Effort(attempts=60, seconds=20.0) if slow else Effort(seconds=Effort.seconds / (1 + len(trial.failed)))
    shrink(failure.recipe, same_failure, effort, lambda recipe: trial.generators.simpler(recipe, trial.space))
    return kept


def _store(law: Law[T, R], trial: T, failure: Failure[R]) -> Stored:
    return Stored(
        candidate=trial.candidate,
        spec=trial.spec.name,
        device=trial.device,
        law=law.id,
        features=tuple(sorted(failure.judgement.features)),
        message=failure.judgement.message,
        recipe=failure.recipe,
    )
