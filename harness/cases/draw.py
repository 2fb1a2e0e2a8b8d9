"""Drawing recipes with Hypothesis, outside of any test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")

_FAR = 1 << 80
"""Hypothesis takes one number in twenty from the code of all modules that do not come from a package. They differ from
process to process. As no code writes so large a number, it finds none that would do."""


def one_of(values: Sequence[T]) -> SearchStrategy[T]:
    """A strategy of some values, which shrinks to the first. What it draws from a seed depends on nothing else."""
    return st.integers(_FAR, _FAR + len(values) - 1).map(lambda number: values[number - _FAR])


def fields_from(choices: Mapping[str, Sequence[Any]]) -> SearchStrategy[dict[str, Any]]:
    """A strategy of one value for each name."""
    return st.fixed_dictionaries({name: one_of(values) for name, values in choices.items()})


def drawn_by_hypothesis(strategy: SearchStrategy[T], count: int, seed: int) -> list[T]:
    """Draw ``count`` recipes, the simplest first. The same seed gives the same recipes."""
    drawn: list[T] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=max(count, 1),
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=tuple(HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(recipe: T) -> None:
        drawn.append(recipe)

    collect()
    return drawn
