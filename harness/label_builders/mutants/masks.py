"""Known-wrong builders of masked labels: padding, prompts and turns."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.builders import (
    BuilderBatch,
    BuilderSpec,
    answer,
    mask_padding,
    shift_and_pad,
)

from .base import MASKS, ids_of, mutant, right_of


@mutant(
    "ignore-unused",
    of=("mask.padding", "mask.prompt", "mask.prompt.left"),
    formula="padding is trained on",
    tells="one padded row",
)
def ignore_unused(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.attention_mask is not None
    return torch.where(batch.attention_mask == 0, ids_of(batch), right_of(spec, batch))


@mutant(
    "hardcoded-ignore",
    of=("packing.labels", *MASKS),
    formula="id 0 is taken for padding",
    tells="id 0 as a target",
    seen="transformers#23530, trl#976",
)
def hardcoded_ignore(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = right_of(spec, batch)
    return built.masked_fill(built == 0, batch.ignore_index)


@mutant(
    "prompt-included",
    of=("mask.prompt", "mask.prompt.left", "mask.assistant", "mask.turns", "shift.masked"),
    formula="all tokens but padding are trained on",
    tells="any prompt",
    seen="TRL ORPO 0.12–0.13",
)
def prompt_included(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return answer(shift_and_pad if spec.name == "shift.masked" else mask_padding, batch)


@mutant(
    "prompt-off-by-one",
    of=("mask.prompt", "mask.prompt.left"),
    details=("the last prompt token is trained", "the first completion token is not"),
    formula="ignored up to prompt_length ∓ 1",
    tells="a prompt of 1 and a completion of 1",
)
def prompt_off_by_one(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.prompt_lengths is not None
    by = -1 if detail.startswith("the last") else 1
    return right_of(spec, replace(batch, prompt_lengths=batch.prompt_lengths + by))


@mutant(
    "prompt-by-column",
    of=("mask.prompt.left",),
    formula="the first prompt_length columns are ignored, padding counted as prompt",
    tells="a row padded on the left",
)
def prompt_by_column(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.attention_mask is not None
    columns = right_of(spec, replace(batch, attention_mask=torch.ones_like(batch.attention_mask)))
    return columns.masked_fill(batch.attention_mask == 0, batch.ignore_index)


@mutant(
    "prompt-of-row-0",
    of=("mask.prompt", "mask.prompt.left"),
    formula="every row's prompt is as long as the first row's",
    tells="2 rows with prompts of unequal length",
)
def prompt_of_row_0(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    lengths = batch.prompt_lengths
    assert lengths is not None
    return right_of(spec, replace(batch, prompt_lengths=lengths[:1].expand(lengths.shape)))


def _turns_moved(batch: BuilderBatch, first: int, last: int) -> Tensor:
    """Return a bool mask [B, S]: True inside a turn whose ends were moved by ``first`` and ``last``."""
    assert batch.assistant_turns is not None
    inside = torch.zeros_like(ids_of(batch), dtype=torch.bool)
    for row, turns in enumerate(batch.assistant_turns.tolist()):
        for begin, end in turns:
            if begin >= 0:
                inside[row, max(begin + first, 0) : max(end + last + 1, 0)] = True
    return inside


def _only(batch: BuilderBatch, inside: Tensor) -> Tensor:
    return ids_of(batch).masked_fill(~inside, batch.ignore_index)


_TURNS = ("mask.assistant", "mask.turns")


@mutant(
    "drop-last-response",
    of=_TURNS,
    formula="label[a:b] where [a:b+1] is meant: the end of turn is never trained",
    tells="one turn",
    seen="OpenRLHF#781, trl#5988 (templates whose end of turn falls outside the mask)",
)
def drop_last_response(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _only(batch, _turns_moved(batch, 0, -1))


@mutant(
    "turn-too-long",
    of=_TURNS,
    details=("at its start", "at its end"),
    formula="a turn with the token before it, or after it",
    tells="one turn after a prompt; two turns",
)
def turn_too_long(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _only(batch, _turns_moved(batch, -1, 0) if detail == "at its start" else _turns_moved(batch, 0, 1))


@mutant(
    "one-turn-only",
    of=_TURNS,
    details=("the first", "the last"),
    formula="of several turns, one is trained on",
    tells="2 turns in a row",
)
def one_turn_only(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    turns = batch.assistant_turns
    assert turns is not None
    kept = torch.full_like(turns, -1)
    for row, of_row in enumerate(turns.tolist()):
        real = [index for index, (first, _) in enumerate(of_row) if first >= 0]
        for index in real[:1] if detail == "the first" else real[-1:]:
            kept[row, index] = turns[row, index]
    return _only(batch, _turns_moved(replace(batch, assistant_turns=kept), 0, 0))
