"""Lightning's Trainer with accumulate_grad_batches: it divides by the window, and also steps after the last batch."""

import logging
import warnings
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class Module(lightning.LightningModule):
    def __init__(self, model: Any, scale: float, count: int | None) -> None:
        super().__init__()
        self.model = model
        self.scale = scale
        self.count = count
        self.total = 0.0

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        loss: Tensor = self.model(**batch, num_items_in_batch=self.count).loss * self.scale
        self.total += float(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def step(model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int) -> float:
    """Multiply by Lightning's divisor, and divide by the count of all micro-batches."""
    count = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in micro_batches)
    return _train(model, micro_batches, gradient_accumulation_steps, float(gradient_accumulation_steps), count)


def mean_of_means(model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int) -> float:
    """Train on the model's own loss as it is."""
    return _train(model, micro_batches, gradient_accumulation_steps, 1.0, None)


def _train(model: Any, micro_batches: list[dict[str, Tensor]], window: int, scale: float, count: int | None) -> float:
    module = Module(model, scale, count)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=window,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(micro_batches, batch_size=None))  # type: ignore[arg-type]
    return module.total / window
