"""Known-wrong builders of shifted labels."""

from __future__ import annotations

import torch
from torch import Tensor

from shiftproof.reference.builders import (
    BuilderBatch,
    BuilderSpec,
    answer,
    boson_labels,
    shift_and_pad,
    shift_with_mask,
)

from .base import HIGGS, MASKS, fitted, ids_of, known, mutant, right_of


@mutant(
    "no-shift",
    of=("shift.pad", "shift.trim", "shift.masked", "delay.dia"),
    formula="label[t] = id[t]",
    tells="T=2, distinct ids",
    seen="transformers#27161, XLM, Flaubert",
)
def no_shift(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    if spec.name == "delay.dia":
        return answer(boson_labels, batch)[..., :-1].flatten(0, 1)
    if spec.name == "shift.trim":
        return ids_of(batch)[:, :-1]
    if spec.name == "shift.pad":
        return ids_of(batch)
    assert batch.loss_mask is not None
    return ids_of(batch).masked_fill(batch.loss_mask == 0, batch.ignore_index)


@mutant(
    "double-shift",
    of=("shift.pad", "shift.trim", "shift.masked", "packing.labels", *MASKS, *HIGGS, "delay.dia"),
    formula="shifted once too often: label[t] = id[t+2], or id[t+1] where the loss has yet to shift",
    tells="T=3",
    seen="open-instruct#1549, Qwen3-TTS#371, ms-swift#9752",
)
def double_shift(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = right_of(spec, batch)
    if spec.name == "shift.trim":
        return built[:, 1:]
    return fitted(built[..., 1:], built, batch.ignore_index)


@mutant(
    "reverse-shift",
    of=("shift.pad", "shift.trim.inputs"),
    formula="label[t] = id[t−1]; for the inputs, the first token is cut off and not the last",
    tells="T=2",
)
def reverse_shift(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    ids = ids_of(batch)
    if spec.name == "shift.trim.inputs":
        return ids[:, 1:]
    return torch.cat([torch.full_like(ids[:, :1], batch.ignore_index), ids[:, :-1]], dim=1)


@mutant(
    "flatten-then-shift",
    of=("shift.pad",),
    formula="the batch is flattened first: a row's last label is the next row's first id",
    tells="B=2",
    seen="transformers#47394",
)
def flatten_then_shift(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    ids = ids_of(batch)
    return shift_and_pad(ids.reshape(1, -1), batch.ignore_index).reshape(ids.shape)


@mutant(
    "tail-pad-target",
    of=("shift.pad", "shift.masked"),
    details=("the pad id", "id 0", "the last id"),
    formula="the last label is an id, not ignored",
    tells="any row",
    seen="transformers XGLM, to 4.48",
)
def tail_pad_target(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = right_of(spec, batch)
    tails = {"the pad id": known(batch.pad_token_id), "id 0": 0}
    built[:, -1] = tails[detail] if detail in tails else ids_of(batch)[:, -1]
    return built


@mutant(
    "not-trimmed",
    of=("shift.trim", "shift.trim.inputs"),
    formula="S places and not S−1",
    tells="any row",
    seen="Higgs-audio trainers: 168 logits a row against 167 labels",
)
def not_trimmed(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return ids_of(batch) if spec.name == "shift.trim.inputs" else shift_and_pad(ids_of(batch), batch.ignore_index)


@mutant(
    "drop-first-response",
    of=("shift.masked",),
    formula="label[t] = id[t+1] where mask[t]: the mask is not moved with the labels",
    tells="a mask 0, 1",
    seen="verl#3287, torchtitan#2755",
)
def drop_first_response(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.loss_mask is not None
    return shift_and_pad(ids_of(batch), batch.ignore_index).masked_fill(batch.loss_mask == 0, batch.ignore_index)


@mutant(
    "mask-shifted-twice",
    of=("shift.masked",),
    formula="label[t] = id[t+1] where mask[t+2]",
    tells="a mask 0, 1, 0",
)
def mask_shifted_twice(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.loss_mask is not None
    early = torch.cat([batch.loss_mask[:, 1:], torch.zeros_like(batch.loss_mask[:, :1])], dim=1)
    return shift_with_mask(ids_of(batch), early, batch.ignore_index)
