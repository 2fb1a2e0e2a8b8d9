"""Label builders: right ones in plain loops over Python lists, one a spec, and wrong ones, named after their bug or
made to break one law.

A right builder is called as its spec is, with ``_`` for every dot.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

_calls = 0


# --- right ------------------------------------------------------------------------------------------------------------


def _shifted_books(
    codes: Tensor, delays: list[int], first: list[int], last: list[int], before: int, after: int
) -> Tensor:
    """[B, K, T + …]: every codebook with ``first`` in front and ``last`` behind, moved and filled up."""
    rows = []
    for row in codes.tolist():
        books = []
        for book, delay in zip(row, delays, strict=True):
            told = first + book + last
            books.append([before] * delay + told + [after] * (max(delays) - delay))
        rows.append(books)
    return torch.tensor(rows)


def delay_apply(audio_codes: Tensor, delays: list[int], bos_token_id: int, eos_token_id: int) -> Tensor:
    return _shifted_books(audio_codes, delays, [], [], bos_token_id, eos_token_id)


def delay_undo(delayed_codes: Tensor, delays: list[int]) -> Tensor:
    frames = delayed_codes.shape[2] - max(delays)
    rows = delayed_codes.tolist()
    return torch.tensor(
        [[[book[at + delay] for at in range(frames)] for book, delay in zip(row, delays, strict=True)] for row in rows]
    )


def delay_labels_boson(audio_codes: Tensor, delays: list[int], eos_token_id: int, ignore_index: int = -100) -> Tensor:
    return _shifted_books(audio_codes, delays, [ignore_index], [eos_token_id], ignore_index, ignore_index)


def delay_labels_filled(audio_codes: Tensor, delays: list[int], bos_token_id: int, eos_token_id: int) -> Tensor:
    return _shifted_books(audio_codes, delays, [bos_token_id], [eos_token_id], bos_token_id, eos_token_id)


def delay_labels_hf(audio_codes: Tensor, delays: list[int], ignore_index: int = -100) -> dict[str, Tensor]:
    ignored = [ignore_index]
    return {"labels": _shifted_books(audio_codes, delays, ignored, ignored, ignore_index, ignore_index)}


def delay_moshi(audio_codes: Tensor, bos_token_id: int) -> Tensor:
    rows = []
    for row in audio_codes.tolist():
        rows.append([book if at == 0 else [bos_token_id, *book[:-1]] for at, book in enumerate(row)])
    return torch.tensor(rows)


def delay_dia(audio_codes: Tensor, eos_token_id: int, ignore_index: int = -100) -> Tensor:
    pattern = [0] + [8 + book for book in range(audio_codes.shape[1] - 1)]
    built = _shifted_books(audio_codes, pattern, [ignore_index], [eos_token_id], ignore_index, ignore_index)
    return torch.cat([row[:, 1:] for row in built])


def shift_pad(input_ids: Tensor, ignore_index: int = -100) -> Tensor:
    return torch.tensor([[*row[1:], ignore_index] for row in input_ids.tolist()], dtype=torch.int32)


def shift_trim(input_ids: Tensor) -> Tensor:
    return torch.stack([row[1:] for row in input_ids])


def shift_trim_inputs(input_ids: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack([row[:-1] for row in input_ids]), torch.stack([row[1:] for row in input_ids])


def shift_masked(input_ids: Tensor, loss_mask: Tensor, ignore_index: int = -100) -> Tensor:
    rows = []
    for ids, mask in zip(input_ids.tolist(), loss_mask.tolist(), strict=True):
        kept = [id if trained else ignore_index for id, trained in zip(ids, mask, strict=True)]
        rows.append([*kept[1:], ignore_index])
    return torch.tensor(rows)


def packing_labels(input_ids: Tensor, seq_lengths: Tensor, ignore_index: int = -100) -> Tensor:
    labels: list[int] = []
    ids = input_ids[0].tolist()
    for length in seq_lengths.tolist():
        labels += [ignore_index, *ids[len(labels) + 1 : len(labels) + length]]
    return torch.tensor([labels])


def packing_position_ids(seq_lengths: Tensor) -> Tensor:
    return torch.cat([torch.arange(length) for length in seq_lengths.tolist()])[None]


def packing_cu_seqlens(seq_lengths: Tensor) -> Tensor:
    ends = [0]
    for length in seq_lengths.tolist():
        ends.append(ends[-1] + length)
    return torch.tensor(ends, dtype=torch.int32)


def _kept(ids: Tensor, trained: list[list[bool]], ignore_index: int) -> Tensor:
    rows = zip(ids.tolist(), trained, strict=True)
    return torch.tensor([[id if own else ignore_index for id, own in zip(*row, strict=True)] for row in rows])


def mask_padding(input_ids: Tensor, attention_mask: Tensor, ignore_index: int = -100) -> Tensor:
    return _kept(input_ids, attention_mask.bool().tolist(), ignore_index)


def mask_prompt_left(
    input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor, ignore_index: int = -100
) -> Tensor:
    trained = []
    for real, prompt in zip(attention_mask.tolist(), prompt_lengths.tolist(), strict=True):
        before = [sum(real[:at]) for at in range(len(real))]
        trained.append([bool(here) and count >= prompt for here, count in zip(real, before, strict=True)])
    return _kept(input_ids, trained, ignore_index)


mask_prompt = mask_prompt_left


def mask_assistant(
    input_ids: Tensor, attention_mask: Tensor, assistant_mask: Tensor, ignore_index: int = -100
) -> Tensor:
    return _kept(input_ids, (attention_mask * assistant_mask).bool().tolist(), ignore_index)


def mask_turns(input_ids: Tensor, assistant_turns: Tensor, ignore_index: int = -100) -> Tensor:
    places = range(input_ids.shape[1])
    trained = [
        [any(0 <= first <= at <= last for first, last in turns) for at in places] for turns in assistant_turns.tolist()
    ]
    return _kept(input_ids, trained, ignore_index)


# --- wrong, and called as the bug: NAME is name, with _ for every - ---------------------------------------------------


def fill_trained(audio_codes: Tensor, delays: list[int], bos_token_id: int, eos_token_id: int) -> Tensor:
    """delay.labels.boson; the labels are the delayed inputs."""
    return delay_labels_filled(audio_codes, delays, bos_token_id, eos_token_id)


def delay_truncated(audio_codes: Tensor, delays: list[int], bos_token_id: int, eos_token_id: int) -> Tensor:
    """delay.apply"""
    out = torch.full_like(audio_codes, bos_token_id)
    for book, delay in enumerate(delays):
        out[:, book, delay:] = audio_codes[:, book, : max(audio_codes.shape[2] - delay, 0)]
    return out


def delay_off_by_one(audio_codes: Tensor, delays: list[int], eos_token_id: int, ignore_index: int = -100) -> Tensor:
    """delay.labels.boson"""
    moved = [max(delay - 1, 0) for delay in delays]
    built = delay_labels_boson(audio_codes, moved, eos_token_id, ignore_index)
    missing = max(delays) - max(moved)
    return torch.nn.functional.pad(built, (0, missing), value=ignore_index)


def undo_cut(delayed_codes: Tensor, delays: list[int]) -> Tensor:
    """delay.undo"""
    return delayed_codes[..., : delayed_codes.shape[2] - max(delays)]


def layout_swap(audio_codes: Tensor, delays: list[int], bos_token_id: int, eos_token_id: int) -> Tensor:
    """delay.apply"""
    return delay_apply(audio_codes, delays, bos_token_id, eos_token_id).transpose(1, 2)


def double_shift(input_ids: Tensor, ignore_index: int = -100) -> Tensor:
    """shift.pad"""
    return shift_pad(shift_pad(input_ids, ignore_index), ignore_index)


def flatten_then_shift(input_ids: Tensor, ignore_index: int = -100) -> Tensor:
    """shift.pad"""
    flat = [*input_ids.flatten().tolist()[1:], ignore_index]
    return torch.tensor(flat).reshape(input_ids.shape)


def drop_first_response(input_ids: Tensor, loss_mask: Tensor, ignore_index: int = -100) -> Tensor:
    """shift.masked"""
    return _kept(shift_pad(input_ids, ignore_index), loss_mask.bool().tolist(), ignore_index)


def cross_document(input_ids: Tensor) -> Tensor:
    """packing.labels"""
    return input_ids.clone()


def positions_not_restarted(input_ids: Tensor) -> Tensor:
    """packing.position_ids"""
    return torch.arange(input_ids.shape[1])[None]


def eos_masked(input_ids: Tensor, pad_token_id: int, ignore_index: int = -100) -> Tensor:
    """mask.padding"""
    return _kept(input_ids, (input_ids != pad_token_id).tolist(), ignore_index)


def prompt_of_row_0(
    input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor, ignore_index: int = -100
) -> Tensor:
    """mask.prompt"""
    return mask_prompt(input_ids, attention_mask, prompt_lengths[:1].expand_as(prompt_lengths), ignore_index)


def drop_last_response(input_ids: Tensor, assistant_turns: Tensor, ignore_index: int = -100) -> Tensor:
    """mask.turns"""
    labels = torch.full_like(input_ids, ignore_index)
    for row, turns in enumerate(assistant_turns.tolist()):
        for first, last in turns:
            if first >= 0:
                labels[row, first:last] = input_ids[row, first:last]
    return labels


def ids_overwritten(input_ids: Tensor, attention_mask: Tensor, ignore_index: int = -100) -> Tensor:
    """mask.padding"""
    input_ids[attention_mask == 0] = ignore_index
    return input_ids


# --- wrong in other ways; all but the last under shift.pad ------------------------------------------------------------


def returns_floats(input_ids: Tensor, ignore_index: int = -100) -> Tensor:
    return shift_pad(input_ids, ignore_index).float()


def returns_booleans(input_ids: Tensor) -> Tensor:
    return shift_pad(input_ids) != -100


def returns_number(input_ids: Tensor) -> int:
    return 3


def returns_nothing(input_ids: Tensor) -> None:
    return None


def raises(input_ids: Tensor) -> Tensor:
    raise ValueError("no labels for you")


def loses_an_axis(input_ids: Tensor, ignore_index: int = -100) -> Tensor:
    return shift_pad(input_ids, ignore_index).flatten()


def drops_a_row(input_ids: Tensor, ignore_index: int = -100) -> Tensor:
    return shift_pad(input_ids, ignore_index)[1:]


def alternates(input_ids: Tensor, ignore_index: int = -100) -> Tensor:
    """Right at the even calls, and at the odd ones not shifted."""
    global _calls
    _calls += 1
    return shift_pad(input_ids, ignore_index) if _calls % 2 else input_ids.clone()


def rolls_dice(input_ids: Tensor, ignore_index: int = -100) -> Tensor:
    labels = shift_pad(input_ids, ignore_index)
    labels[..., -1] = random.choice([ignore_index, 0])
    return labels


def forgets_a_delay(audio_codes: Tensor, delays: list[int], bos_token_id: int, eos_token_id: int) -> Tensor:
    """delay.apply; writes to the list of delays, and is right."""
    built = delay_apply(audio_codes, delays, bos_token_id, eos_token_id)
    delays.append(0)
    return built


def scales_by_row(input_ids: Tensor, ignore_index: int = -100) -> Tensor:
    """The last label of every row but the first is the first row's."""
    labels = shift_pad(input_ids, ignore_index)
    labels[1:, -1] = input_ids[0, -1]
    return labels
