"""Where the recipes of a trial come from: one set of functions for losses, one for label builders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from hypothesis.strategies import SearchStrategy

from . import builder_cases, shrink, strategies
from .builder_cases import BuilderRecipe
from .recipe import Recipe
from .strategies import Space

R = TypeVar("R", Recipe, BuilderRecipe)


@dataclass(frozen=True)
class Source(Generic[R]):
    """All that is drawn, and how it is made simpler.

    Attributes:
        killers: the hand-made cases of a space.
        recipes: a Hypothesis strategy over a space.
        large: some cases past the sizes of a space, by a seed.
        plain: recipes without end from a seed.
        simpler: the simplifications of a recipe that are still of the space's kind.
        again: for a recipe that proves nothing, others of its structure.
        settings: the fields that a cell's regime and reduction are read off.
    """

    killers: Callable[[Space], list[R]]
    recipes: Callable[[Space], SearchStrategy[R]]
    large: Callable[[Space, int], list[R]]
    plain: Callable[[Space, int], Iterator[R]]
    simpler: Callable[[R, Space], Iterator[R]]
    again: Callable[[R, Space], Iterator[R]]
    settings: tuple[str, ...]


def _simpler(recipe: Recipe, space: Space) -> Iterator[Recipe]:
    return (simpler for simpler in shrink.simplifications(recipe) if strategies.fits(space, simpler))


LOSS_RECIPES: Source[Recipe] = Source(
    strategies.killers,
    strategies.recipes,
    strategies.large,
    strategies.plain,
    _simpler,
    strategies.redraws,
    ("regime", "count"),
)
BUILDER_RECIPES: Source[BuilderRecipe] = Source(
    builder_cases.killers,
    builder_cases.recipes,
    lambda space, seed: [],  # builders have no size at which another kernel takes over
    builder_cases.plain,
    builder_cases.simplifications,
    lambda recipe, space: iter(()),  # what is compared exactly always proves something
    ("ids",),
)
