"""transformers' Trainer, in any installed version, as a candidate: one epoch is one window of micro-batches."""

import tempfile
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Trainer, TrainingArguments

transformers.logging.set_verbosity_error()


def train(model: Any, micro_batches: list[dict[str, Tensor]], window: int, label_smoothing: float = 0.0) -> float:
    """Return the loss that Trainer reports for one step. Each micro-batch is one batch of its data loader."""
    batches = iter(micro_batches)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=window,
            label_smoothing_factor=label_smoothing,
            max_grad_norm=0.0,  # no clipping, so that the gradient is checked as it comes out of the loss
            optim="sgd",
            lr_scheduler_type="constant",
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=_Numbers(len(micro_batches)),
            data_collator=lambda rows: dict(next(batches)),
        )
        return float(trainer.train().training_loss)


def step(model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int) -> float:
    return train(model, micro_batches, gradient_accumulation_steps)


def smoothed(
    model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int, label_smoothing: float
) -> float:
    """Use the label smoothing of Trainer, not of the model. It shifts for model classes whose names it knows."""
    model._get_name = lambda: "LlamaForCausalLM"
    return train(model, micro_batches, gradient_accumulation_steps, label_smoothing)


class _Numbers(torch.utils.data.Dataset[int]):
    """As many items as there are micro-batches. The collator returns one micro-batch per item."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> int:
        return index
