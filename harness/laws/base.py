"""A law: one property of a correct loss, with a stable id. A law judges one recipe at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from ..candidates.loss import Observation, Problem, Trial
from ..candidates.variant import PLAIN, Variant
from ..cases.build import Case
from ..cases.generators import R
from ..cases.recipe import Recipe
from ..cases.space import Space
from ..results import Level, Verdict
from ..worker.target import ABILITIES


@dataclass(frozen=True)
class Judgement:
    """The result of a law on one recipe.

    ``features`` name the way in which the law fails. They stay the same while the case shrinks. So the case shrinks to
    the smallest case of *this* failure and not of another one.
    """

    verdict: Verdict
    message: str = ""
    features: frozenset[str] = frozenset()


PASS = Judgement(Verdict.PASS)
NOT_APPLICABLE = Judgement(Verdict.SKIP)
"""The judgement of a case that the law does not cover. Such a case is not counted."""


def failing(message: str, *features: str) -> Judgement:
    return Judgement(Verdict.FAIL, message, frozenset(features) or frozenset({"wrong"}))


def vacuous(null: str) -> Judgement:
    return Judgement(Verdict.VACUOUS, f"the bounds of this case would let a null candidate pass: {null}")


REFUSED = "refused"
"""The feature of a judgement that passes an exception."""

NOT_FINITE = "not finite"
"""The feature of a judgement that fails for a NaN or an infinity where a number belongs."""


def refused_rightly(problem: Problem) -> Judgement:
    """The judgement of a case that the candidate may refuse."""
    return Judgement(Verdict.PASS, problem.message, frozenset({REFUSED}))


class Answer(Protocol):
    """The result of one call of a candidate of any kind."""

    @property
    def problem(self) -> Problem | None: ...


def not_answered(observation: Answer) -> Judgement:
    """The judgement of a case on which the candidate gave no answer."""
    problem = observation.problem
    assert problem is not None
    return Judgement(problem.verdict, problem.message, frozenset({problem.kind}))


def trains(case: Case) -> bool:
    """Whether a case has pairs and a total weight other than 0.

    Where all weights are 0, nothing is trained on, though there are pairs: a right loss may be 0/0 or guard against it.
    """
    pairs = case.pairing.pairs
    is_divided_by_0 = 0.0 in case.pairing.denominators and not all(math.isfinite(pair.weight) for pair in pairs)
    return bool(pairs) and not is_divided_by_0


def trained(
    trial: Trial, recipe: Recipe, variant: Variant = PLAIN, *, gradient: bool = False
) -> Observation | Judgement:
    """Return what the candidate did with a case that trains (with a ``gradient``, if asked), or a judgement.

    The judgement replaces the observation when the case trains nothing, when the candidate gave no answer, and when
    ``gradient`` is set and the logits have no gradient.
    """
    if not trains(trial.case(recipe)):
        return NOT_APPLICABLE
    observation = trial.observe_cached(recipe, variant)
    if not trains(observation.case):
        return NOT_APPLICABLE
    if observation.problem is not None:
        refused = variant.refusable and observation.problem.verdict is Verdict.ERROR
        return refused_rightly(observation.problem) if refused else not_answered(observation)
    if gradient and observation.gradients is None:
        return failing("no gradient at the logits", "no gradient")
    return observation


class Aimed(Protocol):
    """A trial that knows which recipes it can be asked about."""

    def fit(self, recipe: Any) -> Any: ...


T = TypeVar("T")
Check = Callable[[T, R], Judgement]
Focus = Callable[[R], R | None]


@dataclass(frozen=True)
class OnVariants:
    """The check of a law that judges the answers to variants of a case, one after another until one fails.

    If one proves nothing, the case proves nothing: no variant passes because of another.

    Attributes:
        variants: how the candidate is called.
        gradient: whether an answer without a gradient fails.
        judge: judges an observation whose case is the variant's.
    """

    variants: tuple[Variant, ...]
    gradient: bool
    judge: Callable[[Trial, Observation], Judgement]

    def __call__(self, trial: Trial, recipe: Recipe) -> Judgement:
        found = NOT_APPLICABLE
        for variant in filter(lambda variant: variant.wanted(trial), self.variants):
            judgement = self._on_one(trial, recipe, variant)
            if judgement.verdict not in (Verdict.PASS, Verdict.VACUOUS, Verdict.SKIP):
                return judgement
            if _weight(judgement) > _weight(found):
                found = judgement
        return found

    def failing_variant(self, trial: Trial, recipe: Recipe) -> Variant | None:
        """The first variant that fails on a recipe, or None."""
        failing = (
            each
            for each in self.variants
            if each.wanted(trial) and self._on_one(trial, recipe, each).verdict is Verdict.FAIL
        )
        return next(failing, None)

    def _on_one(self, trial: Trial, recipe: Recipe, variant: Variant) -> Judgement:
        observed = trained(trial, recipe, variant, gradient=self.gradient)
        if isinstance(observed, Judgement):
            return observed
        judgement = self.judge(trial, observed)
        if judgement.verdict is not Verdict.FAIL or variant.words is None:
            return judgement
        return replace(judgement, message=f"{variant.words(observed.case)}: {judgement.message}")


def _weight(judgement: Judgement) -> int:
    """How much a judgement that does not fail counts beside those of other variants of the same case."""
    if judgement.verdict is Verdict.PASS:
        return 2 if REFUSED in judgement.features else 1
    return 3 if judgement.verdict is Verdict.VACUOUS else 0


def on(*variants: Variant, gradient: bool = False) -> Callable[[Callable[[Trial, Observation], Judgement]], OnVariants]:
    """Turn a function that judges one observation into the check of a law on variants."""
    return lambda judge: OnVariants(variants, gradient, judge)


def any_recipe(recipe: Any) -> Any:
    """The focus of a law that covers every recipe as it is."""
    return recipe


def whole_space(space: Space) -> Space:
    """The restriction of a law whose cases come from the whole space."""
    return space


@dataclass(frozen=True)
class Law(Generic[T, R]):
    """One property of a trial ``T``, judged on recipes ``R``.

    Attributes:
        id: stable, never reused.
        title: one line, as shown in reports.
        source: where the property is known from.
        check: judges one recipe.
        budget: the number of cases under the quick profile.
        adapt: turns any recipe into one that this law covers, or returns None if that is impossible.
        restrict: restricts the space from which cases are drawn.
        depends_on: ids of other laws. If one of them failed, this law adds little, so it gets only a few cases.
        calls_again: whether it calls the candidate more often than once a case, as each law on a variant does. Such a
            law gets no more cases than its budget; all others are asked about every case that they cover.
        skip_reason: why this law cannot judge a trial, or None.
        points_to: the bugs to suspect when this law alone fails.
        mode: the state of a call that the law judges, in a few words for the report, or "".
    """

    id: str
    title: str
    level: Level
    source: str
    check: Check[T, R]
    budget: int
    adapt: Focus[R] = field(default=any_recipe)
    restrict: Callable[[Space], Space] = field(default=whole_space)
    depends_on: tuple[str, ...] = ()
    calls_again: bool = False
    skip_reason: Callable[[T], str | None] = field(default=lambda trial: None)
    points_to: tuple[str, ...] = ()
    mode: str = ""


def adapt_to(law: Law[T, R], trial: Aimed, recipe: R) -> R | None:
    """Return the recipe that ``law`` uses for ``trial`` instead of ``recipe``, or None if there is none."""
    focused = law.adapt(recipe)
    fitted: R | None = None if focused is None else trial.fit(focused)
    return fitted


class Laws(dict[str, Law[T, R]]):
    """The laws of one kind of candidate by id, in the order in which they are asked."""

    def law(
        self,
        id: str,
        title: str,
        *,
        source: str,
        budget: int,
        level: Level = Level.MUST,
        adapt: Focus[R] = any_recipe,
        restrict: Callable[[Space], Space] = whole_space,
        depends_on: tuple[str, ...] = ("CONTRACT-1",),
        calls_again: bool = False,
        skip_reason: Callable[[T], str | None] = lambda trial: None,
        points_to: tuple[str, ...] = (),
        mode: str = "",
    ) -> Callable[[Check[T, R]], Law[T, R]]:
        """Register the decorated check as a law."""

        def register(check: Check[T, R]) -> Law[T, R]:
            if id in self:
                raise ValueError(f"two laws have the id {id}")
            self[id] = Law(
                id=id,
                title=title,
                level=level,
                source=source,
                check=check,
                budget=budget,
                adapt=adapt,
                restrict=restrict,
                depends_on=depends_on,
                calls_again=calls_again or isinstance(check, OnVariants),
                skip_reason=skip_reason,
                points_to=points_to,
                mode=mode,
            )
            return self[id]

        return register


LAWS: Laws[Trial, Recipe] = Laws()
law = LAWS.law


def needs_gradient(trial: Trial) -> str | None:
    return None if trial.candidate.gradient else "the candidate is declared without a gradient"


def lacking(trial: Trial, ability: str) -> str | None:
    """The reason why a law that needs this ability of a worker cannot be asked, or None."""
    return f"its worker lacks {ABILITIES[ability]}" if ability in trial.binding.lacks else None


def needs(ability: str) -> Callable[[Trial], str | None]:
    return lambda trial: lacking(trial, ability)
