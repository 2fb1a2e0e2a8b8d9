"""What is drawn: the space of recipes under a spec, simplest values first.

The space is written down once, as choices a field. Hypothesis draws from it and shrinks towards its front; the plain
loop over seeds draws from the same lists.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

from shiftproof.reference.spec import Denominator, Documents, Extra, LossSpec

from .recipe import Count, Ids, Mask, Recipe, ShiftLabels

Space = Mapping[str, tuple[Any, ...]]
"""Field of a recipe -> its choices, simplest first."""

_MASKS: tuple[tuple[Mask, ...], ...] = (
    (Mask.NONE,),
    (Mask.NONE, Mask.PROMPT),
    (Mask.PADDING, Mask.NONE),
    (Mask.FIRST, Mask.NONE, Mask.PROMPT),
    (Mask.PROMPT, Mask.NONE, Mask.HOLES),
    (Mask.NONE, Mask.ALL, Mask.PADDING),
    (Mask.LEFT, Mask.HOLES),
    (Mask.HOLES, Mask.NONE, Mask.LAST_ONLY, Mask.PADDING),
)


def space(spec: LossSpec, takes: frozenset[str], dtype: str = "float32") -> Space:
    """The choices of every field that matters for ``spec`` and a candidate that asks for the arguments ``takes``."""
    term = spec.terms[0]
    choices: dict[str, tuple[Any, ...]] = {
        "rows": (1, 2, 3, 4, 5),
        "length": (2, 3, 4, 5, 6, 7, 8, 9, 12, 17),
        "classes": (2, 3, 5, 7, 11, 17, 32, 101, 128, 257),
        "masks": _MASKS,
        "ids": (Ids.COUNTING, Ids.SEEDED, Ids.EDGES),
        "seed": tuple(range(1000)),
        "dtype": (dtype,),
    }
    if term.documents is not Documents.NONE:
        choices["documents"] = (2, 1, 3)
        choices["boundaries_ignored"] = (False, False, True)
    elif takes & {"position_ids", "cu_seqlens", "segment_ids"}:
        # The loss itself does not look at documents, so their boundaries come ignored already, as collators leave them.
        choices["documents"] = (1, 2, 3)
        choices["boundaries_ignored"] = (True,)
    if term.extra is Extra.PREFIX:
        choices["extra"] = (0, 1, 2, 5)
    elif term.extra is Extra.SUFFIX:
        choices["extra"] = (1,)
    if term.denominator is Denominator.NUM_ITEMS:
        choices["count"] = (Count.VALID, Count.GLOBAL)
    elif term.denominator is Denominator.NUM_ITEMS_OR_VALID and "num_items_in_batch" in takes:
        choices["count"] = (Count.ABSENT, Count.VALID, Count.GLOBAL)
    if term.accepts_shift_labels and "shift_labels" in takes:
        choices["shift_labels"] = (ShiftLabels.ABSENT, ShiftLabels.PADDED, ShiftLabels.SHARDED)
    return choices


def recipes(choices: Space) -> st.SearchStrategy[Recipe]:
    """A Hypothesis strategy over the space; shrinks each field towards the front of its choices."""
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in choices.items()}).map(
        lambda fields: Recipe(**fields)
    )


def plain(choices: Space, seed: int) -> Iterator[Recipe]:
    """Recipes without end from a seed, without Hypothesis: an order of magnitude cheaper a case."""
    rng = random.Random(seed)
    while True:
        yield Recipe(**{name: rng.choice(values) for name, values in choices.items()})


def killers(choices: Space) -> list[Recipe]:
    """A few hand-made cases, every row a different mask, that tell most bugs from right at once."""
    simplest = Recipe(**{name: values[0] for name, values in choices.items()})
    mixed = (Mask.NONE, Mask.PROMPT, Mask.HOLES, Mask.PADDING)
    several = max(choices.get("documents", (1,)))
    cases = [
        replace(simplest, rows=2, length=4, classes=11),
        replace(simplest, rows=4, length=7, classes=128, masks=mixed, documents=several, seed=1),
        replace(simplest, rows=3, length=9, classes=29, masks=(Mask.NONE, Mask.ALL, Mask.FIRST), seed=2),
        replace(simplest, rows=5, length=8, classes=3, masks=mixed, ids=Ids.SEEDED, documents=several, seed=3),
        replace(simplest, rows=3, length=9, classes=101, masks=(Mask.NONE,), ids=Ids.EDGES, seed=4),
        replace(simplest, rows=2, length=13, classes=128, masks=(Mask.HOLES, Mask.LEFT), documents=several, seed=5),
    ]
    for name in ("count", "shift_labels", "extra"):
        values = choices.get(name, ())
        cases += [replace(cases[1], **{name: value}) for value in values[1:]]
        cases += [replace(cases[4], **{name: value}) for value in values[1:]]
    return cases


@dataclass(frozen=True)
class Large:
    """Sizes past those where cheap bugs hide."""

    rows: int
    length: int
    classes: int


LARGE = (
    Large(rows=2, length=5, classes=70001),  # beyond 16 bits of class id
    Large(rows=1, length=4099, classes=7),  # a long row, no multiple of any chunk
    Large(rows=257, length=9, classes=13),  # many rows
    Large(rows=3, length=67, classes=4099),
)


def large(choices: Space, seed: int) -> list[Recipe]:
    """One case of each large size, the rest of its fields drawn plainly."""
    drawn = plain(choices, seed)
    return [
        replace(recipe, rows=size.rows, length=size.length, classes=size.classes, ids=Ids.SEEDED)
        for size, recipe in zip(LARGE, drawn, strict=False)
    ]
