"""Asking one law of one trial: draw cases, judge each, and on failure find the smallest that fails in the same way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

from .laws import Judgement, Law
from .recipe import Recipe, digest
from .shrink import Effort, shrink
from .store import Stored
from .strategies import Space, killers, large, plain, recipes
from .trial import Trial
from .verdict import Counterexample, LawResult, Verdict

_SLOW = (Verdict.CRASH, Verdict.TIMEOUT)
_FAILURES_KEPT = 6
_CASES_AFTER_FAILURE = 40


@dataclass(frozen=True)
class Profile:
    """How many cases: ``factor`` times each law's budget; ``seed`` is fixed where runs must be repeatable."""

    name: str
    factor: float
    seed: int | None = None


PROFILES: dict[str, Profile] = {
    "quick": Profile("quick", 1.0),
    "ci": Profile("ci", 2.0, seed=0),
    "deep": Profile("deep", 20.0),
}


@dataclass(frozen=True)
class Failure:
    recipe: Recipe
    judgement: Judgement


def ask(law: Law, trial: Trial, profile: Profile, seed: int, tick: Callable[[], None] = lambda: None) -> LawResult:
    """Ask ``law`` of ``trial``; ``tick`` is called after every case."""
    started = time.perf_counter()

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

    excuse = law.excuse(trial)
    if excuse is not None:
        return result(Verdict.SKIP, excuse)
    basic = [id for id in ("CONTRACT-1", "CONTRACT-2") if id in trial.failed and id in (*law.presumes, "CONTRACT-1")]
    if basic:
        return result(Verdict.SKIP, f"not asked, since {basic[0]} failed")
    follows = next((id for id in law.presumes if id in trial.failed), None)
    doubtful = follows is not None
    cases = vacuous = since = 0
    failures: list[Failure] = []
    for recipe in _focused(law, trial, profile, seed, doubtful):
        judgement = law.check(trial, recipe)
        if judgement.verdict is Verdict.SKIP:
            continue
        tick()
        if judgement.verdict is Verdict.VACUOUS:
            vacuous += 1
            continue
        cases += 1
        if judgement.verdict.is_failure:
            failures.append(Failure(recipe, judgement))
        since += bool(failures)
        enough = doubtful or judgement.verdict in _SLOW or len(failures) >= _FAILURES_KEPT
        if failures and (enough or since > _CASES_AFTER_FAILURE):
            break
    if failures:
        trial.failed.add(law.id)
        worst = _worth_shrinking(failures)
        smallest = worst if doubtful else _shrunk(law, trial, worst)
        stored = _store(law, trial, smallest)
        return result(
            smallest.judgement.verdict,
            smallest.judgement.message,
            cases,
            vacuous,
            counterexample=Counterexample(stored.save(), smallest.recipe.to_json()),
            follows=follows,
        )
    if cases == 0:
        if vacuous:
            return result(Verdict.VACUOUS, "no case could tell a null candidate from a right one", vacuous=vacuous)
        return result(Verdict.SKIP, "no case of this spec is one that the law speaks of")
    return result(Verdict.PASS, cases=cases, vacuous=vacuous)


def planned(law: Law, profile: Profile) -> int:
    """At most how many cases :func:`ask` will judge."""
    return round(law.budget * profile.factor)


def _focused(law: Law, trial: Trial, profile: Profile, seed: int, doubtful: bool) -> Iterator[Recipe]:
    """The recipes that the law is asked on, each once: hand-made, from Hypothesis, large, and from the plain loop."""
    space = law.narrow(trial.space)
    budget = planned(law, profile)
    seed = int(digest(law.id, str(seed)), 16)  # every law sees cases of its own
    seen: set[Recipe] = set()
    source: Iterator[Recipe] = iter(killers(space))
    if not doubtful:
        draws = chain(
            drawn_by_hypothesis(space, budget // 3, seed),
            large(space, seed) if law.large else (),
        )
        source = chain(source, draws, _bounded(plain(space, seed), 6 * budget))
    for recipe in source:
        focused = law.focus(recipe)
        if focused is None or focused in seen:
            continue
        seen.add(focused)
        yield focused
        if len(seen) >= budget:
            return


def drawn_by_hypothesis(space: Space, count: int, seed: int) -> list[Recipe]:
    """``count`` recipes, the simplest first, the same for the same seed."""
    drawn: list[Recipe] = []
    strategy: SearchStrategy[Recipe] = recipes(space)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max(count, 1),
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=tuple(HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(recipe: Recipe) -> None:
        drawn.append(recipe)

    collect()
    return drawn


def _bounded(source: Iterator[Recipe], most: int) -> Iterator[Recipe]:
    for _ in range(most):
        yield next(source)


def _worth_shrinking(failures: list[Failure]) -> Failure:
    """The failure to shrink: one in which labels are moved, if any is, and otherwise as few things at once as can be.

    A pair that is merely missing is what is left of many bugs on the smallest cases, and tells none of them.
    """

    def telling(failure: Failure) -> tuple[int, int, int]:
        features = failure.judgement.features
        moved = sum(feature.startswith("moved") for feature in features)
        return moved, moved - len(features), -_size(failure.recipe)

    return max(failures, key=telling)


def _size(recipe: Recipe) -> int:
    return recipe.rows * recipe.length * recipe.classes


def _shrunk(law: Law, trial: Trial, failure: Failure) -> Failure:
    kept = failure

    def same_failure(recipe: Recipe) -> bool:
        nonlocal kept
        if law.focus(recipe) != recipe:
            return False
        judgement = law.check(trial, recipe)
        same = judgement.verdict is failure.judgement.verdict and judgement.features == failure.judgement.features
        if same:
            kept = Failure(recipe, judgement)
        return same

    slow = failure.judgement.verdict in _SLOW
    shrink(failure.recipe, same_failure, Effort(attempts=10, seconds=20.0) if slow else Effort())
    return kept


def _store(law: Law, trial: Trial, failure: Failure) -> Stored:
    return Stored(
        candidate=trial.candidate,
        spec=trial.spec.name,
        device=trial.device,
        law=law.id,
        features=tuple(sorted(failure.judgement.features)),
        message=failure.judgement.message,
        recipe=failure.recipe,
    )
