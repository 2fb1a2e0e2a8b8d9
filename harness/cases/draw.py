"""Drawing recipes with Hypothesis, outside of any test."""

from __future__ import annotations

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

from .generators import R


def drawn_by_hypothesis(strategy: SearchStrategy[R], count: int, seed: int) -> list[R]:
    """Draw ``count`` recipes, the simplest first. The same seed gives the same recipes."""
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
