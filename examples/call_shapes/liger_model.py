"""A Llama that Liger has patched. In train mode it makes no logits; a step in which Liger's loss does not run raises.

Its kernels need a GPU, or TRITON_INTERPRET=1 in the environment.
"""

from typing import Any

import liger_kernel.transformers.model.llama as patched
import torch
from liger_kernel.transformers import apply_liger_kernel_to_llama
from transformers import LlamaConfig, LlamaForCausalLM

_ligers_loss = patched.LigerForCausalLMLoss
calls = 0


def _counted(*arguments: Any, **named: Any) -> Any:
    global calls
    calls += 1
    return _ligers_loss(*arguments, **named)


class Llama(LlamaForCausalLM):
    def forward(self, input_ids: Any, labels: Any = None, **others: Any) -> Any:
        before = calls
        result = super().forward(input_ids, labels=labels, **others)
        if self.training and labels is not None and calls == before:
            raise RuntimeError("Liger's loss was not called")
        return result


def make() -> LlamaForCausalLM:
    torch.manual_seed(0)
    # The loss alone: the other kernels have nothing to do with it.
    others = {"rope": False, "swiglu": False, "rms_norm": False, "cross_entropy": False}
    apply_liger_kernel_to_llama(**others, fused_linear_cross_entropy=True)
    patched.LigerForCausalLMLoss = _counted
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Llama(LlamaConfig(vocab_size=37, num_key_value_heads=2, **sizes, attn_implementation="eager"))
