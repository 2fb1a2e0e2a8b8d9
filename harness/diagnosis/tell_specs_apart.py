"""How two specs differ, in words that a user can act on."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from shiftproof.reference.batch import BatchError
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.spec import LossSpec

from ..bounds.compare import same_value
from ..cases.build import build_case
from ..cases.recipe import Mask
from ..cases.space import hand_made, random_recipes, space

_DRAWN = 60
_NEAR = 1e-9  # two float64 values of one batch count as the same up to this difference
_OPTIONAL = ("num_items_in_batch", "shift_labels")  # a loss can be called with and without these


def tell_apart(one: LossSpec, other: LossSpec, takes: frozenset[str]) -> str:
    """State how ``one`` differs from ``other`` for a loss that takes these arguments, or that nothing shows it."""
    found = _difference(one, other, takes - frozenset(_OPTIONAL))
    if found:
        return f"differs from {other.name} {found}"
    for name in sorted(_OPTIONAL, key=lambda name: name not in takes):
        if _difference(one, other, (takes - frozenset(_OPTIONAL)) | {name}):
            here = "" if name in takes else ", which this loss does not take, so here they are the same"
            return f"differs from {other.name} only where {name} is given{here}"
    return f"is {other.name} on every case drawn"


def _difference(one: LossSpec, other: LossSpec, takes: frozenset[str]) -> str:
    """State on what kind of batch the right answers differ, one with pairs if possible; "" if none was drawn."""
    empty = ""
    for spec in (one, other):
        drawn = space(spec, takes)
        ordinary = [*hand_made(drawn), *islice(random_recipes(drawn, 1), _DRAWN)]
        for recipe in (*ordinary, replace(ordinary[0], masks=(Mask.ALL,))):
            batch = build_case(spec, recipe).batch
            try:
                pairings = build_pairing(one, batch), build_pairing(other, batch)
            except BatchError:
                continue  # not a valid batch for both specs
            first, second = (evaluate(pairing, batch).value for pairing in pairings)
            if first is None or second is None or same_value(first, second, _NEAR):
                continue
            if pairings[0].pairs:
                return f"on ordinary batches ({first:.4g} against {second:.4g} on one)"
            empty = empty or f"on a batch where nothing is left to train on ({first:g} against {second:g})"
    return empty
