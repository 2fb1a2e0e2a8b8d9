"""What would tell two specs apart, in words that a user can act on."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from shiftproof.reference.batch import BatchError
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.spec import LossSpec

from .cases import build_case
from .compare import same_value
from .recipe import Mask
from .strategies import killers, plain, space

_DRAWN = 60
_NEAR = 1e-9  # float64 values of one batch that are no further apart are the same
_OPTIONAL = ("num_items_in_batch", "shift_labels")  # what a loss may be called with and without


def tell_apart(one: LossSpec, other: LossSpec, takes: frozenset[str]) -> str:
    """What tells ``one`` from ``other`` for a loss that takes these arguments, or that nothing does, and why."""
    found = _difference(one, other, takes - frozenset(_OPTIONAL))
    if found:
        return f"differs from {other.name} {found}"
    for name in sorted(_OPTIONAL, key=lambda name: name not in takes):
        if _difference(one, other, (takes - frozenset(_OPTIONAL)) | {name}):
            here = "" if name in takes else ", which this loss does not take: here they are the same"
            return f"differs from {other.name} only where {name} is given{here}"
    return f"is {other.name} on every case drawn"


def _difference(one: LossSpec, other: LossSpec, takes: frozenset[str]) -> str:
    """On what kind of batch the right answers differ, one with pairs if there is one; "" where none was drawn."""
    empty = ""
    for spec in (one, other):
        drawn = space(spec, takes)
        ordinary = [*killers(drawn), *islice(plain(drawn, 1), _DRAWN)]
        for recipe in (*ordinary, replace(ordinary[0], masks=(Mask.ALL,))):
            batch = build_case(spec, recipe).batch
            try:
                pairings = build_pairing(one, batch), build_pairing(other, batch)
            except BatchError:
                continue  # not a batch of both
            first, second = (evaluate(pairing, batch).value for pairing in pairings)
            if first is None or second is None or same_value(first, second, _NEAR):
                continue
            if pairings[0].pairs:
                return f"on ordinary batches ({first:.4g} against {second:.4g} on one)"
            empty = empty or f"on a batch where nothing is left to train on ({first:g} against {second:g})"
    return empty
