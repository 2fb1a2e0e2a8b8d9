"""Known-wrong builders of delayed codebooks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.builders import (
    BuilderBatch,
    BuilderSpec,
    answer,
    boson_labels,
    filled_labels,
)
from shiftproof.reference.delay import apply_delay, between, staircase

from .base import HIGGS, fitted, known, mutant, right_of


def _codes(batch: BuilderBatch) -> Tensor:
    assert batch.audio_codes is not None
    return batch.audio_codes


def _delays(batch: BuilderBatch) -> tuple[int, ...]:
    assert batch.delays is not None
    return batch.delays


_APPLY = ("delay.apply", *HIGGS, "delay.moshi", "delay.dia")
_TRAIN_EOS_ONCE = ("delay.labels.boson", "delay.dia")


def _tail(spec: BuilderSpec, batch: BuilderBatch) -> int:
    """Return the id that ends every codebook except the last under ``spec``."""
    ignored = ("delay.labels.boson", "delay.labels.hf", "delay.dia")
    return batch.ignore_index if spec.name in ignored else known(batch.eos_token_id)


def _redelayed(spec: BuilderSpec, batch: BuilderBatch, delays: tuple[int, ...]) -> Tensor:
    """Return the right output for other delays, in the right number of frames."""
    return fitted(right_of(spec, replace(batch, delays=delays)), right_of(spec, batch), _tail(spec, batch))


def _at(batch: BuilderBatch, delays: tuple[int, ...], like: Tensor) -> Tensor:
    """Return each codebook of the delayed codes from its delay on, padded with EOS at the end."""
    delayed = batch.delayed_codes
    assert delayed is not None
    room = torch.nn.functional.pad(delayed, (0, max(delays)), value=known(batch.eos_token_id))
    return torch.stack([room[:, book, delay:][:, : like.shape[-1]] for book, delay in enumerate(delays)], dim=1)


def _off(delays: tuple[int, ...], by: int) -> tuple[int, ...]:
    return tuple(max(delay + by, 0) if delay else 0 for delay in delays)


@mutant(
    "delay-off-by-one",
    of=_APPLY,
    details=("early", "late"),
    formula="out[k, t + delays[k] ∓ 1] = code[k, t] in every codebook that is delayed",
    tells="K=2, distinct codes",
)
def delay_off_by_one(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _redelayed(spec, batch, _off(_delays(batch), -1 if detail == "early" else 1))


@mutant(
    "delay-reversed",
    of=_APPLY,
    formula="out[k, t + delays[K−1−k]] = code[k, t]: the last codebook first",
    tells="K=2, distinct codes",
)
def delay_reversed(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _redelayed(spec, batch, _delays(batch)[::-1])


@mutant("no-delay", of=_APPLY, formula="out[k, t] = code[k, t]: as long as it must be, and not delayed", tells="K=2")
def no_delay(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _redelayed(spec, batch, (0,) * len(_delays(batch)))


@mutant(
    "delay-assumed",
    of=(*_APPLY, "delay.undo"),
    formula="out[k, t + k] = code[k, t], whatever the delays are",
    tells="K=3, delays 0, 1, 1",
    seen="Higgs-audio and MusicGen code reused for Moshi or Dia",
)
def delay_assumed(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    delays = staircase(len(_delays(batch)))
    if spec.name != "delay.undo":
        return right_of(spec, replace(batch, delays=delays))
    return _at(batch, delays, right_of(spec, batch))


@mutant(
    "delay-truncated",
    of=("delay.apply", *HIGGS, "delay.dia"),
    formula="as many frames as before the delay: late codebooks lose their last codes and their EOS",
    tells="K=2",
    seen="NeMo Speech#16164 (an EOS delayed out of its window)",
)
def delay_truncated(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = right_of(spec, batch)
    return built[..., : built.shape[-1] - max(_delays(batch))]


@mutant(
    "delay-not-cut",
    of=("delay.moshi",),
    formula="one frame more than the text has",
    tells="K=2",
)
def delay_not_cut(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    bos = known(batch.bos_token_id)
    return apply_delay(_codes(batch), _delays(batch), bos, bos)


@mutant(
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


@mutant(
    "bos-eos-swapped",
    of=("delay.apply", "delay.labels.filled", *_TRAIN_EOS_ONCE),
    formula="EOS where BOS belongs, and BOS where EOS belongs",
    tells="any codes; for delay.apply, K=2",
)
def bos_eos_swapped(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return right_of(spec, replace(batch, bos_token_id=batch.eos_token_id, eos_token_id=batch.bos_token_id))


@mutant(
    "fill-trained",
    of=("delay.labels.boson", "delay.labels.hf", "delay.dia"),
    details=("before and after", "before", "after"),
    formula="the BOS that waits and the EOS that follows are targets, though no codebook says them",
    tells="K=2",
    seen="a public Higgs-audio trainer, whose labels are the delayed inputs",
)
def fill_trained(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    right = right_of(spec, batch)
    filled = answer(filled_labels, batch)
    if spec.name == "delay.dia":
        filled = filled[..., 1:].flatten(0, 1)
    if detail == "before":
        return torch.where(filled == known(batch.bos_token_id), filled, right)
    if detail == "after":
        return torch.where(filled == known(batch.eos_token_id), filled, right)
    return filled


@mutant(
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


@mutant(
    "bos-trained",
    of=("delay.labels.boson", "delay.labels.hf"),
    formula="each codebook's own BOS is a target; those of the late codebooks survive the shift",
    tells="K=2",
)
def bos_trained(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    ignore = batch.ignore_index
    last = ignore if spec.name == "delay.labels.hf" else known(batch.eos_token_id)
    return apply_delay(between(_codes(batch), known(batch.bos_token_id), last), _delays(batch), ignore, ignore)


@mutant(
    "eos-masked",
    of=(*_TRAIN_EOS_ONCE, "mask.padding", "mask.prompt", "mask.prompt.left", "mask.assistant", "mask.turns"),
    formula="the end is never trained: for text, every id that equals the pad id is ignored, and EOS is the pad id",
    tells="any codes; for text, eos_token_id == pad_token_id",
    seen="transformers#23530, trl#976, parler-tts#208",
)
def eos_masked(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = right_of(spec, batch)
    lost = known(batch.eos_token_id if spec.name.startswith("delay") else batch.pad_token_id)
    return built.masked_fill(built == lost, batch.ignore_index)


@mutant(
    "eos-of-book-0-alone",
    of=_TRAIN_EOS_ONCE,
    formula="only the first codebook's EOS is a target",
    tells="K=2",
)
def eos_of_book_0_alone(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = answer(boson_labels, batch)
    built[:, 1:] = built[:, 1:].masked_fill(built[:, 1:] == known(batch.eos_token_id), batch.ignore_index)
    return built[..., 1:].flatten(0, 1) if spec.name == "delay.dia" else built


@mutant(
    "eos-trained",
    of=("delay.labels.hf",),
    formula="each codebook's EOS is a target",
    tells="any codes",
    seen="boson-ai/higgs-audio's collator, which is right there",
)
def eos_trained(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return answer(boson_labels, batch)


@mutant(
    "layout-swap",
    of=_APPLY,
    formula="codebooks and time, or for Dia rows and codebooks, in the wrong order",
    tells="K=2; for Dia B=2 and K=2",
)
def layout_swap(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    built = right_of(spec, batch)
    if spec.name == "delay.dia":
        rows, books = _codes(batch).shape[:2]
        return built.reshape(rows, books, -1).transpose(0, 1).flatten(0, 1)
    return built.transpose(1, 2)


@mutant(
    "undo-off-by-one",
    of=("delay.undo",),
    details=("early", "late"),
    formula="out[k, t] = delayed[k, t + delays[k] ∓ 1] in every codebook that is delayed",
    tells="K=2, distinct codes",
)
def undo_off_by_one(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    return _at(batch, _off(_delays(batch), -1 if detail == "early" else 1), right_of(spec, batch))


@mutant(
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


@mutant(
    "undo-not-cut",
    of=("delay.undo",),
    formula="moved back, but as many frames as were delayed: EOS at the end",
    tells="K=2",
)
def undo_not_cut(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.delayed_codes is not None
    return _at(batch, _delays(batch), batch.delayed_codes)


@mutant(
    "delayed-twice", of=("delay.undo",), formula="delayed once more instead of moved back", tells="K=2, distinct codes"
)
def delayed_twice(spec: BuilderSpec, batch: BuilderBatch, detail: str) -> Tensor:
    assert batch.delayed_codes is not None
    return apply_delay(batch.delayed_codes, _delays(batch), known(batch.bos_token_id), known(batch.eos_token_id))
