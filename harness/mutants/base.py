"""What a mutant is: a known-wrong loss, as a wrong pairing derived from the right spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Group, Pair, Pairing, Rule, assemble, divide_by, select
from shiftproof.reference.spec import LossSpec, LossTerm

Wrong = Callable[[LossSpec, Batch], Pairing | None]
"""The pairs a buggy loss would use on a batch, or None where the bug cannot be had under this spec."""

Choose = Callable[[LossTerm, Batch, int], list[Pair]]
"""Which pairs of a term count, not yet divided: the reference's ``select``, or what another bug makes of it."""


class CannotBeHad(Exception):
    """Raised in choosing pairs where the bug that chooses them cannot be had."""


WrongOver = Callable[[LossSpec, Batch, Choose], Pairing | None]
"""As :data:`Wrong`, over pairs that were chosen in any way."""


@dataclass(frozen=True)
class Variant:
    """One way in which a bug is written: the same name, another constant.

    ``over`` re-enacts it over pairs that another bug chose; None for a bug that chooses all of its pairs itself.
    """

    detail: str
    wrong: Wrong
    over: WrongOver | None = None


@dataclass(frozen=True)
class Mutant:
    """A bug that shipped, re-enacted.

    Attributes:
        name: the bug's name, as in the diagnosis.
        formula: what is computed instead; z = logits, y = labels.
        tells: the smallest input on which it differs from the right loss.
        seen: where it happened.
        variants: the ways in which it is written.
        needs: what a spec must have for it, where not every spec has it.
        whole: whether it is written for a whole spec of any kind; else for one text loss, logits [B, L, V] and labels
            [B, S], and ``views.py`` finds those in larger specs.
    """

    name: str
    formula: str
    tells: str
    seen: str
    variants: tuple[Variant, ...]
    whole: bool = False
    needs: str = ""


def mutant(
    name: str, *, formula: str, tells: str, seen: str, whole: bool = False, needs: str = "", over: bool = False
) -> Callable[[Callable[..., Pairing | None]], Mutant]:
    """Make a mutant of one function of (spec, batch), or, where it can be had ``over`` chosen pairs, and choose."""

    def make(wrong: Callable[..., Pairing | None]) -> Mutant:
        return Mutant(name, formula, tells, seen, (Variant("", wrong, wrong if over else None),), whole, needs)

    return make


def family(
    name: str,
    values: Iterable[object],
    *,
    formula: str,
    tells: str,
    seen: str,
    whole: bool = False,
    needs: str = "",
    over: bool = False,
) -> Callable[[Callable[..., Pairing | None]], Mutant]:
    """Make a mutant of one function of (spec, batch, value), as :func:`mutant` does, for every one of ``values``."""

    def make(wrong: Callable[..., Pairing | None]) -> Mutant:
        def variant(value: object) -> Variant:
            return Variant(
                str(value),
                lambda spec, batch: wrong(spec, batch, value),
                (lambda spec, batch, choose: wrong(spec, batch, value, choose)) if over else None,
            )

        return Mutant(name, formula, tells, seen, tuple(variant(value) for value in values), whole, needs)

    return make


def respecified(spec: LossSpec, batch: Batch, choose: Choose = select, **fields: object) -> Pairing:
    """The pairing of the same loss with some fields of its term changed."""
    term = replace(spec.terms[0], **fields)  # type: ignore[arg-type]
    return repaired(spec, batch, choose(term, batch, 0), term=term)


def repaired(
    spec: LossSpec,
    batch: Batch,
    pairs: list[Pair],
    *,
    term: LossTerm | None = None,
    denominator: float | None = None,
) -> Pairing:
    """The pairing of other pairs (not yet divided), over their own denominator unless one is given."""
    total = divide_by(term or spec.terms[0], batch, pairs) if denominator is None else denominator
    return assemble(spec, batch, [[Group(pairs, total, 1.0)]])


@lru_cache(maxsize=1024)
def rule_of(term: LossTerm, batch: Batch) -> Rule:
    """What counts in a batch, made once for the many places that a mutant asks about."""
    return Rule(term, batch)


def right_pairs(spec: LossSpec, batch: Batch) -> list[Pair]:
    """The right pairs, not yet divided."""
    return select(spec.terms[0], batch)
