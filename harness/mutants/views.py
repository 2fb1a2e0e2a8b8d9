"""The text losses within a larger loss. With them, a bug written for one text loss is a bug of any spec.

A codebook is a text stream of its own, with the labels ``labels[..., k]``. If all codebooks share a denominator, labels
[B, S, K] are B·K rows of S. Each head that predicts further ahead is a text loss too. If the shift runs along the
codebooks, each frame is a row of K. A :class:`View` is one of these text losses, with the way back to the whole loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import (
    Pair,
    Pairing,
    Place,
    assemble,
    build_pairing,
    codebook_weights,
    divide_by,
    group,
    heads_of,
    select,
)
from shiftproof.reference.spec import Axis, Combine, Denominator, Empty, Heads, LossSpec, LossTerm, Reduction

from .base import BugVariant, Choose, Mutant, NotPossible

_REMEMBERED = 256  # batches; hundreds of mutants ask about the same batches in turn


@dataclass(frozen=True)
class View:
    """One text loss within a term.

    ``batch`` has its labels [rows, S] and logits of the matching shape. ``place`` maps its places (True: of the logits)
    back to those of the term. ``share`` is its share of the term.
    """

    spec: LossSpec
    batch: Batch
    place: Callable[[Place, bool], Place]
    share: float


def variants_under(mutant: Mutant, spec: LossSpec) -> Iterator[BugVariant]:
    """Yield every variant of a mutant under ``spec``: in all of its terms, and in each term alone."""
    only = spec.terms[0]
    plain = len(spec.terms) == 1 and only.heads is Heads.ONE and (only.logits, only.labels) == ("logits", "labels")
    if mutant.whole or plain:
        yield from mutant.variants
        return
    everywhere = tuple(range(len(spec.terms)))
    scopes = [(everywhere, ""), *(((index,), spec.terms[index].name) for index in everywhere if len(everywhere) > 1)]
    # Codebooks that share a denominator are rows of one text loss, or separate text losses that are summed.
    apart = any(term.heads is Heads.CODEBOOKS and term.combine is Combine.FLAT for term in spec.terms)
    for variant in mutant.variants:
        for terms, name in scopes:
            for each in (False, True) if apart else (False,):
                parts = (variant.detail, name and f"in {name}", each and "codebook by codebook")
                yield _within(variant, ", ".join(part for part in parts if part), terms, each)


def _within(variant: BugVariant, detail: str, terms: tuple[int, ...], apart: bool) -> BugVariant:
    """Apply ``variant`` to every text loss of these terms, with the other terms right.

    The result is None if the bug is impossible in one of the text losses.
    """
    alone, over = variant.wrong, variant.over

    def lifted(spec: LossSpec, batch: Batch) -> Pairing | None:
        return _lift(_right(spec, batch), spec, batch, terms, apart, lambda view, _: alone(view.spec, view.batch))

    def lifted_over(spec: LossSpec, batch: Batch, choose: Choose) -> Pairing | None:
        assert over is not None
        groups = [group(term, batch, choose(term, batch, index)) for index, term in enumerate(spec.terms)]

        def of_view(view: View, index: int) -> Pairing | None:
            return over(view.spec, view.batch, _seen_in(view, spec.terms[index], batch, index, choose))

        return _lift(assemble(spec, batch, groups), spec, batch, terms, apart, of_view)

    return BugVariant(detail, lifted, lifted_over if over else None)


def _lift(
    rest: Pairing,
    spec: LossSpec,
    batch: Batch,
    terms: tuple[int, ...],
    apart: bool,
    of_view: Callable[[View, int], Pairing | None],
) -> Pairing | None:
    """Return the pairs from ``of_view`` for every text loss of these terms, and those of ``rest`` for other terms."""
    pairs = [pair for pair in rest.pairs if pair.term not in terms]
    for index in terms:
        term, of_term = spec.terms[index], []
        for view in views(term, batch, apart):
            pairing = of_view(view, index)
            if pairing is None:
                return None
            of_term += [
                Pair(index, view.place(at, True), view.place(label, False), target, weight * view.share)
                for _, at, label, target, weight in pairing.pairs
            ]
        if term.combine is Combine.MEAN_NONEMPTY:  # the mean is over the codebooks that still have wrong pairs
            over = float(len({pair.logit[2] for pair in of_term})) or 1.0
        else:
            over = divide_by(term, batch, of_term) if _shares_denominator(term, apart) else 1.0
        pairs += [pair._replace(weight=term.weight * pair.weight / over) for pair in of_term if over]
    inside = [pair for pair in pairs if _is_inside(pair.logit, rest.shapes[spec.terms[pair.term].logits])]
    return replace(rest, pairs=tuple(sorted(inside, key=lambda pair: (pair.term, pair.logit))))


def _seen_in(view: View, term: LossTerm, batch: Batch, index: int, choose: Choose) -> Choose:
    """Restrict ``choose`` to one text loss: its own pairs of the whole term, at its own places."""
    (text,) = view.spec.terms
    logits = {view.place(at, True): at for at in product(*map(range, view.batch.tensor("logits").shape[:2]))}
    labels = {view.place(at, False): at for at in product(*map(range, view.batch.tensor("labels").shape))}

    def chosen(wanted: LossTerm, _: Batch, __: int) -> list[Pair]:
        changed = {
            field.name: getattr(wanted, field.name)
            for field in fields(wanted)
            if getattr(wanted, field.name) != getattr(text, field.name)
        }
        pairs = [pair for pair in choose(replace(term, **changed), batch, index) if pair.logit in logits]
        if any(pair.label not in labels for pair in pairs):
            raise NotPossible  # the first bug reads another text loss's labels
        return [pair._replace(term=0, logit=logits[pair.logit], label=labels[pair.label]) for pair in pairs]

    return chosen


@lru_cache(maxsize=_REMEMBERED)
def _right(spec: LossSpec, batch: Batch) -> Pairing:
    return build_pairing(spec, batch)


@lru_cache(maxsize=_REMEMBERED)
def views(term: LossTerm, batch: Batch, apart: bool = False) -> tuple[View, ...]:
    """Return the text losses of a term. With ``apart``, each codebook is a text loss of its own."""
    text = replace(
        term,
        weight=1.0,
        token_weights=term.token_weights or (term.combine is Combine.FLAT and bool(term.codebook_weights)),
        logits="logits",
        labels="labels",
        heads=Heads.ONE,
        axis=Axis.TIME,
        combine=Combine.FLAT,
        codebooks=None,
        codebook_weights=False,
    )
    if _shares_denominator(term, apart):
        text = replace(
            text, reduction=Reduction.SUM, denominator=Denominator.ONE, clamp=None, epsilon=0.0, empty=Empty.ZERO
        )
    labels = batch.tensor(term.labels)
    match term.heads:
        case Heads.ONE:
            return (_view(term, text, batch, labels, lambda at, _: at),)
        case Heads.FIRST:
            return (_view(term, text, batch, labels[..., 0], lambda at, of_logits: at if of_logits else (*at, 0)),)
        case Heads.AHEAD:
            return tuple(
                _view(term, replace(text, shift=term.shift + head), batch, labels, _ahead(head), share)
                for head, share in enumerate(_shares(term, batch))
            )
    if term.axis is Axis.CODEBOOK:
        length = labels.shape[1]
        frames = labels.flatten(0, 1)
        return (_view(term, text, batch, frames, lambda at, _: (*divmod(at[0], length), at[1])),)
    if term.combine is not Combine.FLAT or apart:
        return tuple(
            _view(term, text, batch, labels[..., book], lambda at, _, book=book: (*at, book), share, book)  # type: ignore[misc]
            for book, share in enumerate(_shares(term, batch))
        )
    books = labels.shape[2]
    rows = labels.transpose(1, 2).flatten(0, 1)
    return (_view(term, text, batch, rows, lambda at, _: (at[0] // books, at[1], at[0] % books)),)


def _shares_denominator(term: LossTerm, apart: bool) -> bool:
    """Return whether separate text losses share one denominator."""
    one_by_one = term.heads is Heads.AHEAD or (apart and term.heads is Heads.CODEBOOKS and term.axis is Axis.TIME)
    return one_by_one and term.combine is Combine.FLAT


def _ahead(head: int) -> Callable[[Place, bool], Place]:
    return lambda at, of_logits: (*at, head) if of_logits else at


def _shares(term: LossTerm, batch: Batch) -> list[float]:
    """Return α of every codebook or head, or 1 if α depends on which of them have a pair."""
    if term.combine in (Combine.FLAT, Combine.MEAN_NONEMPTY):
        return [1.0] * heads_of(term, batch)
    return [of_book.share for of_book in group(term, batch, select(term, batch))]


def _view(
    term: LossTerm,
    text: LossTerm,
    batch: Batch,
    labels: Tensor,
    place: Callable[[Place, bool], Place],
    share: float = 1.0,
    book: int | None = None,
) -> View:
    """Return the view of ``labels`` [rows, S]. Arrays that go with the labels get the same layout, or are left out."""
    logits, whole = batch.tensor(term.logits), batch.tensor(term.labels)
    frames = term.axis is Axis.CODEBOOK
    length = labels.shape[1] if frames else logits.shape[1]
    travels = term.labels == "labels" and not frames
    books = labels.shape[0] // max(whole.shape[0], 1) or 1

    def beside(name: str) -> Any:
        value = getattr(batch, name) if travels else None
        if value is None:
            return None
        if value.dim() == 3:
            value = value[..., book or 0] if books == 1 else value.transpose(1, 2).reshape(labels.shape)
            return value
        return value if books == 1 else value.repeat_interleave(books, 0)

    loss_mask, weights = beside("loss_mask"), beside("token_weights")
    if term.stops_at_eos:
        starts = beside("input_ids") != batch.eos_token_id
        loss_mask = starts & loss_mask.bool() if term.loss_mask else starts
        text = replace(text, stops_at_eos=False, loss_mask=True)
    if term.combine is Combine.FLAT and term.codebook_weights:
        of_books = torch.tensor(codebook_weights(term, batch))
        of_rows = of_books.repeat(whole.shape[0]) if book is None else of_books[book].expand(labels.shape[0])
        by_book = of_rows[:, None].expand(labels.shape)
        weights = by_book * weights if term.token_weights else by_book
    seen = Batch(
        logits=torch.zeros(()).expand(labels.shape[0], length, logits.shape[-1]),
        labels=labels,
        loss_mask=loss_mask,
        token_weights=weights,
        position_ids=beside("position_ids"),
        segment_ids=beside("segment_ids"),
        cu_seqlens=batch.cu_seqlens if travels and books == 1 else None,
        input_ids=beside("input_ids"),
        attention_mask=beside("attention_mask"),
        class_weights=batch.class_weights,
        num_items_in_batch=batch.num_items_in_batch,
        pad_token_id=batch.pad_token_id,
        bos_token_id=batch.bos_token_id,
        eos_token_id=batch.eos_token_id,
    )
    return View(LossSpec("view", (text,), "", ""), seen, place, share)


def _is_inside(place: Place, shape: tuple[int, ...]) -> bool:
    return all(0 <= at < extent for at, extent in zip(place, shape, strict=False))
