"""The functions that make recipes: one set of functions for each kind of candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import Field, dataclass, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from hypothesis.strategies import SearchStrategy

from . import shrink, space
from .recipe import Recipe
from .sizes import Sizes
from .space import Space


class AnyRecipe(Protocol):
    """The interface of a recipe for any kind of candidate: a frozen dataclass with these members."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def dtype(self) -> str: ...

    @property
    def size(self) -> int: ...

    def to_json(self) -> dict[str, Any]: ...

    def canonical(self) -> str: ...


R = TypeVar("R", bound=AnyRecipe)


@dataclass(frozen=True)
class Generators(Generic[R]):
    """The functions that draw recipes and simplify them.

    Attributes:
        hand_made: the hand-made cases of a space.
        recipes: a Hypothesis strategy over a space.
        placed: cases of given sizes, all else drawn from a seed.
        random_recipes: an endless stream of recipes from a seed.
        simpler: the simplifications of a recipe that are still valid in the space.
        within: whether a recipe that was made for one law is an ordinary case of another law's space too.
        again: other recipes of the same structure, for a recipe that proves nothing.
        settings: the fields that determine a cell's regime, reduction and dtype.
    """

    hand_made: Callable[[Space], list[R]]
    recipes: Callable[[Space], SearchStrategy[R]]
    placed: Callable[[Space, Iterable[Sizes], int], Iterator[R]]
    random_recipes: Callable[[Space, int], Iterator[R]]
    simpler: Callable[[R, Space], Iterator[R]]
    within: Callable[[R, Space], bool]
    again: Callable[[R, Space], Iterator[R]]
    settings: tuple[str, ...]


def _simpler(recipe: Recipe, choices: Space) -> Iterator[Recipe]:
    dtypes = choices["dtype"]
    if recipe.dtype in dtypes:
        yield from (replace(recipe, dtype=dtype) for dtype in dtypes[: dtypes.index(recipe.dtype)])
    yield from (simpler for simpler in shrink.simplifications(recipe) if space.fits(choices, simpler))


LOSS_RECIPES: Generators[Recipe] = Generators(
    space.hand_made,
    space.recipes,
    space.placed,
    space.random_recipes,
    _simpler,
    space.within,
    space.redraws,
    ("regime", "count", "dtype"),
)
