"""Known-wrong losses of heads that predict further ahead: multi-token prediction, Medusa."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Group, Pair, Pairing, assemble, divide_by, group, heads_of, select
from shiftproof.reference.spec import Combine, Denominator, Documents, Heads, LossSpec, LossTerm, ShiftedBy

from .base import Choose, Mutant, family, mutant


def _regrouped(
    spec: LossSpec, batch: Batch, change: Callable[[LossTerm, int], list[Group] | None], choose: Choose = select
) -> Pairing | None:
    """The pairing with other groups in the terms that predict ahead; None where ``change`` has none for any of them."""
    changed = [change(term, index) if term.heads is Heads.AHEAD else None for index, term in enumerate(spec.terms)]
    if all(groups is None for groups in changed):
        return None
    return assemble(
        spec,
        batch,
        [
            group(term, batch, choose(term, batch, index)) if groups is None else groups
            for index, (term, groups) in enumerate(zip(spec.terms, changed, strict=True))
        ],
    )


@family(
    "head-off-by-one",
    ("further", "nearer"),
    formula="head d is scored one token further ahead, or one nearer, than it predicts",
    tells="one head",
    seen="an easy slip between heads counted from 0 and depths counted from 1",
    whole=True,
    needs="heads that predict further ahead",
)
def head_off_by_one(spec: LossSpec, batch: Batch, how: str) -> Pairing | None:
    def change(term: LossTerm, index: int) -> list[Group] | None:
        shift = term.shift + (1 if how == "further" else -1)
        if shift < 0:
            return None
        itself = ShiftedBy.INPUTS if term.shifted_by is ShiftedBy.LOSS and not shift else term.shifted_by
        return group(term, batch, select(replace(term, shift=shift, shifted_by=itself), batch, index))

    return _regrouped(spec, batch, change)


@family(
    "mtp-cross-document",
    ("at every depth", "after the first depth"),
    formula="head d predicts from document A into B",
    tells="2 packed documents, d = 1",
    seen="Megatron-LM#3396, MaxText",
    whole=True,
    needs="heads that predict further ahead, and documents",
    over=True,
)
def mtp_cross_document(spec: LossSpec, batch: Batch, where: str, choose: Choose = select) -> Pairing | None:
    def change(term: LossTerm, index: int) -> list[Group] | None:
        if term.documents is Documents.NONE:
            return None
        inside = choose(term, batch, index)
        everywhere = choose(replace(term, documents=Documents.NONE), batch, index)
        right = {pair.logit for pair in inside}
        first = 0 if where == "at every depth" else 1
        return group(term, batch, [pair for pair in everywhere if pair.logit in right or pair.logit[2] >= first])

    return _regrouped(spec, batch, change, choose)


@mutant(
    "mtp-scale",
    formula="each depth ÷ its own count, which shrinks as labels roll out, where the main count was promised, or the "
    "other way round",
    tells="2 heads, or one and a label that rolls out",
    seen="Megatron-LM#3159",
    whole=True,
    needs="heads that predict further ahead, divided by a count",
    over=True,
)
def mtp_scale(spec: LossSpec, batch: Batch, choose: Choose = select) -> Pairing | None:
    def change(term: LossTerm, index: int) -> list[Group] | None:
        pairs = choose(term, batch, index)
        if term.denominator is Denominator.NUM_ITEMS:
            return group(replace(term, denominator=Denominator.VALID), batch, pairs)
        if term.denominator is not Denominator.VALID:
            return None
        # Pooled heads share one denominator: the sum of their main counts.
        count = _main_count(term, batch) * (heads_of(term, batch) if term.combine is Combine.FLAT else 1)
        return [of_group._replace(denominator=count) for of_group in group(term, batch, pairs)]

    return _regrouped(spec, batch, change, choose)


def _main_count(term: LossTerm, batch: Batch) -> float:
    """Return the denominator that plain next-token prediction would use on the labels of such a term."""
    main = replace(
        term,
        heads=Heads.ONE,
        shift=1 if term.shifted_by is ShiftedBy.LOSS else 0,
        combine=Combine.FLAT,
        codebook_weights=False,
    )
    return divide_by(main, batch, select(main, batch))


@family(
    "mtp-mask-not-rolled",
    ("zeros roll in", "nothing rolls in"),
    formula="the labels roll with the depth and the mask stays, so that it lies on other labels",
    tells="one head, a mask that is not all ones",
    seen="verl#3287 for a mask that is not shifted with its labels",
    whole=True,
    needs="heads that predict further ahead, and a mask",
)
def mtp_mask_not_rolled(spec: LossSpec, batch: Batch, fill: str) -> Pairing | None:
    def change(term: LossTerm, index: int) -> list[Group] | None:
        if not term.loss_mask or term.ignore_index is not None:
            return None
        mask, labels = batch.tensor("loss_mask").tolist(), batch.tensor(term.labels).tolist()
        rows, length, heads, _ = batch.tensor(term.logits).shape
        pairs = []
        for row in range(rows):
            for position in range(length):
                for head in range(heads if mask[row][position] else 0):
                    at = position + term.shift + head
                    if at < length:
                        pairs.append(Pair(index, (row, position, head), (row, at), labels[row][at], 1.0))
                    elif fill == "zeros roll in":
                        pairs.append(Pair(index, (row, position, head), (row, at), 0, 1.0))
        return group(term, batch, pairs)

    return _regrouped(spec, batch, change)


AHEAD: tuple[Mutant, ...] = (head_off_by_one, mtp_cross_document, mtp_scale, mtp_mask_not_rolled)
