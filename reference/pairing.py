"""Which logits are scored on which labels, and with what weight: a spec and a batch in, an explicit list out.

No score is taken here and no logit is read. What a loss gets wrong is nearly always this list, so the list is a value
of its own: the reference builds it, mutants change it, and the probe reads it back from a candidate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .batch import Batch, BatchError
from .spec import Denominator, Documents, Empty, Extra, LossSpec, LossTerm, Reduction, ShiftedBy, Tail

Place = tuple[int, int]  # (row, position)


class Pair(NamedTuple):
    """Logits at ``logit`` scored on class ``target``, the label at ``label``, with its share of the loss."""

    term: int
    logit: Place
    label: Place
    target: int
    weight: float


@dataclass(frozen=True)
class Pairing:
    """The pairs of one batch under one spec: the loss is Σ weight · ℓ over them.

    Attributes:
        pairs: every pair that counts, in reading order, its weight already divided by the denominator.
        logits_shape: (B, L, V) of the batch.
        empty: what the terms without any pair add to the loss: 0.0, NaN, or None where the spec leaves it undefined.
        denominators: one a term, after clamp and epsilon.
        output_shape: the shape of the loss: (), or for reduction none that of the label positions kept.
    """

    pairs: tuple[Pair, ...]
    logits_shape: tuple[int, int, int]
    empty: float | None
    denominators: tuple[float, ...]
    output_shape: tuple[int, ...]


def build_pairing(spec: LossSpec, batch: Batch) -> Pairing:
    """The right pairs of ``batch`` under ``spec``.

    Raises:
        BatchError: when the batch lacks an argument that the spec reads, or has more or fewer logits than it allows.
    """
    chosen = [select(term, batch, index) for index, term in enumerate(spec.terms)]
    denominators = [divide_by(term, batch, pairs) for term, pairs in zip(spec.terms, chosen, strict=True)]
    return assemble(spec, batch, chosen, denominators)


def assemble(spec: LossSpec, batch: Batch, chosen: list[list[Pair]], denominators: list[float]) -> Pairing:
    """The pairing of the pairs ``chosen`` for each term, each term's divided by its own denominator."""
    pairs: list[Pair] = []
    for term, of_term, denominator in zip(spec.terms, chosen, denominators, strict=True):
        for index, logit, label, target, weight in of_term:
            pairs.append(Pair(index, logit, label, target, _divide(term.weight * weight, denominator)))
    rows, length, classes = batch.logits.shape
    return Pairing(
        pairs=tuple(pairs),
        logits_shape=(rows, length, classes),
        empty=_empty_value(spec, chosen, denominators),
        denominators=tuple(denominators),
        output_shape=_output_shape(spec, batch),
    )


def select(term: LossTerm, batch: Batch, index: int = 0) -> list[Pair]:
    """Align and Select: the pairs of one term that count, with their token weights, not yet divided."""
    rows, length = batch.labels.shape
    shift, first = shift_of(term, batch), first_logit(term, batch)
    labels: list[list[int]] = labels_of(term, batch).tolist()
    mask: list[list[int]] | None = needed(batch, "loss_mask").tolist() if term.loss_mask else None
    weights: list[list[float]] | None = needed(batch, "token_weights").tolist() if term.token_weights else None
    documents: list[list[int]] | None = None if term.documents == "none" else document_ids(term, batch).tolist()
    pairs = []
    for row in range(rows):
        for position in range(length - shift):
            at = position + shift
            target = labels[row][at]
            if target == term.ignore_index or target in term.ignored_ids:
                continue
            if mask is not None and not mask[row][at]:
                continue
            if documents is not None and not _same_document(term, documents[row], position, at):
                continue
            weight = 1.0 if weights is None else weights[row][at]
            pairs.append(Pair(index, (row, first + position), (row, at), target, weight))
    return pairs


def divide_by(term: LossTerm, batch: Batch, chosen: list[Pair]) -> float:
    """Reduce: the denominator, given the pairs that count."""
    rows, length = batch.labels.shape
    total: float
    match term.denominator:
        case Denominator.VALID:
            total = len(chosen)
        case Denominator.POSITIONS:
            total = rows * (length if term.tail is Tail.IGNORE else max(length - shift_of(term, batch), 0))
        case Denominator.WEIGHTS:
            total = math.fsum(pair.weight for pair in chosen)
        case Denominator.NUM_ITEMS:
            if batch.num_items_in_batch is None:
                raise BatchError("this spec divides by num_items_in_batch, and the batch has none; give it one")
            total = batch.num_items_in_batch
        case Denominator.NUM_ITEMS_OR_VALID:
            total = len(chosen) if batch.num_items_in_batch is None else batch.num_items_in_batch
        case Denominator.ONE:
            total = 1.0
    if term.clamp is not None:
        total = max(total, term.clamp)
    return total + term.epsilon


def shift_of(term: LossTerm, batch: Batch) -> int:
    """How far the loss itself shifts on this batch: not at all where the caller hands over shift_labels."""
    return 0 if term.accepts_shift_labels and batch.shift_labels is not None else term.shift


def labels_of(term: LossTerm, batch: Batch) -> torch.Tensor:
    """The labels [B, S] that this term is scored on."""
    if term.accepts_shift_labels and batch.shift_labels is not None:
        return batch.shift_labels
    return batch.labels


def first_logit(term: LossTerm, batch: Batch) -> int:
    """The position of the logits that belong to the first label position.

    Raises:
        BatchError: when there are more or fewer logits than the spec allows.
    """
    extra = batch.logits.shape[1] - batch.labels.shape[1]
    if extra < 0 or (extra > 0 and term.extra is Extra.NONE):
        raise BatchError(
            f"logits have {batch.logits.shape[1]} positions and labels {batch.labels.shape[1]}, "
            f"which extra={term.extra} does not allow"
        )
    return extra if term.extra is Extra.PREFIX else 0


def document_ids(term: LossTerm, batch: Batch) -> torch.Tensor:
    """One id a label position, [B, S]: equal within a document, different across documents; 0 is padding."""
    if term.documents is Documents.SEGMENT_IDS:
        return needed(batch, "segment_ids")
    if term.documents is Documents.POSITION_IDS:
        ids = needed(batch, "position_ids")
        starts = torch.ones_like(ids, dtype=torch.long)
        starts[:, 1:] = (ids[:, 1:] != ids[:, :-1] + 1).long()
        return starts.cumsum(1)
    if term.documents is Documents.CU_SEQLENS:
        tokens = torch.arange(batch.labels.numel()).reshape(batch.labels.shape)
        return torch.bucketize(tokens, needed(batch, "cu_seqlens").long(), right=True)
    return torch.ones(batch.labels.shape, dtype=torch.long)


def needed(batch: Batch, name: str) -> torch.Tensor:
    """An argument that the spec reads.

    Raises:
        BatchError: when the batch has none.
    """
    value = getattr(batch, name)
    if value is None:
        raise BatchError(f"this spec reads {name}, and the batch has none; give it one")
    assert isinstance(value, torch.Tensor)
    return value


def _same_document(term: LossTerm, documents: list[int], position: int, at: int) -> bool:
    # Labels that the data shifted hold the next token: it is the token's document that counts, not its column's.
    token = at + (term.shifted_by is ShiftedBy.DATA)
    here = documents[position]
    there = documents[token] if token < len(documents) else here
    return here == there and here != 0


def _divide(weight: float, denominator: float) -> float:
    """As floating-point division goes: a positive weight over nothing is infinite, and 0/0 is NaN."""
    if denominator:
        return weight / denominator
    return math.copysign(math.inf, weight) if weight else math.nan


def _empty_value(spec: LossSpec, chosen: list[list[Pair]], denominators: list[float]) -> float | None:
    """The sum of 0/D over the terms without pairs: 0 where there is something to divide by, else as declared."""
    policies = {
        term.empty
        for term, pairs, denominator in zip(spec.terms, chosen, denominators, strict=True)
        if not pairs and not denominator
    }
    if Empty.UNDEFINED in policies:
        return None
    return math.nan if Empty.NAN in policies else 0.0


def _output_shape(spec: LossSpec, batch: Batch) -> tuple[int, ...]:
    term = spec.terms[0]
    if term.reduction is not Reduction.NONE:
        return ()
    rows, length = batch.labels.shape
    return (rows, length if term.tail is Tail.IGNORE else max(length - shift_of(term, batch), 0))
