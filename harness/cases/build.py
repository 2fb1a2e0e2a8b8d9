"""From a recipe to tensors: a pure function that gives the same bytes everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import Oracle, evaluate
from shiftproof.reference.pairing import Pair, Pairing, assemble, build_pairing, group, select
from shiftproof.reference.spec import Axis, Extra, Heads, LossSpec, LossTerm, ShiftedBy

from .kept import Kept, of_pairs
from .logits import draw_logits, uniform_ints
from .recipe import (
    AudioClasses,
    AudioLength,
    Count,
    Delay,
    Hollow,
    Ids,
    Mask,
    Recipe,
    Regime,
    ShiftLabels,
    Streams,
    Stride,
    Weights,
)


@dataclass(frozen=True, eq=False)
class Case:
    """One recipe made into tensors, with the right answer. All logits have the recipe's dtype."""

    spec: LossSpec
    recipe: Recipe
    batch: Batch
    pairing: Pairing
    oracle: Oracle


_MOST = 16_000_000  # elements of logits, 8 to 12 bytes each
_Made = TypeVar("_Made")
_KEPT: list[Kept[tuple[LossSpec, Recipe], Any]] = []


def _kept(make: Callable[[LossSpec, Recipe], _Made]) -> Callable[[LossSpec, Recipe], _Made]:
    """Keep the last results of a function."""
    kept: Kept[tuple[LossSpec, Recipe], _Made] = Kept(_MOST)
    _KEPT.append(kept)

    @wraps(make)
    def made(spec: LossSpec, recipe: Recipe) -> _Made:
        found = kept.get((spec, recipe))
        if found is None:
            found = make(spec, recipe)
            places = recipe.rows * recipe.length * recipe.codebooks
            kept.put((spec, recipe), found, places * recipe.classes * len(spec.logits) + of_pairs(places))
        return found

    return made


def forget_cases() -> None:
    """Forget all cases that were built."""
    for kept in _KEPT:
        kept.clear()


@_kept
def build_case(spec: LossSpec, recipe: Recipe) -> Case:
    """Build the tensors of ``recipe`` as ``spec`` reads them, and the right answer for them."""
    # Only huge logits are drawn for their dtype. All else is the same in every dtype, and is made once.
    blank, pairing, drawn = _unrounded(
        spec, recipe if recipe.regime is Regime.HUGE else replace(recipe, dtype="float32")
    )
    dtype = getattr(torch, recipe.dtype)
    logits: dict[str, Any] = {name: of_name.to(dtype, copy=True) for name, of_name in drawn.items()}
    batch = replace(blank, **logits)
    return Case(spec, recipe, batch, pairing, evaluate(pairing, batch))


@_kept
def _unrounded(spec: LossSpec, recipe: Recipe) -> tuple[Batch, Pairing, dict[str, Tensor]]:
    """The batch of a recipe without its logits, the right pairs, and the logits in float64."""
    # Whatever numbers the laws want in the logits of a batch, its pairs are the same.
    plain = replace(recipe, regime=Regime.NORMAL, stride=Stride.CONTIGUOUS, dtype="float32")
    blank, pairing = _paired(spec, plain)
    return blank, pairing, draw_logits(recipe, pairing)


@_kept
def _paired(spec: LossSpec, recipe: Recipe) -> tuple[Batch, Pairing]:
    """The batch of a recipe without its logits, and the right pairs."""
    blank, chosen = _batch_and_pairs(spec, recipe)
    if chosen is None:
        return blank, build_pairing(spec, blank)
    # the rest of build_pairing
    groups = [group(term, blank, of_term) for term, of_term in zip(spec.terms, chosen, strict=True)]
    return blank, assemble(spec, blank, groups)


def build_batch(spec: LossSpec, recipe: Recipe) -> Batch:
    """Build a batch without its logits. Each array of logits is one expanded zero, in the right shape."""
    return _batch_and_pairs(spec, recipe)[0]


def _batch_and_pairs(spec: LossSpec, recipe: Recipe) -> tuple[Batch, list[list[Pair]] | None]:
    """The batch without its logits, and the pairs of each term if the batch's count needs them."""
    term = spec.terms[0]
    segments, positions, cu_seqlens = pack(recipe)
    padding = ignored_places(recipe, padding_only=True)
    trained = ~(ignored_places(recipe, padding_only=False) | padding)
    kind = getattr(torch, recipe.label_dtype)
    pad, eos, bos = (token % recipe.classes for token in (1, 2, 3))
    ids = label_ids(spec, "labels", recipe)
    hidden = _hidden(spec, "labels", recipe)
    shift_labels = None
    unmasked = ids
    if recipe.shift_labels is not ShiftLabels.ABSENT:
        # The ids belong to shift_labels. The labels are the same tokens, one place later.
        shift_labels = _ignore(term, ids, _shifted_mask(recipe, hidden)).to(kind)
        unmasked = torch.roll(ids, 1, dims=1) if recipe.length else ids
    inputs = unmasked if term.shifted_by is ShiftedBy.LOSS else _previous_tokens(unmasked)
    audio = ids_of_audio = None
    if "audio_labels" in spec.labels:
        ids_of_audio, hidden_of_audio = (make(spec, "audio_labels", recipe) for make in (label_ids, _hidden))
        audio = _mark(spec, "audio_labels", ids_of_audio, hidden_of_audio, recipe).to(kind)
    logits: dict[str, Any] = {name: torch.zeros(()).expand(logits_shape(spec, name, recipe)) for name in spec.logits}
    batch = Batch(
        labels=_mark(spec, "labels", unmasked, hidden, recipe).to(kind),
        shift_labels=shift_labels,
        audio_labels=audio,
        loss_mask=trained,
        token_weights=token_weights(recipe),
        position_ids=positions,
        segment_ids=segments.masked_fill(padding, 0),
        cu_seqlens=cu_seqlens,
        audio_input_ids=ids_of_audio,
        input_ids=inputs.masked_fill(padding if inputs.dim() == 2 else padding[..., None], pad),
        attention_mask=(~padding).long(),
        codebook_weights=_weights(recipe, 7, _codebooks(spec, recipe)) if _weighs_codebooks(spec) else None,
        class_weights=_weights(recipe, 8, recipe.classes) if term.score.class_weights else None,
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
        **logits,
    )
    if recipe.count is Count.ABSENT:
        return batch, None
    chosen = [select(term, batch, index) for index, term in enumerate(spec.terms)]
    # The caller's count is that of the first stream with anything to train on.
    valid = next((len(of_term) for of_term in chosen if of_term), 0)
    count = {Count.VALID: valid, Count.FEWER: max(valid // 2, 1), Count.GLOBAL: 2 * valid + 3}[recipe.count]
    return replace(batch, num_items_in_batch=count), chosen


def logits_shape(spec: LossSpec, name: str, recipe: Recipe) -> tuple[int, ...]:
    """The shape of the logits ``name``: [B, L, V] or [B, L, K, V]."""
    term = next(term for term in spec.terms if term.logits == name)
    rows, length = labels_shape(spec, term.labels, recipe)[:2]
    heads: tuple[int, ...] = ()
    if term.heads in (Heads.CODEBOOKS, Heads.AHEAD):
        heads = (recipe.codebooks - (term.shift if term.axis is Axis.CODEBOOK else 0),)
    extra = recipe.extra if term.extra is not Extra.NONE else 0
    return (rows, length + extra, *heads, classes_of(spec, term.labels, recipe))


def labels_shape(spec: LossSpec, name: str, recipe: Recipe) -> tuple[int, ...]:
    """The shape of the labels ``name``: [B, S] or [B, S, K]. If rows are passed concatenated, B is 1."""
    length = recipe.audio_frames if name == "audio_labels" else recipe.length
    shape = (recipe.rows, length)
    if _is_concatenated(spec, name):
        shape = (1, recipe.rows * length)
    return (*shape, recipe.codebooks) if "k" in spec.axes_of(name) else shape


def classes_of(spec: LossSpec, labels: str, recipe: Recipe) -> int:
    """V of the labels ``labels``."""
    fixed = next((term.classes for term in spec.terms if term.labels == labels), None)
    if fixed or labels != "audio_labels":
        return fixed or recipe.classes
    return recipe.classes + 2 if recipe.audio_classes is AudioClasses.MORE else recipe.classes // 2 + 1


def label_ids(spec: LossSpec, name: str, recipe: Recipe) -> Tensor:
    """The token ids of the labels ``name``, [B, S] or [B, S, K], before anything is ignored."""
    shape, classes = labels_shape(spec, name, recipe), classes_of(spec, name, recipe)
    places = torch.arange(math.prod(shape)).reshape(shape)
    if recipe.ids is Ids.COUNTING:
        return torch.div(places, classes**recipe.digit, rounding_mode="floor") % classes
    stream = 3 if name == "labels" else 13
    drawn = uniform_ints(recipe.seed, stream, 2 * places.numel()).astype("int64")
    ids = (torch.from_numpy(drawn[0::2] * 65536 + drawn[1::2]) % classes).reshape(shape)
    if recipe.ids is Ids.EDGES:
        edges = (places // 2 + recipe.seed) % 2 * (classes - 1)
        ids = torch.where(places % 2 == 0, edges, ids)
    return ids


def _hidden(spec: LossSpec, name: str, recipe: Recipe) -> Tensor:
    """Where the labels ``name`` are ignored, bool, of their shape."""
    term = next(term for term in spec.terms if term.labels == name)
    first, several = name == "labels", "k" in spec.axes_of(name)
    if not first:
        recipe = replace(recipe, length=recipe.audio_frames, audio_length=AudioLength.SAME)
    if not several:
        if recipe.streams in (Streams.SECOND, Streams.NEITHER) and len(spec.labels) > 1:
            return torch.ones(labels_shape(spec, name, recipe), dtype=torch.bool)
        padding = ignored_places(recipe, padding_only=True)
        hidden = padding if term.loss_mask else ignored_places(recipe, padding_only=False)
        if recipe.boundaries_ignored and recipe.documents > 1:
            hidden = hidden | _boundary_labels(term, pack(recipe)[1])
        return hidden
    # Each codebook starts at another mask, so that codebooks have different numbers of labels that count.
    hidden = torch.stack(
        [ignored_places(recipe, padding_only=False, start=book + (not first)) for book in range(recipe.codebooks)], -1
    )
    hidden = hidden | _delayed(recipe) | _hollow(recipe)
    if len(spec.labels) > 1:
        absent = (Streams.SECOND if first else Streams.FIRST, Streams.NEITHER)
        hidden = hidden | (recipe.streams in absent)
    else:  # one array for two heads: the first codebook is one stream, the rest is the other stream
        hidden[..., 0] |= recipe.streams in (Streams.SECOND, Streams.NEITHER)
        hidden[..., 1:] |= recipe.streams in (Streams.FIRST, Streams.NEITHER)
    if _is_concatenated(spec, name):
        hidden[:, :1] = True  # nothing precedes the first label of a segment
    return hidden.reshape(labels_shape(spec, name, recipe))


def delays_of(recipe: Recipe) -> list[int]:
    """The delay of each codebook, in frames."""
    match recipe.delay:
        case Delay.NONE:
            return [0] * recipe.codebooks
        case Delay.STEP:
            return list(range(recipe.codebooks))
        case Delay.AFTER_FIRST:
            return [min(book, 1) for book in range(recipe.codebooks)]


def _delayed(recipe: Recipe) -> Tensor:
    """Where a delay leaves fill in place of codes, bool [S, K]: before a late codebook, and after an early one.

    If the sequence is shorter than the longest delay, delays are cut so that every codebook keeps a label.
    """
    t = torch.arange(recipe.length)[:, None]
    delays = torch.tensor(delays_of(recipe)).clamp_max(max(recipe.length - 1, 0))
    return (t < delays) | (t >= recipe.length - (delays.max() - delays))


def _hollow(recipe: Recipe) -> Tensor:
    """Where labels are ignored because of an empty codebook, bool [S, K]."""
    t, book = torch.arange(recipe.length)[:, None], torch.arange(recipe.codebooks)
    match recipe.hollow:
        case Hollow.NONE:
            empty = book < 0
        case Hollow.FIRST:
            empty = book == 0
        case Hollow.LAST | Hollow.DROPPED:
            empty = book == recipe.codebooks - 1
        case Hollow.ALTERNATE:
            empty = book % 2 == 1
    return empty & (t >= (recipe.hollow is Hollow.DROPPED))


def _is_concatenated(spec: LossSpec, name: str) -> bool:
    """Whether rows are concatenated and then shifted. Then they are segments of one row."""
    shifts = any(term.shift and term.axis is Axis.TIME for term in spec.terms if term.labels == name)
    return shifts and "(b s)" in spec.layout_of(name)


def _codebooks(spec: LossSpec, recipe: Recipe) -> int:
    term = next(term for term in spec.terms if term.codebook_weights)
    return logits_shape(spec, term.logits, recipe)[2]


def _weighs_codebooks(spec: LossSpec) -> bool:
    return any(term.codebook_weights is True for term in spec.terms)


def _weights(recipe: Recipe, stream: int, size: int) -> Tensor:
    """Weights [size] float32. Neighbours are seldom equal. The first is never 0."""
    drawn = torch.from_numpy(uniform_ints(recipe.seed, stream, size).astype("int64"))
    eighths = (drawn % 8 + 1).float()
    match recipe.weights:
        case Weights.QUARTERS:
            return eighths / 4
        case Weights.ZEROS:
            return (eighths / 4).masked_fill((drawn // 8 % 3 == 0) & (torch.arange(size) > 0), 0.0)
        case Weights.TENTHS:
            return eighths / 10


def _mark(spec: LossSpec, name: str, ids: Tensor, where: Tensor, recipe: Recipe) -> Tensor:
    """Mark the ignored labels. If the spec has two markers, use both in turn."""
    term = next(term for term in spec.terms if term.labels == name)
    labels = _ignore(term, ids, where)
    if term.sentinel:
        second = torch.arange(ids.numel()).reshape(ids.shape) % 2 == 1
        labels = labels.masked_fill(where & second, classes_of(spec, name, recipe))
    return labels


def ignored_places(recipe: Recipe, padding_only: bool, start: int = 0) -> Tensor:
    """Where labels are ignored, bool [B, S]. With ``padding_only``, only where there is no real token.

    Row r takes the recipe's mask r + ``start``, modulo the number of masks.
    """
    return _places(recipe.masks, recipe.rows, recipe.length, padding_only, start)


@lru_cache(maxsize=1024)
def _places(masks: tuple[Mask, ...], count: int, length: int, padding_only: bool, start: int) -> Tensor:
    """As :func:`ignored_places`. Many recipes have the same masks and sizes. Nobody writes to what this returns."""
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
    rows = [chosen.get(masks[(row + start) % len(masks)], nowhere) for row in range(count)]
    return torch.stack(rows) if rows else torch.zeros((0, length), dtype=torch.bool)


def pack(recipe: Recipe) -> tuple[Tensor, Tensor, Tensor]:
    """segment_ids [B, S], position_ids [B, S] and cu_seqlens [n + 1] of documents of unequal lengths.

    In odd rows the longer documents come first, so that neighbouring rows are packed differently.
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
    """Weights [B, S] float32."""
    return _weights(recipe, 4, recipe.rows * recipe.length).reshape(recipe.rows, recipe.length)


def _document_lengths(length: int, documents: int) -> list[int]:
    documents = max(1, min(documents, length))
    short = length // (documents + 1) or 1
    lengths = [short] * (documents - 1)
    return [*lengths, length - sum(lengths)] if length else [0]


def _boundary_labels(term: LossTerm, positions: Tensor) -> Tensor:
    """Where a label is the first token of a document: at its start, or one place before if the data is shifted."""
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
    """The input tokens if ``ids`` are the next tokens: each row rotated right by one."""
    return torch.roll(ids, 1, dims=1) if ids.shape[1] else ids
