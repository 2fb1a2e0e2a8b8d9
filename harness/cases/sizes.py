"""Sizes that no ordinary case has, at which losses change their path: another kernel, a wider index, one chunk more.

Each axis is cut into classes of sizes. A covering is a few cases in which every class of each axis meets every class of
each other axis, as far as a budget reaches. In the larger classes, S, S − 1, B·S or B·(S − 1) is a round number, one
less, or one more, and so is V. Which of them it is, and which number, depends on the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, product
from typing import Any, NamedTuple, TypeVar

from .recipe import HIDDEN_MULTIPLE
from .space import Space

Sizes = Mapping[str, int]
"""Field of a recipe -> its size."""


class SizeClass(NamedTuple):
    """Sizes of one axis between ``least`` and ``most``, both included."""

    axis: str
    least: int
    most: int

    def __str__(self) -> str:
        return f"{LETTERS[self.axis]} {self.least} to {self.most}"

    def holds(self, size: int) -> bool:
        return self.least <= size <= self.most


Pair = tuple[SizeClass, SizeClass]
R = TypeVar("R")

LETTERS = {"rows": "B", "length": "S", "classes": "V", "codebooks": "K", "hidden_size": "H"}
_BETWEEN = {
    "rows": ((1, 1), (2, 8), (15, 65), (127, 257)),
    "length": ((2, 17), (31, 65), (127, 513), (1023, 4097), (8191, 16385)),
    "classes": ((3, 9), (15, 257), (1000, 4097), (32000, 65537), (128000, 262145)),
    "codebooks": ((1, 4), (5, 8), (9, 17), (31, 33)),
    "hidden_size": ((256, 512), (768, 1280), (2048, 4128)),
}
CLASSES: Mapping[str, tuple[SizeClass, ...]] = {
    axis: tuple(SizeClass(axis, *between) for between in of_axis) for axis, of_axis in _BETWEEN.items()
}

_POWERS = tuple(2**power for power in range(4, 19))
_ROUND = sorted({*_POWERS, *(unit * times for unit in (16, 64, 128, 256) for times in (3, 5, 6, 7, 9, 11, 12, 500))})
_VOCABULARIES = (32000, 50257, 128256, 151936)  # of Llama 2, GPT-2, Llama 3 and Qwen 2
_OF_A_PLACE = 100  # elements of logits that take as long to judge as one more label
_OF_A_CASE = 20_000  # and as one more case
_DRAWS = 3  # of the sizes of each combination of classes; the cheapest that adds as much is taken
_BATCHES = {(SizeClass("rows", 2, 8), length) for length in CLASSES["length"][:-1]}
"""Batches as people train on. These pairs come first, and so does each class that no other case has."""


def cost(sizes: Sizes) -> int:
    """How long a case takes to judge, as a number of elements of logits. Hidden states and weight count as much."""
    places = sizes.get("rows", 1) * sizes["length"] * sizes.get("codebooks", 1)
    of_factors = sizes.get("hidden_size", 0) * (places + sizes.get("classes", 0))
    return places * (sizes.get("classes", 0) + _OF_A_PLACE) + of_factors + _OF_A_CASE


def sizes_of(recipe: Any) -> Sizes:
    """The sizes of a case on the axes that it has."""
    return {axis: size for axis in CLASSES if (size := getattr(recipe, axis, None)) is not None}


def class_of(axis: str, size: int) -> SizeClass | None:
    """The class of a size, or None if it lies between two classes."""
    return next((of_axis for of_axis in CLASSES[axis] if of_axis.holds(size)), None)


def pairs_of(sizes: Sizes) -> frozenset[Pair]:
    """The pairs of classes that meet in a case."""
    return _pairs(tuple((axis, sizes[axis]) for axis in CLASSES if axis in sizes))


@lru_cache(maxsize=4096)
def _pairs(sizes: tuple[tuple[str, int], ...]) -> frozenset[Pair]:
    classes = [found for axis, size in sizes if (found := class_of(axis, size))]
    return frozenset(combinations(classes, 2))


def every_pair(space: Space) -> frozenset[Pair]:
    """The pairs of classes that a spec's cases could have."""
    axes = [_classes_in(space, axis) for axis in CLASSES if axis in space]
    return frozenset(pair for one, other in combinations(axes, 2) for pair in product(one, other))


def cover(space: Space, budget: int, seed: int, *, most: int, most_places: int) -> list[Sizes]:
    """Choose sizes in which every class and as many pairs of classes occur as ``budget`` lets, the cheapest first.

    Args:
        space: the choices of a spec. An axis with a single choice keeps it.
        budget: elements of logits, as :func:`cost` counts them.
        seed: determines the sizes within each class.
        most: elements of logits in one case, counted in the same way.
        most_places: the most B·S of one case.
    """
    options = [
        (sizes, pairs_of(sizes), needed)
        for sizes in _options(space, random.Random(seed))
        if (needed := cost(sizes)) <= most and sizes.get("rows", 1) * sizes["length"] <= most_places
    ]
    missing = set(every_pair(space)) - ordinary_pairs(space)
    met = {of_axis for pair in ordinary_pairs(space) for of_axis in pair}
    chosen = []

    def worth(option: tuple[Sizes, frozenset[Pair], int]) -> tuple[bool, float]:
        _, pairs, needed = option
        first = len({of_axis for pair in pairs for of_axis in pair} - met) + len(pairs & missing & _BATCHES)
        return bool(first), (first or len(pairs & missing)) / needed

    while options := [option for option in options if option[2] <= budget and option[1] & missing]:
        sizes, pairs, needed = max(options, key=worth)
        chosen.append(sizes)
        missing -= pairs
        met.update(of_axis for pair in pairs for of_axis in pair)
        budget -= needed
    return chosen


def affordable(recipes: Iterable[R], budget: int) -> Iterator[R]:
    """The cases that a budget reaches, each if what the ones before it leave is enough."""
    for recipe in recipes:
        if (needed := cost(sizes_of(recipe))) <= budget:
            budget -= needed
            yield recipe


def ordinary_pairs(space: Space) -> set[Pair]:
    """The pairs that the ordinary cases of a space have."""
    found: set[Pair] = set()
    axes = [axis for axis in CLASSES if axis in space]
    for one, other in combinations(axes, 2):
        for sizes in product(space[one], space[other]):
            found |= pairs_of(dict(zip((one, other), sizes, strict=True)))
    return found


def _classes_in(space: Space, axis: str) -> tuple[SizeClass, ...]:
    """The classes of an axis, or the one of its only choice."""
    if len(space[axis]) > 1:
        return tuple(of_axis for of_axis in CLASSES[axis] if _choices(space, axis, of_axis))
    only = class_of(axis, space[axis][0])
    return (only,) if only else ()


def _options(space: Space, drawn: random.Random) -> Iterator[Sizes]:
    """One case for each combination of classes."""
    axes = {axis: _classes_in(space, axis) or (None,) for axis in CLASSES if axis in space}
    turns = drawn.sample(_AIMS, len(_AIMS))
    for number, classes in enumerate(list(product(*axes.values())) * _DRAWS):
        of = dict(zip(axes, classes, strict=True))
        sizes = {axis: drawn.choice(_choices(space, axis, of[axis])) for axis in axes if axis != "length"}
        aims = [turns[(number + turn) % len(turns)] for turn in range(len(turns))]
        wanted = of["length"]
        if wanted is None or set(space["length"]) & set(_within(wanted, space["length"])):
            sizes["length"] = drawn.choice(_choices(space, "length", wanted))
        else:
            rows = sizes.get("rows", 1)
            sizes["length"] = drawn.choice(next(filter(None, (aim.lengths(wanted, rows) for aim in aims))))
        yield sizes


class _Aim(NamedTuple):
    """The number that is to be round, or one off: S − ``dropped``, times B if ``by_rows``."""

    off: int
    dropped: int
    by_rows: bool

    def lengths(self, wanted: SizeClass, rows: int) -> list[int]:
        """The lengths of a class for which it is so."""
        times = rows if self.by_rows else 1
        found = [(number + self.off) / times + self.dropped for number in _ROUND]
        return [int(length) for length in found if length.is_integer() and wanted.holds(int(length))]


_AIMS = [_Aim(*parts) for parts in product((-1, 0, 1), (0, 1), (False, True))]


def _choices(space: Space, axis: str, wanted: SizeClass | None) -> Sequence[int]:
    """The sizes of a class: those of the space, or else those at which code changes its path."""
    if wanted is None:
        return space[axis]
    ordinary = list(_within(wanted, space[axis]))
    if ordinary:
        return ordinary
    if axis == "codebooks":
        return range(wanted.least, wanted.most + 1)
    if axis == "hidden_size":
        return range(wanted.least, wanted.most + 1, HIDDEN_MULTIPLE)
    near = [number + off for number in _ROUND for off in (-1, 0, 1)]
    return sorted({*_within(wanted, near), *(_within(wanted, _VOCABULARIES) if axis == "classes" else ())})


def _within(wanted: SizeClass, sizes: Iterable[int]) -> Iterator[int]:
    return (size for size in sizes if wanted.holds(size))
