"""Two bugs at once: the first chooses the pairs, and the second works over those pairs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pair, Pairing, assemble, build_pairing, group, select
from shiftproof.reference.spec import Combine, Denominator, Empty, LossSpec, LossTerm, Reduction

from .base import BugVariant, Choose, NotPossible, Wrong


def both(first: BugVariant, second: BugVariant) -> Wrong:
    """Return the pairs of a loss that has both bugs: ``second`` over the pairs that ``first`` chooses.

    Raises:
        ValueError: if ``second`` chooses all of its pairs itself.
    """
    over = second.over
    if over is None:
        raise ValueError(f"{second} chooses all of its pairs itself; it can only be the first of two bugs")

    def wrong(spec: LossSpec, batch: Batch) -> Pairing | None:
        try:
            return over(spec, batch, chosen_by(first.wrong, spec))
        except NotPossible:
            return None

    return wrong


def chosen_by(wrong: Wrong, spec: LossSpec) -> Choose:
    """Return the pairs that a bug chooses, not yet divided: its pairs under a plain sum."""

    def choose(term: LossTerm, batch: Batch, index: int) -> list[Pair]:
        terms = (*spec.terms[:index], term, *spec.terms[index + 1 :])
        pairing = _summed(wrong, replace(spec, terms=tuple(map(_undivided, terms))), batch)
        if pairing is None:
            raise NotPossible
        return [pair for pair in pairing.pairs if pair.term == index]

    return choose


def _counted_right(spec: LossSpec, batch: Batch, choose: Choose) -> Pairing | None:
    groups = []
    for index, term in enumerate(spec.terms):
        chosen = group(term, batch, choose(term, batch, index))
        right = group(term, batch, select(term, batch, index))
        if len(chosen) != len(right):
            return None
        groups.append([of._replace(denominator=own.denominator) for of, own in zip(chosen, right, strict=True)])
    return assemble(spec, batch, groups)


COUNTED_RIGHT = BugVariant("÷ the count of the right pairs", build_pairing, _counted_right)
"""Not a bug by itself: the denominator is counted separately from what is scored, and it is counted right."""


@lru_cache(maxsize=4096)
def _summed(wrong: Wrong, spec: LossSpec, batch: Batch) -> Pairing | None:
    return wrong(spec, batch)


def _undivided(term: LossTerm) -> LossTerm:
    flat = term.combine is Combine.FLAT
    return replace(
        term,
        weight=1.0,
        combine=Combine.FLAT if flat else Combine.SUM,
        codebook_weights=term.codebook_weights if flat else False,  # if flat they weigh pairs, otherwise groups
        reduction=Reduction.SUM,
        denominator=Denominator.ONE,
        clamp=None,
        epsilon=0.0,
        empty=Empty.ZERO,
    )
