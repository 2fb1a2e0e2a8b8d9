"""Known-wrong builders of packed documents."""

from __future__ import annotations

import torch
from torch import Tensor

from shiftproof.reference.builders import (
    BuilderBatch,
    BuilderSpec,
    packed_cu_seqlens,
)

from .base import ids_of, mutant, right_of


def _lengths(batch: BuilderBatch) -> Tensor:
    assert batch.seq_lengths is not None
    return batch.seq_lengths


@mutant(
    "cross-document",
    of=("packing.labels",),
    details=("every first label", "all but the first document's"),
    formula="the first label of a document is kept: the document before it is trained to predict it",
    tells="2 documents",
    seen="trl#4170 (0.22.2–0.23.0), torchtune 0.6.1",
)
def cross_document(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    labels = ids_of(batch).clone()
    if detail != "every first label":
        labels[:, 0] = batch.ignore_index
    return labels


@mutant(
    "boundary-at-the-end",
    of=("packing.labels",),
    details=("instead", "as well"),
    formula="the last label of each document is ignored, as if the labels had been shifted",
    tells="2 documents of 2 tokens",
)
def boundary_at_the_end(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    labels = ids_of(batch).clone() if detail == "instead" else right_of(spec, batch)
    labels[0, packed_cu_seqlens(_lengths(batch))[1:] - 1] = batch.ignore_index
    return labels


@mutant(
    "positions-not-restarted",
    of=("packing.position_ids",),
    formula="0, 1, 2, … over the whole row",
    tells="2 documents",
)
def positions_not_restarted(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return torch.arange(int(_lengths(batch).sum()))[None]


@mutant(
    "positions-from-one",
    of=("packing.position_ids",),
    formula="1, 2, 3, … in each document",
    tells="any document",
)
def positions_from_one(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return right_of(spec, batch) + 1


@mutant(
    "cu-seqlens-ends",
    of=("packing.cu_seqlens",),
    details=("no 0 in front", "no total at the end", "lengths"),
    formula="the ends alone, the starts alone, or the lengths themselves",
    tells="2 documents",
)
def cu_seqlens_ends(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    if detail == "lengths":
        return _lengths(batch)
    built = right_of(spec, batch)
    return built[1:] if detail == "no 0 in front" else built[:-1]
