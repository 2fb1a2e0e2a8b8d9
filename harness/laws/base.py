"""What a law is: one property of a right loss, with a stable id, that judges one recipe at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from ..builder_trial import Built
from ..recipe import Recipe
from ..source import R
from ..strategies import Space
from ..trial import Observation, Trial
from ..verdict import Level, Verdict


@dataclass(frozen=True)
class Judgement:
    """What a law says of one recipe.

    ``features`` say in what way it fails. They stay the same while the case shrinks, so that it shrinks to the smallest
    case of *this* failure and not to some other.
    """

    verdict: Verdict
    message: str = ""
    features: frozenset[str] = frozenset()


PASS = Judgement(Verdict.PASS)
NOT_MEANT = Judgement(Verdict.SKIP)
"""The judgement of a case that the law does not speak of; it is not counted."""


def failing(message: str, *features: str) -> Judgement:
    return Judgement(Verdict.FAIL, message, frozenset(features) or frozenset({"wrong"}))


def vacuous(null: str) -> Judgement:
    return Judgement(Verdict.VACUOUS, f"the bounds of this case would let a null candidate pass: {null}")


def not_answered(observation: Observation | Built) -> Judgement:
    """The judgement of a case on which the candidate gave no answer."""
    problem = observation.problem
    assert problem is not None
    return Judgement(problem.verdict, problem.message, frozenset({problem.kind}))


def trained(
    trial: Trial, recipe: Recipe, upstream: float = 1.0, grad_mode: str = "enabled", *, gradient: bool = False
) -> Observation | Judgement:
    """What the candidate did with a case that trains something (and gave a ``gradient``), or the judgement instead."""
    if not trial.case(recipe).pairing.pairs:
        return NOT_MEANT
    observation = trial.look(recipe, upstream, grad_mode)
    if observation.problem is not None:
        return not_answered(observation)
    if gradient and observation.gradients is None:
        return failing("no gradient at the logits", "no gradient")
    return observation


class Aimed(Protocol):
    """What is on trial knows which recipes it can be asked about."""

    def fit(self, recipe: Any) -> Any: ...


T = TypeVar("T")
Check = Callable[[T, R], Judgement]
Focus = Callable[[R], R | None]


@dataclass(frozen=True)
class Law(Generic[T, R]):
    """One property of what is on trial in a ``T``, judged on recipes ``R``.

    Attributes:
        id: stable, never reused.
        title: one line, as in reports.
        source: where it is known from.
        check: judges one recipe.
        budget: how many cases under the quick profile.
        focus: turns any recipe into one that this law is about, or None where it cannot be.
        narrow: restricts the space that is drawn from.
        presumes: laws without which this one says nothing new; where one of them failed, a few cases will do.
        large: whether cases past the sizes where cheap bugs hide are judged too.
        excuse: why a trial cannot be asked, or None.
        suggests: bugs that failing this law alone points to.
    """

    id: str
    title: str
    level: Level
    source: str
    check: Check[T, R]
    budget: int
    focus: Focus[R] = field(default=lambda recipe: recipe)
    narrow: Callable[[Space], Space] = field(default=lambda space: space)
    presumes: tuple[str, ...] = ()
    large: bool = False
    excuse: Callable[[T], str | None] = field(default=lambda trial: None)
    suggests: tuple[str, ...] = ()


def aim(law: Law[T, R], trial: Aimed, recipe: R) -> R | None:
    """The recipe that ``law`` asks ``trial`` about in place of ``recipe``, or None where it has none."""
    focused = law.focus(recipe)
    fitted: R | None = None if focused is None else trial.fit(focused)
    return fitted


class Laws(dict[str, Law[T, R]]):
    """The laws of one kind of candidate, by id, in the order in which they are asked."""

    def law(
        self,
        id: str,
        title: str,
        *,
        source: str,
        budget: int,
        level: Level = Level.MUST,
        focus: Focus[R] = lambda recipe: recipe,
        narrow: Callable[[Space], Space] = lambda space: space,
        presumes: tuple[str, ...] = ("CONTRACT-1",),
        large: bool = False,
        excuse: Callable[[T], str | None] = lambda trial: None,
        suggests: tuple[str, ...] = (),
    ) -> Callable[[Check[T, R]], Law[T, R]]:
        """Register the decorated check as a law."""

        def register(check: Check[T, R]) -> Law[T, R]:
            if id in self:
                raise ValueError(f"two laws are called {id}")
            self[id] = Law(
                id=id,
                title=title,
                level=level,
                source=source,
                check=check,
                budget=budget,
                focus=focus,
                narrow=narrow,
                presumes=presumes,
                large=large,
                excuse=excuse,
                suggests=suggests,
            )
            return self[id]

        return register


LAWS: Laws[Trial, Recipe] = Laws()
law = LAWS.law


def needs_gradient(trial: Trial) -> str | None:
    return None if trial.candidate.gradient else "the candidate is declared without a gradient"
