"""A small Llama of transformers with Liger's loss in place of its own, which is called in train mode alone."""

import os
from pathlib import Path
from typing import Any

import liger_kernel.transformers.model.llama as patched
import torch
from liger_kernel.transformers import apply_liger_kernel_to_llama
from transformers import LlamaConfig, LlamaForCausalLM

_CALLS = Path(os.environ["SHIFTPROOF_LIGER_CALLS"])
_liger_loss = patched.LigerForCausalLMLoss


def _counted(*arguments: Any, **named: Any) -> Any:
    with _CALLS.open("a", encoding="ascii") as file:
        file.write("called\n")
    return _liger_loss(*arguments, **named)


def _llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    # The loss alone: the other kernels have nothing to do with it.
    others = {"rope": False, "swiglu": False, "rms_norm": False, "cross_entropy": False}
    apply_liger_kernel_to_llama(**others, fused_linear_cross_entropy=True)
    patched.LigerForCausalLMLoss = _counted
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=37, num_key_value_heads=2, **sizes, attn_implementation="eager"))


model = _llama()
