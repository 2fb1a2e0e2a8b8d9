"""Shrink a failing recipe to the simplest one that fails in the same way.

Hypothesis shrinks only what Hypothesis drew. A failure here may also come from a hand-made case or the plain loop, and
must keep its way of failing while it shrinks. So recipes are shrunk directly: one field at a time, simplest value
first, until no field can be made simpler.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .recipe import (
    AudioClasses,
    AudioLength,
    Count,
    Delay,
    Hollow,
    Ids,
    Mask,
    Recipe,
    Regime,
    ShiftLabels,
    Streams,
    Stride,
    Weights,
)

R = TypeVar("R")

# Field -> its values, simplest first. A value that is not listed is the least simple.
_LADDERS: dict[str, tuple[Any, ...]] = {
    "documents": (1, 2),
    "boundaries_ignored": (False, True),
    "streams": (Streams.BOTH, Streams.FIRST, Streams.SECOND),
    "delay": (Delay.NONE, Delay.STEP),
    "hollow": (Hollow.NONE, Hollow.LAST, Hollow.FIRST),
    "audio_classes": (AudioClasses.MORE,),
    "audio_length": (AudioLength.SAME,),
    "weights": (Weights.QUARTERS,),
    "ids": (Ids.COUNTING, Ids.SEEDED),
    "count": (Count.ABSENT, Count.VALID),
    "shift_labels": (ShiftLabels.ABSENT, ShiftLabels.PADDED),
    "regime": (Regime.CALM, Regime.NORMAL),
    "stride": (Stride.CONTIGUOUS, Stride.TRANSPOSED),
    "label_dtype": ("int64",),
}


@dataclass(frozen=True)
class Effort:
    """The limits of shrinking: attempts, and seconds. A candidate that hangs costs one deadline per attempt."""

    attempts: int = 250
    seconds: float = 8.0


def shrink(recipe: R, still_fails: Callable[[R], bool], effort: Effort, simpler_than: Callable[[R], Iterator[R]]) -> R:
    """Return the simplest recipe found from ``recipe`` for which ``still_fails`` holds. ``recipe`` itself must fail."""
    deadline = time.monotonic() + effort.seconds
    left = effort.attempts
    tried = {recipe}
    improved = True
    while improved:
        improved = False
        for simpler in simpler_than(recipe):
            if simpler in tried:
                continue
            tried.add(simpler)
            if left == 0 or time.monotonic() > deadline:
                return recipe
            left -= 1
            if still_fails(simpler):
                recipe, improved = simpler, True
                break
    return recipe


def simplifications(recipe: Recipe) -> Iterator[Recipe]:
    """Yield simpler recipes, the largest steps first: all fields at once, then one field at a time."""
    plain = replace(
        recipe,
        masks=(Mask.NONE,),
        documents=1,
        boundaries_ignored=False,
        extra=min(recipe.extra, 1),
        streams=Streams.BOTH,
        delay=Delay.NONE,
        hollow=Hollow.NONE,
        audio_classes=AudioClasses.MORE,
        audio_length=AudioLength.SAME,
        ids=Ids.COUNTING,
        count=Count.ABSENT,
        weights=Weights.QUARTERS,
        shift_labels=ShiftLabels.ABSENT,
        regime=Regime.CALM,
        stride=Stride.CONTIGUOUS,
        label_dtype="int64",
        seed=0,
    )
    for codebooks in sorted({min(recipe.codebooks, most) for most in (1, 2, 3)}):
        for rows, length in ((1, 2), (1, 3), (2, 2), (2, 3)):
            if rows <= recipe.rows and length <= recipe.length:
                small = replace(plain, rows=rows, length=length, codebooks=codebooks)
                # One id for every label place and a few more, for laws that read places. Then only two.
                for classes in (max(rows * length * codebooks + 3, 7), 2):
                    yield replace(small, classes=min(recipe.classes, classes))
    yield plain
    for rows in _below(recipe.rows, 1):
        yield replace(recipe, rows=rows, masks=recipe.masks[:rows])
        if rows:
            yield replace(recipe, rows=rows, masks=recipe.masks[-rows:])
    if recipe.rows > 1 and recipe.length > 1 and Mask.ALL in recipe.masks:
        # An ignored position in place of an ignored row. Three positions are fewer than two rows of two.
        for mask in (Mask.PADDING, Mask.PROMPT):
            yield replace(recipe, rows=1, length=recipe.length + 1, masks=(mask,))
    for length in _below(recipe.length, 1):
        yield replace(recipe, length=length)
    for codebooks in _below(recipe.codebooks, 1):
        yield replace(recipe, codebooks=codebooks)
    for masks in _simpler_masks(recipe.masks):
        yield replace(recipe, masks=masks)
    for name, ladder in _LADDERS.items():
        value = getattr(recipe, name)
        for simpler in ladder[: ladder.index(value)] if value in ladder else ladder:
            yield replace(recipe, **{name: simpler})
    for extra in _below(recipe.extra, 0):
        yield replace(recipe, extra=extra)
    # Other widths than multiples of 32 are not those of models.
    for hidden_size in (*((0,) if not recipe.dense else ()), *(2**power for power in range(5, 12))):
        if hidden_size < recipe.hidden_size:
            yield replace(recipe, hidden_size=hidden_size)
    for classes in _below(recipe.classes, 2):
        yield replace(recipe, classes=classes)
    for seed in _below(recipe.seed, 0)[:3]:
        yield replace(recipe, seed=seed)


def _below(value: int, least: int) -> list[int]:
    """Smaller values: the smallest few, and points that approach the value by halves, so that few tries are needed."""
    near = range(least, min(value, least + 4))
    halves = []
    step = value - least
    while step > 1:
        step //= 2
        halves.append(value - step)
    return sorted({*near, *halves} - {value})


def _simpler_masks(masks: tuple[Mask, ...]) -> Iterator[tuple[Mask, ...]]:
    if masks != (Mask.NONE,):
        yield (Mask.NONE,)
    if len(masks) > 1:
        for mask in masks:
            yield (mask,)
        for index in range(len(masks)):
            yield masks[:index] + masks[index + 1 :]
    for index, mask in enumerate(masks):
        for simpler in (Mask.NONE, Mask.FIRST):
            if mask not in (Mask.NONE, simpler):
                yield (*masks[:index], simpler, *masks[index + 1 :])
