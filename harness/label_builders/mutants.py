"""Known-wrong label builders, each named after its bug. If a loss can have the same bug, it has the same name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shiftproof.reference.builders import (
    BuilderBatch,
    BuilderSpec,
    answer,
    boson_labels,
    filled_labels,
    mask_padding,
    packed_cu_seqlens,
    shift_and_pad,
    shift_with_mask,
)
from shiftproof.reference.delay import apply_delay, between, staircase

Wrong = Callable[[BuilderSpec, BuilderBatch, str], Tensor]
"""Returns the output of a buggy builder for a batch. The string selects the variant of the bug."""


@dataclass(frozen=True)
class BuilderMutant:
    """A re-enacted bug that shipped, or an easy slip.

    Attributes:
        name: the name of the bug, as in the diagnosis.
        of: the specs under which the bug is possible.
        formula: what is built instead.
        tells: the smallest input on which it differs from the right builder.
        seen: where the bug happened.
        details: the variants of the bug. ``wrong`` gets one of them.
    """

    name: str
    of: tuple[str, ...]
    formula: str
    tells: str
    seen: str
    details: tuple[str, ...]
    wrong: Wrong


BUILDER_MUTANTS: dict[str, BuilderMutant] = {}

_SLIP = "an easy slip"


def mutants_of(spec: BuilderSpec) -> tuple[BuilderMutant, ...]:
    """Return the known-wrong builders of one spec."""
    return tuple(mutant for mutant in BUILDER_MUTANTS.values() if spec.name in mutant.of)


def _mutant(
    name: str, *, of: Iterable[str], formula: str, tells: str, seen: str = _SLIP, details: tuple[str, ...] = ("",)
) -> Callable[[Wrong], Wrong]:
    """Register the decorated function as a mutant."""

    def register(wrong: Wrong) -> Wrong:
        if name in BUILDER_MUTANTS:
            raise ValueError(f"two mutants have the name {name!r}")
        BUILDER_MUTANTS[name] = BuilderMutant(name, tuple(of), formula, tells, seen, details, wrong)
        return wrong

    return register


def _right(spec: BuilderSpec, batch: BuilderBatch) -> Tensor:
    return answer(spec.build, batch)


def _fitted(built: Tensor, right: Tensor, fill: int) -> Tensor:
    """Cut or pad ``built`` at its end to the right number of frames, so that its shape does not give the bug away."""
    frames, wanted = built.shape[-1], right.shape[-1]
    if frames >= wanted:
        return built[..., :wanted]
    return torch.cat([built, built.new_full((*built.shape[:-1], wanted - frames), fill)], dim=-1)


def _known(value: int | None) -> int:
    assert value is not None  # every batch of cases.py has its special ids
    return value


def _codes(batch: BuilderBatch) -> Tensor:
    assert batch.audio_codes is not None
    return batch.audio_codes


def _delays(batch: BuilderBatch) -> tuple[int, ...]:
    assert batch.delays is not None
    return batch.delays


# Codebook delays ------------------------------------------------------------------------------------------------------

_HIGGS = ("delay.labels.boson", "delay.labels.filled", "delay.labels.hf")
_APPLY = ("delay.apply", *_HIGGS, "delay.moshi", "delay.dia")
_TRAIN_EOS_ONCE = ("delay.labels.boson", "delay.dia")


def _tail(spec: BuilderSpec, batch: BuilderBatch) -> int:
    """Return the id that ends every codebook except the last under ``spec``."""
    ignored = ("delay.labels.boson", "delay.labels.hf", "delay.dia")
    return batch.ignore_index if spec.name in ignored else _known(batch.eos_token_id)


def _redelayed(spec: BuilderSpec, batch: BuilderBatch, delays: tuple[int, ...]) -> Tensor:
    """Return the right output for other delays, in the right number of frames."""
    return _fitted(_right(spec, replace(batch, delays=delays)), _right(spec, batch), _tail(spec, batch))


def _at(batch: BuilderBatch, delays: tuple[int, ...], like: Tensor) -> Tensor:
    """Return each codebook of the delayed codes from its delay on, padded with EOS at the end."""
    delayed = batch.delayed_codes
    assert delayed is not None
    room = torch.nn.functional.pad(delayed, (0, max(delays)), value=_known(batch.eos_token_id))
    return torch.stack([room[:, book, delay:][:, : like.shape[-1]] for book, delay in enumerate(delays)], dim=1)


def _off(delays: tuple[int, ...], by: int) -> tuple[int, ...]:
    return tuple(max(delay + by, 0) if delay else 0 for delay in delays)


@_mutant(
    "delay-off-by-one",
    of=_APPLY,
    details=("early", "late"),
    formula="out[k, t + delays[k] ∓ 1] = code[k, t] in every codebook that is delayed",
    tells="K=2, distinct codes",
)
def delay_off_by_one(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _redelayed(spec, batch, _off(_delays(batch), -1 if detail == "early" else 1))


@_mutant(
    "delay-reversed",
    of=_APPLY,
    formula="out[k, t + delays[K−1−k]] = code[k, t]: the last codebook first",
    tells="K=2, distinct codes",
)
def delay_reversed(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _redelayed(spec, batch, _delays(batch)[::-1])


@_mutant("no-delay", of=_APPLY, formula="out[k, t] = code[k, t]: as long as it must be, and not delayed", tells="K=2")
def no_delay(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _redelayed(spec, batch, (0,) * len(_delays(batch)))


@_mutant(
    "delay-assumed",
    of=(*_APPLY, "delay.undo"),
    formula="out[k, t + k] = code[k, t], whatever the delays are",
    tells="K=3, delays 0, 1, 1",
    seen="Higgs-audio and MusicGen code reused for Moshi or Dia",
)
def delay_assumed(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    delays = staircase(len(_delays(batch)))
    if spec.name != "delay.undo":
        return _right(spec, replace(batch, delays=delays))
    return _at(batch, delays, _right(spec, batch))


@_mutant(
    "delay-truncated",
    of=("delay.apply", *_HIGGS, "delay.dia"),
    formula="as many frames as before the delay: late codebooks lose their last codes and their EOS",
    tells="K=2",
    seen="NeMo Speech#16164 (an EOS delayed out of its window)",
)
def delay_truncated(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = _right(spec, batch)
    return built[..., : built.shape[-1] - max(_delays(batch))]


@_mutant(
    "delay-not-cut",
    of=("delay.moshi",),
    formula="one frame more than the text has",
    tells="K=2",
)
def delay_not_cut(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    bos = _known(batch.bos_token_id)
    return apply_delay(_codes(batch), _delays(batch), bos, bos)


@_mutant(
    "roll-wrap",
    of=("delay.apply", "delay.moshi", "shift.pad", "shift.masked"),
    formula="torch.roll brings what leaves at one end back in at the other",
    tells="K=2 for delays; T=2 for shifts",
    seen="verl#6268, ms-swift",
)
def roll_wrap(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    if spec.name.startswith("delay"):
        books = enumerate(_delays(batch))
        return torch.stack([_codes(batch)[:, book].roll(delay, dims=-1) for book, delay in books], dim=1)
    assert batch.input_ids is not None
    labels = batch.input_ids
    if spec.name == "shift.masked":
        assert batch.loss_mask is not None
        labels = labels.masked_fill(batch.loss_mask == 0, batch.ignore_index)
    return labels.roll(-1, dims=1)


@_mutant(
    "bos-eos-swapped",
    of=("delay.apply", "delay.labels.filled", *_TRAIN_EOS_ONCE),
    formula="EOS where BOS belongs, and BOS where EOS belongs",
    tells="any codes; for delay.apply, K=2",
)
def bos_eos_swapped(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _right(spec, replace(batch, bos_token_id=batch.eos_token_id, eos_token_id=batch.bos_token_id))


@_mutant(
    "fill-trained",
    of=("delay.labels.boson", "delay.labels.hf", "delay.dia"),
    details=("before and after", "before", "after"),
    formula="the BOS that waits and the EOS that follows are targets, though no codebook says them",
    tells="K=2",
    seen="a public Higgs-audio trainer, whose labels are the delayed inputs",
)
def fill_trained(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    right = _right(spec, batch)
    filled = answer(filled_labels, batch)
    if spec.name == "delay.dia":
        filled = filled[..., 1:].flatten(0, 1)
    if detail == "before":
        return torch.where(filled == _known(batch.bos_token_id), filled, right)
    if detail == "after":
        return torch.where(filled == _known(batch.eos_token_id), filled, right)
    return filled


@_mutant(
    "fill-ignored",
    of=("delay.apply", "delay.labels.filled"),
    formula="ignore_index where the spec has BOS and EOS",
    tells="K=2 for delay.apply, else any codes",
    seen="boson-ai/higgs-audio's collator, which is right there",
)
def fill_ignored(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    if spec.name == "delay.apply":
        return apply_delay(_codes(batch), _delays(batch), batch.ignore_index, batch.ignore_index)
    return answer(boson_labels, batch)


@_mutant(
    "bos-trained",
    of=("delay.labels.boson", "delay.labels.hf"),
    formula="each codebook's own BOS is a target; those of the late codebooks survive the shift",
    tells="K=2",
)
def bos_trained(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    ignore = batch.ignore_index
    last = ignore if spec.name == "delay.labels.hf" else _known(batch.eos_token_id)
    return apply_delay(between(_codes(batch), _known(batch.bos_token_id), last), _delays(batch), ignore, ignore)


@_mutant(
    "eos-masked",
    of=(*_TRAIN_EOS_ONCE, "mask.padding", "mask.prompt", "mask.prompt.left", "mask.assistant", "mask.turns"),
    formula="the end is never trained: for text, every id that equals the pad id is ignored, and EOS is the pad id",
    tells="any codes; for text, eos_token_id == pad_token_id",
    seen="transformers#23530, trl#976, parler-tts#208",
)
def eos_masked(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = _right(spec, batch)
    lost = _known(batch.eos_token_id if spec.name.startswith("delay") else batch.pad_token_id)
    return built.masked_fill(built == lost, batch.ignore_index)


@_mutant(
    "eos-of-book-0-alone",
    of=_TRAIN_EOS_ONCE,
    formula="only the first codebook's EOS is a target",
    tells="K=2",
)
def eos_of_book_0_alone(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = answer(boson_labels, batch)
    built[:, 1:] = built[:, 1:].masked_fill(built[:, 1:] == _known(batch.eos_token_id), batch.ignore_index)
    return built[..., 1:].flatten(0, 1) if spec.name == "delay.dia" else built


@_mutant(
    "eos-trained",
    of=("delay.labels.hf",),
    formula="each codebook's EOS is a target",
    tells="any codes",
    seen="boson-ai/higgs-audio's collator, which is right there",
)
def eos_trained(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return answer(boson_labels, batch)


@_mutant(
    "layout-swap",
    of=_APPLY,
    formula="codebooks and time, or for Dia rows and codebooks, in the wrong order",
    tells="K=2; for Dia B=2 and K=2",
)
def layout_swap(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = _right(spec, batch)
    if spec.name == "delay.dia":
        rows, books = _codes(batch).shape[:2]
        return built.reshape(rows, books, -1).transpose(0, 1).flatten(0, 1)
    return built.transpose(1, 2)


@_mutant(
    "undo-off-by-one",
    of=("delay.undo",),
    details=("early", "late"),
    formula="out[k, t] = delayed[k, t + delays[k] ∓ 1] in every codebook that is delayed",
    tells="K=2, distinct codes",
)
def undo_off_by_one(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _at(batch, _off(_delays(batch), -1 if detail == "early" else 1), _right(spec, batch))


@_mutant(
    "undo-cut",
    of=("delay.undo",),
    details=("at the end", "at the front"),
    formula="out = delayed, cut to T frames: nothing is moved back",
    tells="K=2",
)
def undo_cut(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    delayed, longest = batch.delayed_codes, max(_delays(batch))
    assert delayed is not None
    return delayed[..., longest:] if detail == "at the front" else delayed[..., : delayed.shape[-1] - longest]


@_mutant(
    "undo-not-cut",
    of=("delay.undo",),
    formula="moved back, but as many frames as were delayed: EOS at the end",
    tells="K=2",
)
def undo_not_cut(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.delayed_codes is not None
    return _at(batch, _delays(batch), batch.delayed_codes)


@_mutant(
    "delayed-twice", of=("delay.undo",), formula="delayed once more instead of moved back", tells="K=2, distinct codes"
)
def delayed_twice(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.delayed_codes is not None
    return apply_delay(batch.delayed_codes, _delays(batch), _known(batch.bos_token_id), _known(batch.eos_token_id))


# Shifts ---------------------------------------------------------------------------------------------------------------

_MASKS = ("mask.padding", "mask.prompt", "mask.prompt.left", "mask.assistant", "mask.turns")


def _ids(batch: BuilderBatch) -> Tensor:
    assert batch.input_ids is not None
    return batch.input_ids


@_mutant(
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
        return _ids(batch)[:, :-1]
    if spec.name == "shift.pad":
        return _ids(batch)
    assert batch.loss_mask is not None
    return _ids(batch).masked_fill(batch.loss_mask == 0, batch.ignore_index)


@_mutant(
    "double-shift",
    of=("shift.pad", "shift.trim", "shift.masked", "packing.labels", *_MASKS, *_HIGGS, "delay.dia"),
    formula="shifted once too often: label[t] = id[t+2], or id[t+1] where the loss has yet to shift",
    tells="T=3",
    seen="open-instruct#1549, Qwen3-TTS#371, ms-swift#9752",
)
def double_shift(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = _right(spec, batch)
    if spec.name == "shift.trim":
        return built[:, 1:]
    return _fitted(built[..., 1:], built, batch.ignore_index)


@_mutant(
    "reverse-shift",
    of=("shift.pad", "shift.trim.inputs"),
    formula="label[t] = id[t−1]; for the inputs, the first token is cut off and not the last",
    tells="T=2",
)
def reverse_shift(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    ids = _ids(batch)
    if spec.name == "shift.trim.inputs":
        return ids[:, 1:]
    return torch.cat([torch.full_like(ids[:, :1], batch.ignore_index), ids[:, :-1]], dim=1)


@_mutant(
    "flatten-then-shift",
    of=("shift.pad",),
    formula="the batch is flattened first: a row's last label is the next row's first id",
    tells="B=2",
    seen="transformers#47394",
)
def flatten_then_shift(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    ids = _ids(batch)
    return shift_and_pad(ids.reshape(1, -1), batch.ignore_index).reshape(ids.shape)


@_mutant(
    "tail-pad-target",
    of=("shift.pad", "shift.masked"),
    details=("the pad id", "id 0", "the last id"),
    formula="the last label is an id, not ignored",
    tells="any row",
    seen="transformers XGLM, to 4.48",
)
def tail_pad_target(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = _right(spec, batch)
    tails = {"the pad id": _known(batch.pad_token_id), "id 0": 0}
    built[:, -1] = tails[detail] if detail in tails else _ids(batch)[:, -1]
    return built


@_mutant(
    "not-trimmed",
    of=("shift.trim", "shift.trim.inputs"),
    formula="S places and not S−1",
    tells="any row",
    seen="Higgs-audio trainers: 168 logits a row against 167 labels",
)
def not_trimmed(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _ids(batch) if spec.name == "shift.trim.inputs" else shift_and_pad(_ids(batch), batch.ignore_index)


@_mutant(
    "drop-first-response",
    of=("shift.masked",),
    formula="label[t] = id[t+1] where mask[t]: the mask is not moved with the labels",
    tells="a mask 0, 1",
    seen="verl#3287, torchtitan#2755",
)
def drop_first_response(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.loss_mask is not None
    return shift_and_pad(_ids(batch), batch.ignore_index).masked_fill(batch.loss_mask == 0, batch.ignore_index)


@_mutant(
    "mask-shifted-twice",
    of=("shift.masked",),
    formula="label[t] = id[t+1] where mask[t+2]",
    tells="a mask 0, 1, 0",
)
def mask_shifted_twice(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.loss_mask is not None
    early = torch.cat([batch.loss_mask[:, 1:], torch.zeros_like(batch.loss_mask[:, :1])], dim=1)
    return shift_with_mask(_ids(batch), early, batch.ignore_index)


# Packing --------------------------------------------------------------------------------------------------------------


def _lengths(batch: BuilderBatch) -> Tensor:
    assert batch.seq_lengths is not None
    return batch.seq_lengths


@_mutant(
    "cross-document",
    of=("packing.labels",),
    details=("every first label", "all but the first document's"),
    formula="the first label of a document is kept: the document before it is trained to predict it",
    tells="2 documents",
    seen="trl#4170 (0.22.2–0.23.0), torchtune 0.6.1",
)
def cross_document(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    labels = _ids(batch).clone()
    if detail != "every first label":
        labels[:, 0] = batch.ignore_index
    return labels


@_mutant(
    "boundary-at-the-end",
    of=("packing.labels",),
    details=("instead", "as well"),
    formula="the last label of each document is ignored, as if the labels had been shifted",
    tells="2 documents of 2 tokens",
)
def boundary_at_the_end(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    labels = _ids(batch).clone() if detail == "instead" else _right(spec, batch)
    labels[0, packed_cu_seqlens(_lengths(batch))[1:] - 1] = batch.ignore_index
    return labels


@_mutant(
    "positions-not-restarted",
    of=("packing.position_ids",),
    formula="0, 1, 2, … over the whole row",
    tells="2 documents",
)
def positions_not_restarted(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return torch.arange(int(_lengths(batch).sum()))[None]


@_mutant(
    "positions-from-one",
    of=("packing.position_ids",),
    formula="1, 2, 3, … in each document",
    tells="any document",
)
def positions_from_one(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _right(spec, batch) + 1


@_mutant(
    "cu-seqlens-ends",
    of=("packing.cu_seqlens",),
    details=("no 0 in front", "no total at the end", "lengths"),
    formula="the ends alone, the starts alone, or the lengths themselves",
    tells="2 documents",
)
def cu_seqlens_ends(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    if detail == "lengths":
        return _lengths(batch)
    built = _right(spec, batch)
    return built[1:] if detail == "no 0 in front" else built[:-1]


# Completion masks -----------------------------------------------------------------------------------------------------


@_mutant(
    "ignore-unused",
    of=("mask.padding", "mask.prompt", "mask.prompt.left"),
    formula="padding is trained on",
    tells="one padded row",
)
def ignore_unused(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.attention_mask is not None
    return torch.where(batch.attention_mask == 0, _ids(batch), _right(spec, batch))


@_mutant(
    "hardcoded-ignore",
    of=("packing.labels", *_MASKS),
    formula="id 0 is taken for padding",
    tells="id 0 as a target",
    seen="transformers#23530, trl#976",
)
def hardcoded_ignore(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = _right(spec, batch)
    return built.masked_fill(built == 0, batch.ignore_index)


@_mutant(
    "prompt-included",
    of=("mask.prompt", "mask.prompt.left", "mask.assistant", "mask.turns", "shift.masked"),
    formula="all tokens but padding are trained on",
    tells="any prompt",
    seen="TRL ORPO 0.12–0.13",
)
def prompt_included(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return answer(shift_and_pad if spec.name == "shift.masked" else mask_padding, batch)


@_mutant(
    "prompt-off-by-one",
    of=("mask.prompt", "mask.prompt.left"),
    details=("the last prompt token is trained", "the first completion token is not"),
    formula="ignored up to prompt_length ∓ 1",
    tells="a prompt of 1 and a completion of 1",
)
def prompt_off_by_one(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.prompt_lengths is not None
    by = -1 if detail.startswith("the last") else 1
    return _right(spec, replace(batch, prompt_lengths=batch.prompt_lengths + by))


@_mutant(
    "prompt-by-column",
    of=("mask.prompt.left",),
    formula="the first prompt_length columns are ignored, padding counted as prompt",
    tells="a row padded on the left",
)
def prompt_by_column(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.attention_mask is not None
    columns = _right(spec, replace(batch, attention_mask=torch.ones_like(batch.attention_mask)))
    return columns.masked_fill(batch.attention_mask == 0, batch.ignore_index)


@_mutant(
    "prompt-of-row-0",
    of=("mask.prompt", "mask.prompt.left"),
    formula="every row's prompt is as long as the first row's",
    tells="2 rows with prompts of unequal length",
)
def prompt_of_row_0(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    lengths = batch.prompt_lengths
    assert lengths is not None
    return _right(spec, replace(batch, prompt_lengths=lengths[:1].expand(lengths.shape)))


def _turns_moved(batch: BuilderBatch, first: int, last: int) -> Tensor:
    """Return a bool mask [B, S]: True inside a turn whose ends were moved by ``first`` and ``last``."""
    assert batch.assistant_turns is not None
    inside = torch.zeros_like(_ids(batch), dtype=torch.bool)
    for row, turns in enumerate(batch.assistant_turns.tolist()):
        for begin, end in turns:
            if begin >= 0:
                inside[row, max(begin + first, 0) : max(end + last + 1, 0)] = True
    return inside


def _only(batch: BuilderBatch, inside: Tensor) -> Tensor:
    return _ids(batch).masked_fill(~inside, batch.ignore_index)


_TURNS = ("mask.assistant", "mask.turns")


@_mutant(
    "drop-last-response",
    of=_TURNS,
    formula="label[a:b] where [a:b+1] is meant: the end of turn is never trained",
    tells="one turn",
    seen="OpenRLHF#781, trl#5988 (templates whose end of turn falls outside the mask)",
)
def drop_last_response(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _only(batch, _turns_moved(batch, 0, -1))


@_mutant(
    "turn-too-long",
    of=_TURNS,
    details=("at its start", "at its end"),
    formula="a turn with the token before it, or after it",
    tells="one turn after a prompt; two turns",
)
def turn_too_long(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _only(batch, _turns_moved(batch, -1, 0) if detail == "at its start" else _turns_moved(batch, 0, 1))


@_mutant(
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
