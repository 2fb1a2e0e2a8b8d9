"""Check whether a mutant equals the right loss under a spec, on every small case."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import Any

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pairing, build_pairing
from shiftproof.reference.spec import LossSpec

from ..candidates.arguments import ARGUMENTS
from ..cases.build import build_batch
from ..cases.recipe import Recipe
from ..cases.space import Space, hand_made, space
from ..mutants import BugVariant
from ..probe.read import predict
from .subjects import Subject
from .trial import Bench


def _is_right_on_hand_made(variant: BugVariant, bench: Bench) -> bool:
    """Return whether the pairs are right on the hand-made cases, as those of an equivalent mutant are."""
    spec = bench.spec
    batches = (build_batch(spec, recipe) for recipe in hand_made(bench.right.space))
    return all(_same_pairs(variant.wrong(spec, batch), build_pairing(spec, batch)) for batch in batches)


def equivalent_on(subject: Subject, bench: Bench) -> int | None:
    """Return the number of small cases if a mutant is the right loss on all of them, else None."""
    if subject.variant is None or not _is_right_on_hand_made(subject.variant, bench):
        return None
    return equal_on(subject.variant, bench.spec)


def equal_on(variant: BugVariant, spec: LossSpec) -> int | None:
    """Return the number of small cases if the pairs and weights are right on all of them, else None."""
    cases = small_cases(spec)
    for batch, right in cases:
        if not _same_pairs(variant.wrong(spec, batch), right):
            return None
    return len(cases)


def _same_pairs(wrong: Pairing | None, right: Pairing) -> bool:
    """Return whether a loss over ``wrong`` equals the loss over ``right`` for any logits. None means the right one."""
    if wrong is None:
        return True
    theirs, ours = predict(wrong), predict(right)
    if theirs.keys() != ours.keys() or not _same_number(wrong.empty, right.empty):
        return False
    return all(
        theirs[site].keys() == ours[site].keys()
        and all(_same_number(theirs[site][target], weight) for target, weight in ours[site].items())
        for site in ours
    )


def _same_number(one: float | None, other: float | None) -> bool:
    if one is None or other is None or math.isnan(one) or math.isnan(other):
        return one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other))
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=0.0)


@lru_cache(maxsize=2)
def small_cases(spec: LossSpec) -> tuple[tuple[Batch, Pairing], ...]:
    """Return every structure in ``spec``'s space at two small sizes, with the right pairs.

    The structures are all combinations of masks, documents, prefixes, counts, delays, empty codebooks and streams.
    """
    choices = space(spec, frozenset(ARGUMENTS))
    structures = {name: tuple(dict.fromkeys(choices[name])) for name in _STRUCTURE if name in choices}
    batches = [
        build_batch(spec, Recipe(**size, **dict(zip(structures, values, strict=True))))
        for size in _small_sizes(choices)
        for values in product(*structures.values())
    ]
    return tuple((batch, build_pairing(spec, batch)) for batch in batches)


_STRUCTURE = (
    "masks", "documents", "boundaries_ignored", "extra", "streams", "delay", "hollow", "audio_length", "count",
    "shift_labels",
)  # fmt: skip


def _small_sizes(choices: Space) -> list[dict[str, Any]]:
    """Return sizes with one row, and with enough rows for two or three masks to differ between rows."""
    books = choices.get("codebooks", (1,))
    few, several = min(books, key=lambda k: abs(k - 2)), min(books, key=lambda k: abs(k - 3))
    classes = choices["classes"][0] if len(choices["classes"]) == 1 else 5
    return [
        {"rows": 1, "length": 3, "codebooks": few, "classes": classes},
        {"rows": 3, "length": 4, "codebooks": several, "classes": classes},
    ]
