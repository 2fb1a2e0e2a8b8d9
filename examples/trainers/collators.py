"""Collators as label builders: they get the drawn tokens as examples, and return the labels."""

from typing import Any

import torch
from torch import Tensor


def transformers_flattening(input_ids: Tensor, seq_lengths: Tensor, ignore_index: int = -100) -> Any:
    """Use transformers' DataCollatorWithFlattening, under packing.labels."""
    from transformers import DataCollatorWithFlattening

    return DataCollatorWithFlattening(separator_id=ignore_index)(
        _documents(input_ids, seq_lengths), return_tensors="pt"
    )


def trl_padding_free(input_ids: Tensor, seq_lengths: Tensor) -> Any:
    """Use TRL's collator with padding_free, under packing.labels."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    return DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(_documents(input_ids, seq_lengths))


def trl_completion_only(input_ids: Tensor, attention_mask: Tensor, prompt_lengths: Tensor, pad_token_id: int) -> Tensor:
    """Use TRL's collator with completion masks, which it supported until 0.29, under mask.prompt."""
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    examples = []
    for ids, kept, prompt in zip(input_ids, attention_mask.bool(), prompt_lengths.tolist(), strict=True):
        row = ids[kept].tolist()
        examples.append({"input_ids": row, "completion_mask": [int(place >= prompt) for place in range(len(row))]})
    labels: Tensor = DataCollatorForLanguageModeling(pad_token_id, completion_only_loss=True)(examples)["labels"]
    return torch.nn.functional.pad(labels, (0, input_ids.shape[1] - labels.shape[1]), value=-100)


def _documents(input_ids: Tensor, seq_lengths: Tensor) -> list[dict[str, Any]]:
    return [{"input_ids": document.tolist()} for document in input_ids[0].split(seq_lengths.tolist())]
