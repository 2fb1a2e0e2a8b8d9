"""From a recipe to tensors: a pure function, the same bytes everywhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import Oracle, evaluate
from shiftproof.reference.pairing import Pairing, build_pairing, select
from shiftproof.reference.spec import LossSpec, LossTerm, ShiftedBy

from .recipe import Count, Ids, Mask, Recipe, ShiftLabels
from .regimes import draw_logits, uniform_ints


@dataclass(frozen=True, eq=False)
class Case:
    """One recipe made into tensors, with the right answer. ``batch.logits`` have the recipe's dtype."""

    spec: LossSpec
    recipe: Recipe
    batch: Batch
    pairing: Pairing
    oracle: Oracle


@lru_cache(maxsize=512)
def build_case(spec: LossSpec, recipe: Recipe) -> Case:
    """The tensors of ``recipe`` as ``spec`` reads them, and what the loss must be on them."""
    blank = build_batch(spec, recipe)
    pairing = build_pairing(spec, blank)
    logits = draw_logits(recipe, pairing).to(getattr(torch, recipe.dtype))
    batch = replace(blank, logits=logits)
    return Case(spec, recipe, batch, pairing, evaluate(pairing, logits))


def build_batch(spec: LossSpec, recipe: Recipe) -> Batch:
    """Everything of a batch but its logits, which stand in as a [B, L, V] of one zero expanded."""
    term = spec.terms[0]
    ids = label_ids(recipe)
    ignored = ignored_places(recipe, padding_only=False)
    padding = ignored_places(recipe, padding_only=True)
    segments, positions, cu_seqlens = pack(recipe)
    if recipe.boundaries_ignored and recipe.documents > 1:
        ignored = ignored | _boundary_labels(term, positions)
    hidden = padding if term.loss_mask else ignored
    trained = ~(ignored | padding)
    unmasked = ids
    shift_labels = None
    if recipe.shift_labels is not ShiftLabels.ABSENT:
        # The ids belong to shift_labels; the labels are the same tokens one place later.
        shift_labels = _ignore(term, ids, _shifted_mask(recipe, ignored))
        unmasked = torch.roll(ids, 1, dims=1) if recipe.length else ids
    labels = _ignore(term, unmasked, hidden)
    input_ids = unmasked if term.shifted_by is ShiftedBy.LOSS else _previous_tokens(unmasked)
    kind = getattr(torch, recipe.label_dtype)
    pad = 1 % recipe.classes
    batch = Batch(
        logits=torch.zeros(()).expand(recipe.rows, recipe.length + recipe.extra, recipe.classes),
        labels=labels.to(kind),
        shift_labels=None if shift_labels is None else shift_labels.to(kind),
        loss_mask=trained,
        token_weights=token_weights(recipe),
        position_ids=positions,
        segment_ids=segments.masked_fill(padding, 0),
        cu_seqlens=cu_seqlens,
        input_ids=input_ids.masked_fill(padding, pad),
        attention_mask=(~padding).long(),
        pad_token_id=pad,
        eos_token_id=2 % recipe.classes,
    )
    if recipe.count is Count.ABSENT:
        return batch
    valid = len(select(term, batch))
    return replace(batch, num_items_in_batch=valid if recipe.count is Count.VALID else 2 * valid + 3)


def label_ids(recipe: Recipe) -> Tensor:
    """The token ids [B, S] before anything is ignored."""
    shape = (recipe.rows, recipe.length)
    places = torch.arange(recipe.rows * recipe.length).reshape(shape)
    if recipe.ids is Ids.COUNTING:
        return torch.div(places, recipe.classes**recipe.digit, rounding_mode="floor") % recipe.classes
    drawn = uniform_ints(recipe.seed, 3, 2 * places.numel()).astype("int64")
    ids = (torch.from_numpy(drawn[0::2] * 65536 + drawn[1::2]) % recipe.classes).reshape(shape)
    if recipe.ids is Ids.EDGES:
        edges = (places // 2 + recipe.seed) % 2 * (recipe.classes - 1)
        ids = torch.where(places % 2 == 0, edges, ids)
    return ids


def ignored_places(recipe: Recipe, padding_only: bool) -> Tensor:
    """Where labels are ignored, bool [B, S]; with ``padding_only``, where there is no real token at all."""
    length = recipe.length
    t = torch.arange(length)
    nowhere = torch.zeros(length, dtype=torch.bool)
    tokens = {
        Mask.NONE: nowhere,
        Mask.FIRST: t < 1,
        Mask.PROMPT: t < (length + 1) // 2,
        Mask.HOLES: t % 3 == 1,
        Mask.LAST_ONLY: t < length - 1,
        Mask.ALL: ~nowhere,
    }
    padding = {
        Mask.PADDING: t >= length - (length + 1) // 3,
        Mask.LEFT: t < (length + 1) // 3,
    }
    chosen = padding if padding_only else tokens | padding
    rows = [chosen.get(recipe.masks[row % len(recipe.masks)], nowhere) for row in range(recipe.rows)]
    return torch.stack(rows) if rows else torch.zeros((0, length), dtype=torch.bool)


def pack(recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """segment_ids [B, S], position_ids [B, S] and cu_seqlens [n + 1] of documents of unequal lengths.

    In odd rows the longer documents come first, so that no two rows are packed alike.
    """
    segments, positions, ends = [], [], [0]
    for row in range(recipe.rows):
        lengths = _document_lengths(recipe.length, recipe.documents)
        if row % 2:
            lengths.reverse()
        segments.append([index + 1 for index, size in enumerate(lengths) for _ in range(size)])
        positions.append([place for size in lengths for place in range(size)])
        for size in lengths:
            ends.append(ends[-1] + size)
    shape = (recipe.rows, recipe.length)
    return (
        torch.tensor(segments, dtype=torch.long).reshape(shape),
        torch.tensor(positions, dtype=torch.long).reshape(shape),
        torch.tensor(ends, dtype=torch.int32),
    )


def token_weights(recipe: Recipe) -> Tensor:
    """Weights [B, S] float32 in {1/4 … 2}: exact in every dtype, and seldom equal to a neighbour's."""
    steps = uniform_ints(recipe.seed, 4, recipe.rows * recipe.length).astype("int64") % 8 + 1
    return (torch.from_numpy(steps).float() / 4).reshape(recipe.rows, recipe.length)


def _document_lengths(length: int, documents: int) -> list[int]:
    documents = max(1, min(documents, length))
    short = length // (documents + 1) or 1
    lengths = [short] * (documents - 1)
    return [*lengths, length - sum(lengths)] if length else [0]


def _boundary_labels(term: LossTerm, positions: Tensor) -> Tensor:
    """Where a label is the first token of a document: at its start, or, where the data shifted, one place before."""
    starts = positions == 0
    if term.shifted_by is not ShiftedBy.DATA:
        return starts
    before = torch.zeros_like(starts)
    before[:, :-1] = starts[:, 1:]
    return before


def _ignore(term: LossTerm, ids: Tensor, where: Tensor) -> Tensor:
    return ids if term.ignore_index is None else ids.masked_fill(where, term.ignore_index)


def _shifted_mask(recipe: Recipe, ignored: Tensor) -> Tensor:
    shifted = torch.zeros_like(ignored)
    shifted[:, :-1] = ignored[:, 1:]
    if recipe.shift_labels is ShiftLabels.PADDED:
        shifted[:, -1:] = True
    elif recipe.length:
        shifted[:, -1] = ignored[:, -1]
    return shifted


def _previous_tokens(ids: Tensor) -> Tensor:
    """What stands at the input where ``ids`` are the next tokens: the row moved right, its first token from
    elsewhere."""
    return torch.roll(ids, 1, dims=1) if ids.shape[1] else ids
