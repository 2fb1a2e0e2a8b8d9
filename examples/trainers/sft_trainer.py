"""TRL's SFTTrainer as a candidate: completion-only data, padding-free batches, and packing.

SFTTrainer needs a transformers model with an LM head, and makes the labels itself: the input ids without the prompts.
So the table is the model's hidden states, and the head is an identity. The token id that SFTTrainer scores at a place
stands for the label that was drawn at that place.
"""

import logging
import tempfile
import warnings
from types import SimpleNamespace
from typing import Any

import datasets
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

transformers.logging.set_verbosity_error()
datasets.disable_progress_bars()
logging.disable(logging.WARNING)
warnings.filterwarnings("ignore")

TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, "<pad>")), pad_token="<pad>", eos_token="<eos>"
)


def padded(model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int) -> float:
    return _train(model, micro_batches, gradient_accumulation_steps, max_length=None)


def padding_free(model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int) -> float:
    return _train(model, micro_batches, gradient_accumulation_steps, padding_free=True, max_length=None)


def packed(model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int) -> float:
    """Pack whole sequences into rows of twice the longest length, one row per micro-batch."""
    length = 2 * micro_batches[0]["input_ids"].shape[1]
    return _train(model, micro_batches, gradient_accumulation_steps, packing=True, max_length=length)


def _train(model: Any, micro_batches: list[dict[str, Tensor]], window: int, **options: Any) -> float:
    ids, labels, mask = (
        torch.cat([batch[name] for batch in micro_batches]) for name in ("input_ids", "labels", "attention_mask")
    )
    drawn = torch.full((len(model.table),), -100)
    drawn[ids.flatten()] = labels.flatten()
    rows = [
        {"input_ids": row[kept].tolist(), "completion_mask": (label[kept] != -100).long().tolist()}
        for row, label, kept in zip(ids, labels, mask.bool(), strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=1 if options.get("packing") else len(micro_batches[0]["labels"]),
            gradient_accumulation_steps=window,
            completion_only_loss=True,
            max_grad_norm=0.0,
            optim="sgd",
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            bf16=False,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **options,
        )
        trainer = SFTTrainer(
            Model(model, drawn),
            arguments,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=TOKENIZER,
        )
        return float(trainer.train().training_loss)


class Config(PretrainedConfig):
    model_type = "table"


class Backbone(torch.nn.Module):
    """A backbone that returns the table's rows as hidden states."""

    def __init__(self, table: torch.nn.Parameter) -> None:
        super().__init__()
        self.table = table

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        return SimpleNamespace(last_hidden_state=torch.nn.functional.embedding(input_ids, self.table))


class Model(PreTrainedModel):
    config_class = Config
    base_model_prefix = "backbone"
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, model: Any, drawn: Tensor) -> None:
        super().__init__(Config(vocab_size=model.table.shape[-1]))
        self.loss_type = "ForCausalLM"
        self.backbone = Backbone(model.table)
        self.lm_head = torch.nn.Linear(*[model.table.shape[-1]] * 2, bias=False)
        self.lm_head.weight = torch.nn.Parameter(torch.eye(model.table.shape[-1]), requires_grad=False)
        self.generation_config = transformers.GenerationConfig()
        self.score = model.loss
        self.drawn = drawn
        self.register_forward_pre_hook(self._as_drawn, with_kwargs=True)

    def _as_drawn(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        labels = kwargs.get("labels")
        if labels is not None:
            kwargs["labels"] = torch.where(labels < 0, labels, self.drawn[labels.clamp(min=0)])
        return args, kwargs

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.lm_head

    def forward(
        self, input_ids: Tensor, labels: Tensor | None = None, num_items_in_batch: Any = None, **kwargs: Any
    ) -> Any:
        logits = self.lm_head(self.backbone(input_ids).last_hidden_state)
        if labels is None:
            return transformers.modeling_outputs.CausalLMOutput(logits=logits)
        loss = self.score(logits, labels, num_items_in_batch)
        return transformers.modeling_outputs.CausalLMOutput(loss=loss, logits=logits)
