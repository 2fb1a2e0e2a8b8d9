"""Who is timed: the yardstick, what torch has, and other people's losses where they are installed and can run."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.reference.eager import eager
from shiftproof.reference.spec import LossSpec
from shiftproof.reference.yardstick import linear_yardstick, yardstick

Loss = Callable[..., Tensor]
Maker = Callable[[LossSpec, str], Loss]
"""A loss, from a spec and a device: a function of the tensors of a batch by name, to a scalar with a graph."""

IGNORED = -100
CAUSAL = "hf.causal_lm"


class Absent(Exception):
    """A contender is not installed, or cannot run here, or has no such loss. The message says which."""


def require(name: str, *, triton: bool, device: str) -> None:
    """
    Raises:
        Absent: it is not installed, or its kernels are Triton's and the device is none.
    """
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise Absent(f"{name} is not installed") from None
    if triton and device != "cuda":
        raise Absent(f"{name}'s kernels need a GPU")


def shifted(labels: Tensor) -> Tensor:
    """Labels [B, S] where the logits are that predict them, flattened; the logits need not be copied for that."""
    return F.pad(labels, (0, 1), value=IGNORED)[:, 1:].reshape(-1)


# Given logits.


def compiled(spec: LossSpec, device: str) -> Loss:
    if spec.name != CAUSAL:
        return torch.compile(eager(spec), dynamic=False)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1).float(), shifted(labels), ignore_index=IGNORED)

    return torch.compile(loss, dynamic=False)


def transformers(spec: LossSpec, device: str) -> Loss:
    require("transformers", triton=False, device=device)
    from transformers.loss.loss_utils import ForCausalLMLoss

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return torch.as_tensor(ForCausalLMLoss(logits, labels, logits.shape[-1]))

    return loss


def liger(spec: LossSpec, device: str) -> Loss:
    require("liger-kernel", triton=True, device=device)
    from liger_kernel.transformers.cross_entropy import LigerCrossEntropyLoss

    score = LigerCrossEntropyLoss(ignore_index=IGNORED)
    return lambda logits, labels: score(logits.flatten(0, 1), shifted(labels))


def fla(spec: LossSpec, device: str) -> Loss:
    require("fla-core", triton=True, device=device)
    from fla.modules.fused_cross_entropy import FusedCrossEntropyLoss

    score = FusedCrossEntropyLoss(ignore_index=IGNORED)
    return lambda logits, labels: score(logits.flatten(0, 1), shifted(labels))


def quack(spec: LossSpec, device: str) -> Loss:
    require("quack-kernels", triton=True, device=device)
    from quack.cross_entropy import cross_entropy

    return lambda logits, labels: cross_entropy(logits.flatten(0, 1), shifted(labels), ignore_index=IGNORED)


OF_LOGITS: dict[str, Maker] = {
    "yardstick": lambda spec, device: yardstick(spec),
    "torch": lambda spec, device: eager(spec),
    "torch.compile": compiled,
}
OF_NEXT_TOKENS: dict[str, Maker] = {
    **OF_LOGITS,
    "transformers": transformers,
    "Liger": liger,
    "fla-core": fla,
    "quack": quack,
}

# Given hidden_states [B, S, H] and lm_head_weight [V, H].


def materialised(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
    """The common pattern: all logits, a slice of them, and a copy of that in float32."""
    logits = F.linear(hidden_states, lm_head_weight)[:, :-1].contiguous()
    return F.cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


def torch_linear(spec: LossSpec, device: str) -> Loss:
    if not hasattr(F, "linear_cross_entropy"):
        raise Absent("F.linear_cross_entropy came with torch 2.13")

    def loss(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
        return F.linear_cross_entropy(hidden_states.flatten(0, 1), lm_head_weight, shifted(labels))

    return loss


def torch_linear_chunked(spec: LossSpec, device: str) -> Loss:
    torch_linear(spec, device)
    options = torch.nn.LinearCrossEntropyOptions(
        batch_chunk_size=256, chunking_method=None, acc_policy="accurate", allow_retain_graph=True
    )

    def loss(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
        return F.linear_cross_entropy(hidden_states.flatten(0, 1), lm_head_weight, shifted(labels), options=options)

    return loss


def cut_cross_entropy(spec: LossSpec, device: str) -> Loss:
    require("cut-cross-entropy", triton=False, device=device)
    from cut_cross_entropy import linear_cross_entropy

    implementation: dict[str, Any] = {} if device == "cuda" else {"impl": "torch_compile"}

    def loss(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
        found: Tensor = linear_cross_entropy(hidden_states, lm_head_weight, labels, shift=True, **implementation)
        return found

    return loss


def liger_linear(spec: LossSpec, device: str) -> Loss:
    require("liger-kernel", triton=True, device=device)
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    score = LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED)

    def loss(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
        return torch.as_tensor(score(lm_head_weight, hidden_states.flatten(0, 1), shifted(labels)))

    return loss


def fla_linear(spec: LossSpec, device: str) -> Loss:
    require("fla-core", triton=True, device=device)
    from fla.modules.fused_linear_cross_entropy import fused_linear_cross_entropy_loss

    def loss(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
        return torch.as_tensor(
            fused_linear_cross_entropy_loss(hidden_states.flatten(0, 1), shifted(labels), lm_head_weight)
        )

    return loss


def quack_linear(spec: LossSpec, device: str) -> Loss:
    require("quack-kernels", triton=True, device=device)
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    def loss(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
        return torch.as_tensor(
            chunked_linear_cross_entropy(hidden_states.flatten(0, 1), lm_head_weight, shifted(labels))
        )

    return loss


OF_LAYERS: dict[str, Maker] = {
    "yardstick": lambda spec, device: linear_yardstick(spec),
    "torch": lambda spec, device: materialised,
    "torch.compile": lambda spec, device: torch.compile(materialised, dynamic=False),
    "F.linear_cross_entropy": torch_linear,
    "F.linear_cross_entropy, chunked": torch_linear_chunked,
    "cut-cross-entropy": cut_cross_entropy,
    "Liger": liger_linear,
    "fla-core": fla_linear,
    "quack": quack_linear,
}
