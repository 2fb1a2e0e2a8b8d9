"""Trainers with the real models of a library, whose own losses run on the drawn logits."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BartConfig, BartForConditionalGeneration


def _example(name: str) -> ModuleType:
    file = Path(__file__).parents[2] / "examples" / "trainers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hf_trainer = _example("hf_trainer")


def bart(
    model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int, vocab_size: int
) -> float:
    """transformers' Trainer over a BART of next to no size, whose LM head gives the table's logits."""
    size = {"d_model": 4, "max_position_embeddings": 64, "vocab_size": vocab_size}
    layers = {f"{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    wide = {f"{part}_ffn_dim": 4 for part in ("encoder", "decoder")}
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 1}
    real = BartForConditionalGeneration(BartConfig(**size, **layers, **wide, **ids, forced_eos_token_id=None))
    real.table = model.table
    places: list[Tensor] = []

    def take_places(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        places.append(kwargs["input_ids"])
        return args, {**kwargs, "input_ids": torch.zeros_like(kwargs["input_ids"])}

    real.register_forward_pre_hook(take_places, with_kwargs=True)
    real.lm_head.register_forward_hook(lambda *_: F.embedding(places[-1], model.table))
    found: float = hf_trainer.step(real, micro_batches, gradient_accumulation_steps)
    return found


def smoothed_by_a_stranger(
    model: Any, micro_batches: list[dict[str, Tensor]], gradient_accumulation_steps: int, label_smoothing: float
) -> float:
    """transformers' Trainer smooths the labels of a model whose class it does not know, and so does not shift them."""
    found: float = hf_trainer.train(model, micro_batches, gradient_accumulation_steps, label_smoothing)
    return found
