"""Asking one law of one trial: draw cases, judge each, and on failure find the smallest that fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

from .allowance import Allowance
from .candidate import Candidate
from .coverage import Counted, gaps
from .laws import Judgement, Law, aim
from .recipe import digest
from .shrink import Effort, shrink
from .source import R, Source
from .store import Stored
from .verdict import Counterexample, LawResult, Level, Verdict

PREREQUISITES = ("CONTRACT-1", "CONTRACT-2", "BUILD-1")
"""Nothing can be said of a candidate that breaks those of them that it needs."""

_UNJUDGED_AT_MOST = 3  # laws of one trial; each costs a process, and the rest would end the same way
_FAILURES_KEPT = 6
_CASES_AFTER_FAILURE = 40


@dataclass(frozen=True)
class Profile:
    """How many cases: ``factor`` times each law's budget; ``seed`` is fixed where runs must be repeatable.

    Where it is ``complete``, every cell of the space that can be judged is.
    """

    name: str
    factor: float
    seed: int | None = None
    complete: bool = False


PROFILES: dict[str, Profile] = {
    "brief": Profile("brief", 0.1),  # for what takes a second a case, and for hundreds of candidates
    "quick": Profile("quick", 1.0),
    "ci": Profile("ci", 2.0, seed=0, complete=True),
    "deep": Profile("deep", 20.0, complete=True),
}


class Named(Protocol):
    @property
    def name(self) -> str: ...


class OnTrial(Counted, Protocol):
    """What the judge itself knows of a trial, be it of a loss or of a builder; all else is for laws to know."""

    @property
    def candidate(self) -> Candidate: ...

    @property
    def spec(self) -> Named: ...

    @property
    def device(self) -> str: ...

    @property
    def failed(self) -> set[str]: ...

    @property
    def unjudged(self) -> dict[str, str]:
        """The laws, by id, that could not be asked so far, and why."""

    @property
    def share(self) -> float:
        """Of each law's budget, what it is asked."""

    def excuse(self, law: str) -> str | None:
        """Why a law, by its id, cannot be asked of it, or None."""

    def fit(self, recipe: Any) -> Any:
        """The recipe with what is the same in all cases of this trial."""


T = TypeVar("T", bound=OnTrial)


class Refusals:
    """The cases that a candidate refuses to answer, but for those that its declaration allows it to refuse.

    Attributes:
        count: how many.
        cells: what of the space of cases they are in.
        allowed: what was refused as declared, in words, or "".
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


def ask(law: Law[T, R], trial: T, profile: Profile, seed: int, tick: Callable[[], None] = lambda: None) -> LawResult:
    """Ask ``law`` of ``trial``; ``tick`` is called after every case. A failure that is declared away is ALLOWED."""
    allowance = next((each for each in trial.candidate.allowances if each.law == law.id), None)
    found = _ask(law, trial, profile, seed, tick)
    if allowance is None:
        if found.verdict.is_failure:
            trial.failed.add(law.id)
        return found
    if found.verdict.is_failure or found.verdict in (Verdict.REFUSED, Verdict.VACUOUS, Verdict.INCONCLUSIVE):
        return replace(found, verdict=Verdict.ALLOWED, message=f"{found.message}; allowed: {allowance.reason}")
    return found


def _ask(law: Law[T, R], trial: T, profile: Profile, seed: int, tick: Callable[[], None]) -> LawResult:
    started = time.perf_counter()
    profile = replace(profile, factor=profile.factor * trial.share)

    def result(verdict: Verdict, message: str = "", cases: int = 0, vacuous: int = 0, **rest: object) -> LawResult:
        return LawResult(
            id=law.id,
            title=law.title,
            level=law.level,
            verdict=verdict,
            message=message,
            cases=cases,
            vacuous=vacuous,
            seconds=round(time.perf_counter() - started, 3),
            **rest,  # type: ignore[arg-type]
        )

    excuse = trial.excuse(law.id) or law.excuse(trial)
    if excuse is not None:
        return result(Verdict.SKIP, excuse)
    basic = [id for id in PREREQUISITES if id in trial.failed and id in (*law.presumes, "CONTRACT-1")]
    if basic:
        return result(Verdict.SKIP, f"not asked, since {basic[0]} failed")
    if len(trial.unjudged) >= _UNJUDGED_AT_MOST:
        first, why = next(iter(trial.unjudged.items()))
        return result(Verdict.UNJUDGED, f"was not asked, since {first} and others could not be judged: {why}")
    follows = next((id for id in law.presumes if id in trial.failed), None)
    doubtful = follows is not None
    cases = vacuous = since = 0
    outside = ""  # why cases were left out that the candidate is not declared to take
    refusals = Refusals(trial.candidate.allowances)
    failures: list[Failure[R]] = []
    missing = gaps(law, trial) if profile.complete and not doubtful else ()
    for recipe in chain(cases_of(law, trial, profile, seed, doubtful), missing):
        recipe, judgement = judged(law, trial, recipe)
        if judgement.verdict is Verdict.SKIP:
            outside = outside or judgement.message
            continue
        if judgement.verdict is Verdict.REFUSED:
            refusals.note(judgement.message, map(str, trial.tally.sort(recipe)))
            continue
        tick()
        if judgement.verdict is Verdict.UNJUDGED:
            if failures:
                break
            trial.unjudged[law.id] = judgement.message
            return result(Verdict.UNJUDGED, judgement.message, cases, vacuous)
        if judgement.verdict is Verdict.VACUOUS:
            vacuous += 1
            continue
        cases += 1
        trial.tally.note(law.id, recipe, law.level is Level.MUST)
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
        if vacuous:
            return result(Verdict.VACUOUS, "no case could tell a null candidate from a right one", vacuous=vacuous)
        return result(Verdict.SKIP, refusals.allowed or outside or "no case of this spec is one that the law speaks of")
    return result(Verdict.PASS, refusals.allowed, cases, vacuous)


def judged(law: Law[T, R], trial: T, recipe: R) -> tuple[R, Judgement]:
    """What the law says of ``recipe``; where that is vacuous, the first of its redraws of which it says more, and what.

    A recipe is drawn again only after it was judged, so that no failure is lost; one whose redraws prove nothing either
    stays vacuous.
    """
    judgement = law.check(trial, recipe)
    if judgement.verdict is not Verdict.VACUOUS:
        return recipe, judgement
    for drawn in trial.source.again(recipe, law.narrow(trial.space)):
        again = aim(law, trial, drawn)
        if again is not None:
            other = law.check(trial, again)
            if other.verdict not in (Verdict.VACUOUS, Verdict.SKIP):
                return again, other
    return recipe, judgement


def planned(law: Law[Any, Any], profile: Profile) -> int:
    """How many cases :func:`ask` will judge, but for a few that a complete profile still lacks."""
    return round(law.budget * profile.factor)


def cases_of(law: Law[T, R], trial: T, profile: Profile, seed: int, doubtful: bool = False) -> Iterator[R]:
    """The recipes that the law is asked on, each once: hand-made, from Hypothesis, large, and from the plain loop.

    Nothing is drawn before the hand-made ones are used up; where the law is ``doubtful``, nothing at all.
    """
    space = law.narrow(trial.space)
    drawn: Source[R] = trial.source
    budget = planned(law, profile)
    seed = int(digest(law.id, str(seed)), 16)  # every law sees cases of its own
    seen: set[R] = set()

    def draws() -> Iterator[R]:
        yield from drawn_by_hypothesis(drawn.recipes(space), budget // 3, seed)
        yield from drawn.large(space, seed) if law.large else ()
        yield from _bounded(drawn.plain(space, seed), 6 * budget)

    for recipe in chain(drawn.killers(space), () if doubtful else draws()):
        focused = aim(law, trial, recipe)
        if focused is None or focused in seen:
            continue
        seen.add(focused)
        yield focused
        if len(seen) >= budget:
            return


def drawn_by_hypothesis(strategy: SearchStrategy[R], count: int, seed: int) -> list[R]:
    """``count`` recipes, the simplest first, the same for the same seed."""
    drawn: list[R] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max(count, 1),
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=tuple(HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(recipe: R) -> None:
        drawn.append(recipe)

    collect()
    return drawn


def _bounded(source: Iterator[R], most: int) -> Iterator[R]:
    for _ in range(most):
        yield next(source)


def _worth_shrinking(failures: list[Failure[R]]) -> Failure[R]:
    """The failure to shrink: one in which labels are moved or special ids are mistaken, if any is, and otherwise as few
    things at once as can be.

    A pair that is merely missing is what is left of many bugs on the smallest cases, and tells none of them.
    """

    def telling(failure: Failure[R]) -> tuple[int, int, int]:
        features = failure.judgement.features
        moved = sum(feature.startswith(("moved", "BOS", "EOS", "PAD")) for feature in features)
        return moved, moved - len(features), -failure.recipe.size

    return max(failures, key=telling)


def shrunk(law: Law[T, R], trial: T, failure: Failure[R]) -> Failure[R]:
    """The smallest case found on which the law fails in the same way."""
    kept = failure

    def same_failure(recipe: R) -> bool:
        nonlocal kept
        if aim(law, trial, recipe) != recipe:
            return False
        judgement = law.check(trial, recipe)
        same = judgement.verdict is failure.judgement.verdict and judgement.features == failure.judgement.features
        if same:
            kept = Failure(recipe, judgement)
        return same

    slow = failure.judgement.verdict.is_costly
    effort = Effort(attempts=10, seconds=20.0) if slow else Effort()
    shrink(failure.recipe, same_failure, effort, lambda recipe: trial.source.simpler(recipe, trial.space))
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
