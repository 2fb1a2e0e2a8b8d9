"""Cells, the parts of the space of cases: structure × regime × dtype × reduction.

A recipe has one regime, one dtype and one reduction, and every structure that is true of it. They are read off the
recipe, so that counting a case costs almost nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple

from shiftproof.reference.spec import LossSpec

from .generators import R
from .recipe import (
    AudioClasses,
    AudioLength,
    Count,
    Delay,
    Hollow,
    Ids,
    Mask,
    Recipe,
    ShiftLabels,
    Streams,
    Stride,
    Weights,
)
from .sizes import Pair, pairs_of, sizes_of


class Cell(NamedTuple):
    """One part of the space. For a label builder, which takes integers, the regime is how ids are chosen."""

    structure: str
    regime: str
    dtype: str
    reduction: str

    def __str__(self) -> str:
        return " × ".join(self)


Sorting = Callable[[R], tuple[Cell, ...]]
"""The cells that a recipe is in."""


class CellCounts(Generic[R]):
    """The number of cases that each law has judged in each cell."""

    def __init__(self, sort: Sorting[R]) -> None:
        self.sort: Sorting[R] = sort
        self.by_law: dict[str, Counter[Cell]] = {}
        self.decided: set[Cell] = set()  # the cells that a deciding law has judged
        self.sizes: Counter[Pair] = Counter()  # the cases that deciding laws have judged in each pair of size classes
        self.largest: dict[str, int] = {}  # the largest size on each axis that a deciding law has judged

    def note(self, law: str, recipe: R, decides: bool) -> None:
        """Record that the law with this id has judged a recipe. ``decides`` is true for a MUST."""
        cells = self.sort(recipe)
        self.by_law.setdefault(law, Counter()).update(cells)
        if decides:
            self.decided.update(cells)
            sizes = sizes_of(recipe)
            self.sizes.update(pairs_of(sizes))
            for axis, size in sizes.items():
                self.largest[axis] = max(size, self.largest.get(axis, 0))


_MASKS = {
    Mask.FIRST: "first label ignored",
    Mask.PROMPT: "prompt ignored",
    Mask.PADDING: "right padding",
    Mask.LEFT: "left padding",
    Mask.HOLES: "holes",
    Mask.LAST_ONLY: "last label alone",
}
_KEEPS_FIRST = {Mask.NONE, Mask.HOLES, Mask.PADDING}
_STREAMS = {
    Streams.FIRST: "second stream empty",
    Streams.SECOND: "first stream empty",
    Streams.NEITHER: "everything ignored",
}
_DELAYS = {Delay.STEP: "delays 0, 1, 2, …", Delay.AFTER_FIRST: "delays 0, 1, 1, …"}
_HOLLOW = {
    Hollow.FIRST: "first codebook empty",
    Hollow.LAST: "last codebook empty",
    Hollow.ALTERNATE: "every second codebook empty",
    Hollow.DROPPED: "last codebook empty after the shift",
}
_WEIGHTS = {Weights.ZEROS: "weights of 0", Weights.TENTHS: "weights that bf16 cannot hold"}
_SHIFT_LABELS = {ShiftLabels.PADDED: "shift_labels", ShiftLabels.SHARDED: "shift_labels of a shard"}
_COUNTS = {
    Count.ABSENT: "",
    Count.VALID: ", count given",
    Count.FEWER: ", smaller count given",
    Count.GLOBAL: ", larger count given",
}


def loss_cells(spec: LossSpec) -> Sorting[Recipe]:
    """Return the function from a recipe to its cells under ``spec``.

    The reduction of a cell is the spec's, with the num_items_in_batch that the case passes.
    """
    reduction = str(spec.terms[0].reduction)
    several = [name != "labels" for name in spec.labels if "k" in spec.axes_of(name)]
    plain = len(several) < len(spec.labels)

    def masks(recipe: Recipe) -> set[Mask]:
        """The masks that are used by a row, or by a row of a codebook."""
        rows, books = recipe.rows, recipe.codebooks
        taken = set(range(rows)) if plain else set()
        for start in several if rows else ():
            taken.update(range(start, start + rows + books - 1))
        return {recipe.masks[index % len(recipe.masks)] for index in taken}

    def sort(recipe: Recipe) -> tuple[Cell, ...]:
        setting = str(recipe.regime), recipe.dtype, reduction + _COUNTS[recipe.count]
        found = dict.fromkeys(_structures(recipe, masks(recipe), bool(several)))
        return tuple(Cell(structure, *setting) for structure in found)

    return sort


def _structures(recipe: Recipe, masks: set[Mask], codebooks: bool) -> Iterator[str]:
    rows, length, books = recipe.rows, recipe.length, recipe.codebooks
    packed = recipe.documents > 1 and length > 1
    whole = recipe.streams is Streams.BOTH and recipe.delay is Delay.NONE and recipe.hollow is Hollow.NONE
    yield "no rows" if not rows else "one row" if rows == 1 else "several rows"
    if length <= 2:
        yield ("no positions", "one position", "two positions")[length]
    if recipe.classes == 2:
        yield "two classes"
    if length > 1:
        if masks & _KEEPS_FIRST and whole and not (packed and recipe.boundaries_ignored):
            yield "first label kept"
        yield from (name for mask, name in _MASKS.items() if mask in masks and (length > 2 or mask is not Mask.HOLES))
    if len(masks) > 1:
        yield "rows masked differently"
    if Mask.ALL in masks:
        yield "everything ignored" if len(masks) == 1 else "a row all ignored"
    if packed:
        yield "documents, boundaries ignored" if recipe.boundaries_ignored else "documents"
    if recipe.extra:
        yield "extra logits"
    if recipe.ids is Ids.EDGES:
        yield "ids 0 and V−1"
    if recipe.shift_labels in _SHIFT_LABELS:
        yield _SHIFT_LABELS[recipe.shift_labels]
    if recipe.streams in _STREAMS:
        yield _STREAMS[recipe.streams]
    if recipe.weights in _WEIGHTS:
        yield _WEIGHTS[recipe.weights]
    if recipe.audio_classes is AudioClasses.FEWER:
        yield "fewer classes of audio than of text"
    if recipe.audio_length is not AudioLength.SAME:
        yield f"audio {recipe.audio_length} than text"
    if recipe.stride is not Stride.CONTIGUOUS:
        yield f"{recipe.stride} logits"
    if recipe.label_dtype != "int64":
        yield f"{recipe.label_dtype} labels"
    if codebooks:
        yield from _structures_of_codebooks(recipe, books)


def _structures_of_codebooks(recipe: Recipe, books: int) -> Iterator[str]:
    if books == 1:
        yield "one codebook"
        return
    if books == recipe.length:
        yield "as many codebooks as positions"
    if recipe.delay in _DELAYS:
        yield _DELAYS[recipe.delay]
    if recipe.hollow in _HOLLOW:
        yield _HOLLOW[recipe.hollow]
