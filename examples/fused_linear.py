"""Losses that take hidden states and the weight of the LM head, and never hold all logits at once.

Most take hidden_states [N, H], lm_head_weight [V, H], lm_head_bias [V] and labels [N] that were shifted already, with
−100 where ignored. If another library's loss does not support something, it raises NotImplementedError, which is
reported as skipped. The packages are imported where they are used, so one of them is enough.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_ROWS = 3  # rows per chunk; so few that every case has several chunks


def chunked(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """Hand-made: each chunk's logits are made in fp32, scored, dropped, and made again in the backward.

    The weight is upcast once. If every chunk upcast it, autograd would sum its gradient in its own dtype.
    """
    weight, bias = lm_head_weight.float(), lm_head_bias.float()

    def score(rows: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(rows.float(), weight, bias)
        return F.cross_entropy(logits, targets, reduction="sum")

    pairs = zip(hidden_states.split(_ROWS), labels.split(_ROWS), strict=True)
    chunks = [torch.as_tensor(checkpoint(score, rows, targets, use_reentrant=False)) for rows, targets in pairs]
    return torch.stack(chunks).sum() / (labels != -100).sum()


def torch_whole(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """Use torch's own loss, which makes all logits at once by default."""
    return F.linear_cross_entropy(hidden_states, lm_head_weight, labels, linear_bias=lm_head_bias)


def torch_chunked(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """Use torch's own loss in chunks. Its gradient is NaN if every label is ignored (torch 2.13)."""
    options = torch.nn.LinearCrossEntropyOptions(
        batch_chunk_size=_ROWS, chunking_method=None, acc_policy="accurate", allow_retain_graph=True
    )
    return F.linear_cross_entropy(hidden_states, lm_head_weight, labels, linear_bias=lm_head_bias, options=options)


def liger(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """Use Liger-Kernel's fused linear cross-entropy. Its kernels need a GPU, or TRITON_INTERPRET=1."""
    return _liger(hidden_states, lm_head_weight, labels, lm_head_bias, "mean")


def liger_per_token(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
    """Use the same with reduction none, over [B, S, H] and labels [B, S] that it shifts."""
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:].flatten()
    return _liger(hidden_states.flatten(0, 1), lm_head_weight, shifted, None, "none")


def _liger(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, reduction: str) -> Tensor:
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    if not hidden.numel():
        raise NotImplementedError("Liger does not support a batch without rows")
    loss: Tensor = LigerFusedLinearCrossEntropyLoss(reduction=reduction)(weight, hidden, labels, bias)
    return loss


def cce(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
    """Use cut-cross-entropy's implementation for CPUs, over [B, S, H] and labels [B, S] that it shifts."""
    from cut_cross_entropy import linear_cross_entropy

    if not hidden_states.numel():
        raise NotImplementedError("cut-cross-entropy does not support a batch without rows")
    torch.compiler.set_stance("force_eager")  # run its code as written, even if there is a C++ compiler
    loss: Tensor = linear_cross_entropy(hidden_states, lm_head_weight, labels, shift=True, impl="torch_compile")
    return loss


def fla(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """Use the loss of flash-linear-attention (fla-core), in chunks of a number of rows that it chooses."""
    from fla.modules.fused_linear_cross_entropy import fused_linear_cross_entropy_loss

    if not hidden_states.numel():
        raise NotImplementedError("fla does not support a batch without rows")
    loss: Tensor = fused_linear_cross_entropy_loss(hidden_states, labels, lm_head_weight, bias=lm_head_bias)
    return loss
