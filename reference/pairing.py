"""Build the explicit list of pairs from a spec and a batch: which logits are scored on which labels, with what weight.

No score is computed here, and no logit is read. A wrong loss nearly always has this list wrong. So the list is a value:
the reference builds it, mutants change it, and the probe reads it back from a candidate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .batch import Batch, BatchError, show
from .spec import (
    Axis,
    Combine,
    Denominator,
    Documents,
    Empty,
    Extra,
    Heads,
    LossSpec,
    LossTerm,
    Reduction,
    ShiftedBy,
    Tail,
)

Place = tuple[int, ...]  # (row, position), or (row, position, codebook or head)


class Pair(NamedTuple):
    """Logits at ``logit``, scored on class ``target``, the label at ``label``. ``weight`` is its share of the loss."""

    term: int
    logit: Place
    label: Place
    target: int
    weight: float


class Group(NamedTuple):
    """Pairs that share a denominator, not yet divided by it, and their share α of the term."""

    pairs: list[Pair]
    denominator: float
    share: float


class TermPairs(NamedTuple):
    """The pairs of one term as tensors [n], in reading order. Nobody writes to them.

    Attributes:
        place: int64, the pair's place in the pairing.
        row: int64, its row of the term's logits, flattened to [rows, V].
        target: int64, the class.
        weight: float64.
    """

    place: Tensor
    row: Tensor
    target: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Pairing:
    """The pairs of one batch under one spec: the loss is Σ weight · ℓ over them.

    Attributes:
        terms: the terms of the spec. They define ℓ, and the logits and labels to which a pair's places belong.
        pairs: every pair that counts, in reading order, with its weight already divided by the denominator.
        shapes: the shape of each of the spec's logits, by argument: (B, L, V) or (B, L, K, V).
        empty: the contribution of groups without pairs to the loss: 0.0, NaN, or None if the spec leaves it undefined.
        denominators: one per group, after clamp and epsilon.
        output_shape: the shape of the loss: (), or for reduction none the shape of the kept label positions.
    """

    terms: tuple[LossTerm, ...]
    pairs: tuple[Pair, ...]
    shapes: Mapping[str, tuple[int, ...]]
    empty: float | None
    denominators: tuple[float, ...]
    output_shape: tuple[int, ...]

    def of(self, logits: str) -> list[Pair]:
        """The pairs whose logits are in the argument ``logits``."""
        return [pair for pair in self.pairs if self.terms[pair.term].logits == logits]

    @cached_property
    def by_term(self) -> tuple[TermPairs, ...]:
        """The pairs of each term as tensors."""
        return tuple(self._as_tensors(index) for index in range(len(self.terms)))

    def _as_tensors(self, term: int) -> TermPairs:
        shape = self.shapes[self.terms[term].logits][:-1]
        found = [(place, pair) for place, pair in enumerate(self.pairs) if pair.term == term]
        places = torch.tensor([pair.logit for _, pair in found], dtype=torch.long).reshape(-1, len(shape))
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        return TermPairs(
            place=torch.tensor([place for place, _ in found], dtype=torch.long),
            row=(places * torch.tensor(strides)).sum(1),
            target=torch.tensor([pair.target for _, pair in found], dtype=torch.long),
            weight=torch.tensor([pair.weight for _, pair in found], dtype=torch.float64),
        )


def build_pairing(spec: LossSpec, batch: Batch) -> Pairing:
    """Build the right pairs of ``batch`` under ``spec``.

    Raises:
        BatchError: the batch does not have an argument that the spec reads, or its shapes do not fit the spec.
    """
    for term in spec.terms:
        check_fit(term, batch)
    return assemble(
        spec, batch, [group(term, batch, select(term, batch, index)) for index, term in enumerate(spec.terms)]
    )


def assemble(spec: LossSpec, batch: Batch, groups: list[list[Group]]) -> Pairing:
    """Build the pairing of each term's ``groups``. Divide each group by its own denominator."""
    pairs: list[Pair] = []
    for term, of_term in zip(spec.terms, groups, strict=True):
        divided = [
            pair._replace(weight=_divide(term.weight * share * pair.weight, denominator))
            for chosen, denominator, share in of_term
            for pair in chosen
        ]
        pairs += sorted(divided)
    return Pairing(
        terms=spec.terms,
        pairs=tuple(pairs),
        shapes={name: tuple(batch.tensor(name).shape) for name in spec.logits},
        empty=_empty_value(groups, spec.terms),
        denominators=tuple(of_group.denominator for of_term in groups for of_group in of_term),
        output_shape=output_shape(spec, batch),
    )


def aligned(term: LossTerm, batch: Batch) -> Iterator[tuple[Place, Place]]:
    """Align: yield every logit place of a term with its label place, in reading order, even if the label is ignored."""
    labels = labels_of(term, batch)
    shift, first = shift_of(term, batch), first_logit(term, batch)
    rows, length = labels.shape[:2]
    heads = heads_of(term, batch)
    for row in range(rows):
        for position in range(length if term.axis is Axis.CODEBOOK or term.heads is Heads.AHEAD else length - shift):
            here, there = (row, first + position), (row, position + shift)
            match term.heads:
                case Heads.ONE:
                    yield here, there
                case Heads.FIRST:
                    yield here, (*there, 0)
                case Heads.AHEAD:
                    for head in range(min(heads, length - position - shift)):
                        yield (*here, head), (row, position + shift + head)
                case Heads.CODEBOOKS if term.axis is Axis.TIME:
                    for book in range(heads):
                        yield (*here, book), (*there, book)
                case Heads.CODEBOOKS:
                    for book in range(heads):
                        yield (*here, book), (row, position, book + shift)


def select(term: LossTerm, batch: Batch, index: int = 0) -> list[Pair]:
    """Align and Select: the pairs of one term that count, with their token weights, not yet divided."""
    rule = Rule(term, batch)
    weights = batch.tensor("token_weights").tolist() if term.token_weights else None
    by_book = codebook_weights(term, batch) if term.combine is Combine.FLAT else None
    pairs = []
    for logit, label in aligned(term, batch):
        if not rule.counts(logit, label):
            continue
        weight = 1.0 if weights is None else weights[label[0]][label[1]]
        if by_book is not None:
            weight *= by_book[logit[2]]
        pairs.append(Pair(index, logit, label, rule.target(label), weight))
    return pairs


class Rule:
    """Select, for one term of one batch: the rule for which aligned places count."""

    def __init__(self, term: LossTerm, batch: Batch) -> None:
        self._term = term
        self._labels = labels_of(term, batch).tolist()
        self._never: set[int | None] = {term.ignore_index, *term.ignored_ids}
        if term.sentinel:
            self._never.add(batch.tensor(term.logits).shape[-1])
        if term.ignores_bos:
            self._never.add(token_id(batch, "bos_token_id"))
        self._mask = batch.tensor("loss_mask").tolist() if term.loss_mask else None
        self._documents = None if term.documents is Documents.NONE else document_ids(term, batch).tolist()
        self._inputs = batch.tensor("input_ids").tolist() if term.stops_at_eos else None
        self._eos = token_id(batch, "eos_token_id") if term.stops_at_eos else None
        self._first = first_logit(term, batch)

    def target(self, label: Place) -> int:
        """The class at a label place."""
        return _at(self._labels, label)

    def trains(self, label: Place) -> bool:
        """Whether the label itself counts, whichever logits are scored on it."""
        masked = self._mask is not None and not self._mask[label[0]][label[1]]
        return not masked and self.target(label) not in self._never

    def counts(self, logit: Place, label: Place) -> bool:
        """Whether these logits are scored on this label."""
        if not self.trains(label):
            return False
        here = logit[1] - self._first
        if self._inputs is not None and _at(self._inputs, (logit[0], here, *logit[2:])) == self._eos:
            return False
        return self._documents is None or _same_document(self._term, self._documents[label[0]], here, label[1])


def group(term: LossTerm, batch: Batch, chosen: list[Pair]) -> list[Group]:
    """Reduce: split the pairs of a term into groups, each with its denominator and its share α of the term."""
    if term.combine is Combine.FLAT:
        return [Group(chosen, divide_by(term, batch, chosen), 1.0)]
    books: list[list[Pair]] = [[] for _ in range(heads_of(term, batch))]
    for pair in chosen:
        books[pair.logit[2]].append(pair)
    if term.combine is Combine.MEAN_NONEMPTY:
        books = [book for book in books if book] or [[]]
    weights = codebook_weights(term, batch) or [1.0] * len(books)
    over = 1.0 if term.combine is Combine.SUM else math.fsum(weights)
    return [
        Group(book, divide_by(term, batch, book), _divide(weight, over))
        for book, weight in zip(books, weights, strict=True)
    ]


def divide_by(term: LossTerm, batch: Batch, chosen: list[Pair]) -> float:
    """The denominator of one group, given the pairs that count."""
    total: float
    match term.denominator:
        case Denominator.VALID:
            total = len(chosen)
        case Denominator.POSITIONS:
            total = positions(term, batch)
        case Denominator.WEIGHTS:
            total = math.fsum(pair.weight for pair in chosen)
        case Denominator.CLASS_WEIGHTS:
            classes = batch.tensor("class_weights").tolist()
            total = math.fsum(classes[pair.target] for pair in chosen)
        case Denominator.NUM_ITEMS:
            if batch.num_items_in_batch is None:
                raise BatchError("this spec divides by num_items_in_batch, but the batch has none; give it one")
            total = batch.num_items_in_batch
        case Denominator.NUM_ITEMS_OR_VALID:
            total = len(chosen) if batch.num_items_in_batch is None else batch.num_items_in_batch
        case Denominator.ONE:
            total = 1.0
    if term.clamp is not None:
        total = max(total, term.clamp)
    return total + term.epsilon


def shift_of(term: LossTerm, batch: Batch) -> int:
    """How far the loss itself shifts on this batch: 0 if the term accepts shift_labels and the batch has them."""
    return 0 if term.accepts_shift_labels and batch.shift_labels is not None else term.shift


def labels_of(term: LossTerm, batch: Batch) -> torch.Tensor:
    """The labels, [B, S] or [B, S, K], that this term is scored on."""
    if term.accepts_shift_labels and batch.shift_labels is not None:
        return batch.shift_labels
    return batch.tensor(term.labels)


def heads_of(term: LossTerm, batch: Batch) -> int:
    """The number of codebooks or heads of a term's logits. 1 if they have no such axis."""
    logits = batch.tensor(term.logits)
    return logits.shape[2] if logits.dim() == 4 else 1


def first_logit(term: LossTerm, batch: Batch) -> int:
    """The position of the logits that belong to the first label position."""
    extra = batch.tensor(term.logits).shape[1] - batch.tensor(term.labels).shape[1]
    return extra if term.extra is Extra.PREFIX else 0


def codebook_weights(term: LossTerm, batch: Batch) -> list[float] | None:
    """w of every codebook or head, or None if the spec has no weights.

    Raises:
        BatchError: the number of weights is not the number of codebooks.
    """
    if not term.codebook_weights:
        return None
    given = term.codebook_weights
    weights = list(given) if isinstance(given, tuple) else batch.tensor("codebook_weights").tolist()
    if len(weights) != heads_of(term, batch):
        raise BatchError(
            f"{len(weights)} codebook_weights for {heads_of(term, batch)} codebooks; give one per codebook"
        )
    return [float(weight) for weight in weights]


def document_ids(term: LossTerm, batch: Batch) -> torch.Tensor:
    """One id per label position, [B, S]: equal within a document, different across documents. 0 is padding."""
    if term.documents is Documents.SEGMENT_IDS:
        return batch.tensor("segment_ids")
    if term.documents is Documents.POSITION_IDS:
        ids = batch.tensor("position_ids")
        starts = torch.ones_like(ids, dtype=torch.long)
        starts[:, 1:] = (ids[:, 1:] != ids[:, :-1] + 1).long()
        return starts.cumsum(1)
    shape = batch.tensor(term.labels).shape[:2]
    if term.documents is Documents.CU_SEQLENS:
        ends = batch.tensor("cu_seqlens").long()
        tokens = torch.arange(shape.numel(), device=ends.device).reshape(shape)
        return torch.bucketize(tokens, ends, right=True)
    return torch.ones(shape, dtype=torch.long)


def check_fit(term: LossTerm, batch: Batch) -> None:
    """Check that the logits and the labels of a term fit together.

    Raises:
        BatchError: their axes do not fit the spec, or their extents do not fit each other.
    """
    logits, labels = batch.tensor(term.logits), labels_of(term, batch)
    several = term.heads in (Heads.CODEBOOKS, Heads.AHEAD)
    if logits.dim() != 3 + several:
        axes = "[B, L, K, V]" if several else "[B, L, V]"
        raise BatchError(f"{term.logits} are {show(logits)}; expected {axes}, as heads={term.heads} says")
    if labels.dim() != 2 + (term.heads in (Heads.CODEBOOKS, Heads.FIRST)):
        axes = "[B, S]" if labels.dim() == 3 else "[B, S, K]"
        raise BatchError(f"{term.labels} are {show(labels)}; expected {axes}, as heads={term.heads} says")
    if labels.shape[0] != logits.shape[0]:
        raise BatchError(f"{term.labels} are {show(labels)}; expected [B, S] with B = {logits.shape[0]}")
    extra = logits.shape[1] - labels.shape[1]
    if extra < 0 or (extra > 0 and term.extra is Extra.NONE):
        raise BatchError(
            f"{term.logits} have {logits.shape[1]} positions and {term.labels} {labels.shape[1]}, "
            f"which extra={term.extra} does not allow"
        )
    if term.classes is not None and logits.shape[-1] != term.classes:
        raise BatchError(f"{term.logits} are {show(logits)}; expected V = {term.classes}, as classes says")
    if term.score.class_weights and batch.tensor("class_weights").shape != logits.shape[-1:]:
        raise BatchError(
            f"class_weights are {show(batch.tensor('class_weights'))}; expected [V] with V = {logits.shape[-1]}"
        )
    if term.heads is Heads.ONE:
        return
    across = term.shift if term.axis is Axis.CODEBOOK else 0
    books = labels.shape[2] if term.heads is Heads.FIRST else logits.shape[2] + across
    agree = term.heads is Heads.AHEAD or books == labels.shape[2]
    if not agree or books != (term.codebooks or books):
        raise BatchError(
            f"{term.logits} are {show(logits)} and {term.labels} {show(labels)}: the codebooks do not agree "
            f"(axis={term.axis}, shift={term.shift}, codebooks={term.codebooks})"
        )


def token_id(batch: Batch, name: str) -> int:
    """Return a token id of a batch.

    Raises:
        BatchError: this batch does not have the id.
    """
    value = getattr(batch, name)
    if value is None:
        raise BatchError(f"this spec reads {name}, but the batch has none; give it one")
    return int(value)


def _at(nested: Any, place: Place) -> int:
    for index in place:
        nested = nested[index]
    return int(nested)


def positions(term: LossTerm, batch: Batch) -> int:
    """The number of label positions in one group of a term, including ignored ones."""
    rows, length = labels_of(term, batch).shape[:2]
    if term.tail is Tail.TRIM and term.axis is Axis.TIME:
        length = max(length - shift_of(term, batch), 0)
    return rows * length * (heads_of(term, batch) if term.combine is Combine.FLAT else 1)


def _same_document(term: LossTerm, documents: list[int], position: int, at: int) -> bool:
    # Labels shifted by the data hold the next token. Then the document of the token counts, not that of its column. The
    # token after the last column belongs to the last document.
    token = at + (term.shifted_by is ShiftedBy.DATA)
    here, there = documents[position], documents[min(token, len(documents) - 1)]
    return here == there and here != 0


def _divide(weight: float, denominator: float) -> float:
    """Divide as floating point does: a positive weight over 0 is infinite, and 0/0 is NaN."""
    if denominator:
        return weight / denominator
    return math.copysign(math.inf, weight) if weight else math.nan


def _empty_value(groups: list[list[Group]], terms: tuple[LossTerm, ...]) -> float | None:
    """The sum of 0/D over the groups without pairs: 0 if D is not 0, and else as the term declares."""
    policies = {
        term.empty
        for term, of_term in zip(terms, groups, strict=True)
        for pairs, denominator, _ in of_term
        if not pairs and not denominator
    }
    if Empty.UNDEFINED in policies:
        return None
    return math.nan if Empty.NAN in policies else 0.0


def output_shape(spec: LossSpec, batch: Batch) -> tuple[int, ...]:
    """The shape of the loss: (), or for reduction none the shape of the kept label positions."""
    term = spec.terms[0]
    if term.reduction is not Reduction.NONE:
        return ()
    rows, length = labels_of(term, batch).shape[:2]
    return (rows, length if term.tail is Tail.IGNORE else max(length - shift_of(term, batch), 0))
