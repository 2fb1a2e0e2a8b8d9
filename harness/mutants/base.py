"""The definition of a mutant: a known-wrong loss, as a wrong pairing derived from the right spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Group, Pair, Pairing, Rule, assemble, divide_by, select
from shiftproof.reference.spec import LossSpec, LossTerm

Wrong = Callable[[LossSpec, Batch], Pairing | None]
"""Returns the pairs that a buggy loss would use on a batch, or None if the bug is impossible under this spec."""

Choose = Callable[[LossTerm, Batch, int], list[Pair]]
"""Selects the pairs of a term that count, not yet divided: the reference's ``select``, or another bug's version."""


class NotPossible(Exception):
    """Raised while pairs are chosen, if the bug that chooses them is impossible."""


WrongOver = Callable[[LossSpec, Batch, Choose], Pairing | None]
"""Like :data:`Wrong`, over pairs that were chosen in any way."""


@dataclass(frozen=True)
class BugVariant:
    """One way to write a bug: the same name with another constant.

    ``over`` applies the bug to pairs that another bug chose. It is None for a bug that chooses all of its pairs itself.
    """

    detail: str
    wrong: Wrong
    over: WrongOver | None = None


@dataclass(frozen=True)
class Mutant:
    """A re-enacted bug that shipped.

    Attributes:
        name: the name of the bug, as in the diagnosis.
        formula: what is computed instead; z = logits, y = labels.
        tells: the smallest input on which it differs from the right loss.
        seen: where the bug happened.
        variants: the ways in which it is written.
        needs: what a spec must have for the bug, if not every spec has it.
        whole: True if the mutant is written for whole specs of any kind. Otherwise it is written for one text loss with
            logits [B, L, V] and labels [B, S], and ``views.py`` finds such losses in larger specs.
    """

    name: str
    formula: str
    tells: str
    seen: str
    variants: tuple[BugVariant, ...]
    whole: bool = False
    needs: str = ""


def mutant(
    name: str, *, formula: str, tells: str, seen: str, whole: bool = False, needs: str = "", over: bool = False
) -> Callable[[Callable[..., Pairing | None]], Mutant]:
    """Make a mutant from one function of (spec, batch), or of (spec, batch, choose) if it is ``over`` chosen pairs."""

    def make(wrong: Callable[..., Pairing | None]) -> Mutant:
        return Mutant(name, formula, tells, seen, (BugVariant("", wrong, wrong if over else None),), whole, needs)

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
    """Make a mutant with one variant per value from one function of (spec, batch, value). See :func:`mutant`."""

    def make(wrong: Callable[..., Pairing | None]) -> Mutant:
        def variant(value: object) -> BugVariant:
            return BugVariant(
                str(value),
                lambda spec, batch: wrong(spec, batch, value),
                (lambda spec, batch, choose: wrong(spec, batch, value, choose)) if over else None,
            )

        return Mutant(name, formula, tells, seen, tuple(variant(value) for value in values), whole, needs)

    return make


def respecified(spec: LossSpec, batch: Batch, choose: Choose = select, **fields: object) -> Pairing:
    """Return the pairing of the same loss with some fields of its term changed."""
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
    """Return the pairing of other pairs (not yet divided), over their own denominator unless one is given."""
    total = divide_by(term or spec.terms[0], batch, pairs) if denominator is None else denominator
    return assemble(spec, batch, [[Group(pairs, total, 1.0)]])


@lru_cache(maxsize=1024)
def rule_of(term: LossTerm, batch: Batch) -> Rule:
    """Return the rule for what counts in a batch. It is made once, because a mutant asks about many places."""
    return Rule(term, batch)


def right_pairs(spec: LossSpec, batch: Batch) -> list[Pair]:
    """Return the right pairs, not yet divided."""
    return select(spec.terms[0], batch)
