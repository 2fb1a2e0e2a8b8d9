"""transformers' own collators and delay patterns as label builders: a few lines that hand over what each one wants."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def _flattened(input_ids: Tensor, seq_lengths: Tensor, separator: int = -100) -> Any:
    from transformers import DataCollatorWithFlattening

    documents = [{"input_ids": document.tolist()} for document in input_ids[0].split(seq_lengths.tolist())]
    collator = DataCollatorWithFlattening(return_flash_attn_kwargs=True, separator_id=separator)
    return collator(documents, return_tensors="pt")


def packed_labels(input_ids: Tensor, seq_lengths: Tensor, ignore_index: int = -100) -> Any:
    return _flattened(input_ids, seq_lengths, ignore_index)  # a dict with "labels"


def packed_position_ids(input_ids: Tensor, seq_lengths: Tensor) -> Tensor:
    found: Tensor = _flattened(input_ids, seq_lengths)["position_ids"]
    return found


def packed_cu_seqlens(input_ids: Tensor, seq_lengths: Tensor) -> Tensor:
    found: Tensor = _flattened(input_ids, seq_lengths)["cu_seq_lens_q"]
    return found


def language_modelling(input_ids: Tensor, pad_token_id: int) -> Any:
    """Rows that are padded already, as a tokenizer leaves them: the collator looks at no attention mask."""
    from transformers import DataCollatorForLanguageModeling

    tokenizer: Any = SimpleNamespace(pad_token_id=pad_token_id)
    return DataCollatorForLanguageModeling(tokenizer, mlm=False)(list(input_ids))


def _higgs(bos: int, eos: int) -> Any:
    from transformers.models.higgs_audio_v2.processing_higgs_audio_v2 import HiggsAudioV2Processor

    processor: Any = object.__new__(HiggsAudioV2Processor)  # without a tokenizer and a codec, which it needs not here
    processor.audio_stream_bos_id, processor.audio_stream_eos_id = bos, eos
    return processor


def higgs_delay(audio_codes: Tensor, bos_token_id: int, eos_token_id: int) -> Tensor:
    found: Tensor = _higgs(bos_token_id, eos_token_id).build_delay_pattern(audio_codes)
    return found


def higgs_undo(delayed_codes: Tensor, bos_token_id: int, eos_token_id: int) -> Tensor:
    """Each row by itself, [F, K] -> [T, K]."""
    processor = _higgs(bos_token_id, eos_token_id)
    return torch.stack([processor.revert_delay_pattern(row.T).T for row in delayed_codes])


def moshi_labels(audio_codes: Tensor, bos_token_id: int) -> Tensor:
    """As MoshiForConditionalGeneration.forward calls it on the audio labels."""
    from transformers.models.moshi.modeling_moshi import MoshiForConditionalGeneration

    model: Any = None  # it looks at none
    build = MoshiForConditionalGeneration.build_delay_pattern_mask
    labels, _ = build(model, audio_codes, bos_token_id, bos_token_id, max_length=audio_codes.shape[-1] + 1)
    return labels


def dia_delay(audio_codes: Tensor, delays: list[int], bos_token_id: int, eos_token_id: int) -> Tensor:
    """Any delays. It moves within as many frames as it is given, so they are padded first, as the processor does."""
    from transformers.models.dia.processing_dia import DiaProcessor

    padded = torch.nn.functional.pad(audio_codes, (0, max(delays)), value=eos_token_id).transpose(1, 2)
    rows, frames, books = padded.shape
    indices = DiaProcessor.build_indices(rows, frames, books, delays)
    return DiaProcessor.apply_audio_delay(padded, eos_token_id, bos_token_id, indices).transpose(1, 2)


def dia_undo(delayed_codes: Tensor, delays: list[int]) -> Tensor:
    """The frames at the end, which nothing was moved to, are for the caller to cut off."""
    from transformers.models.dia.processing_dia import DiaProcessor

    delayed = delayed_codes.transpose(1, 2)
    rows, frames, books = delayed.shape
    indices = DiaProcessor.build_indices(rows, frames, books, delays, revert=True)
    return DiaProcessor.apply_audio_delay(delayed, -1, -1, indices)[:, : frames - max(delays)].transpose(1, 2)
