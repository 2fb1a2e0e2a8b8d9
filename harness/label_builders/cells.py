"""The cells in which the cases of label builders are counted."""

from __future__ import annotations

from collections.abc import Iterator

from shiftproof.reference.builders import BuilderSpec

from ..cases.cells import Cell, Sorting
from .cases import BuilderRecipe


def builder_cells(spec: BuilderSpec) -> Sorting[BuilderRecipe]:
    """Return the cells of a builder's recipes. Nothing is reduced."""
    family = spec.name.partition(".")[0]

    def sort(recipe: BuilderRecipe) -> tuple[Cell, ...]:
        setting = str(recipe.ids), recipe.dtype, "none"
        return tuple(Cell(structure, *setting) for structure in _structures_built(recipe, family))

    return sort


def _structures_built(recipe: BuilderRecipe, family: str) -> Iterator[str]:
    if family != "packing":
        yield "one row" if recipe.rows == 1 else "several rows"
    if recipe.length <= 2:
        yield ("one position", "two positions")[recipe.length - 1]
    if recipe.vocab == 2:
        yield "two ordinary ids"
    if recipe.ignore_index != -100:
        yield "another ignore_index"
    match family:
        case "delay":
            yield "one codebook" if recipe.codebooks == 1 else f"{recipe.pattern} delays"
            if 1 < recipe.codebooks == recipe.length:
                yield "as many codebooks as positions"
        case "packing":
            yield "one document" if recipe.documents == 1 else "several documents"
        case "mask":
            yield f"padding: {recipe.padding}"
            yield "one turn" if recipe.turns == 1 else "several turns"
            if recipe.eos_is_pad:
                yield "EOS is the padding"
