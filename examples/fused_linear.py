"""Losses that take hidden states and the weight of the LM head, and never hold all logits at once.

Most are given hidden_states [N, H], lm_head_weight [V, H], lm_head_bias [V] and labels [N] that were shifted
already, −100 where ignored. What somebody else's loss cannot do raises NotImplementedError, which is told as skipped.
The packages are imported where they are used, so that one of them will do.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_ROWS = 3  # a chunk; so few, that every case has several


def chunked(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """By hand: each chunk's logits are made in fp32, scored, thrown away, and made again in the backward.

    The weight is upcast once. Were it upcast in every chunk, autograd would add up its gradient in its own dtype.
    """
    weight, bias = lm_head_weight.float(), lm_head_bias.float()

    def score(rows: Tensor, targets: Tensor) -> Tensor:
        logits = F.linear(rows.float(), weight, bias)
        return F.cross_entropy(logits, targets, reduction="sum")

    pairs = zip(hidden_states.split(_ROWS), labels.split(_ROWS), strict=True)
    chunks = [torch.as_tensor(checkpoint(score, rows, targets, use_reentrant=False)) for rows, targets in pairs]
    return torch.stack(chunks).sum() / (labels != -100).sum()


def torch_whole(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """torch's own, which makes all logits at once unless it is told otherwise."""
    return F.linear_cross_entropy(hidden_states, lm_head_weight, labels, linear_bias=lm_head_bias)


def torch_chunked(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """torch's own in chunks. Its gradient is NaN where every label is ignored (2.13)."""
    options = torch.nn.LinearCrossEntropyOptions(
        batch_chunk_size=_ROWS, chunking_method=None, acc_policy="accurate", allow_retain_graph=True
    )
    return F.linear_cross_entropy(hidden_states, lm_head_weight, labels, linear_bias=lm_head_bias, options=options)


def liger(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """Liger-Kernel's fused linear cross-entropy; its kernels need a GPU, or TRITON_INTERPRET=1."""
    return _liger(hidden_states, lm_head_weight, labels, lm_head_bias, "mean")


def liger_per_token(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
    """The same under reduction none, over [B, S, H] and labels [B, S] that it shifts."""
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:].flatten()
    return _liger(hidden_states.flatten(0, 1), lm_head_weight, shifted, None, "none")


def _liger(hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, reduction: str) -> Tensor:
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    if not hidden.numel():
        raise NotImplementedError("Liger takes no batch without rows")
    loss: Tensor = LigerFusedLinearCrossEntropyLoss(reduction=reduction)(weight, hidden, labels, bias)
    return loss


def cce(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor) -> Tensor:
    """cut-cross-entropy, the implementation that needs no GPU, over [B, S, H] and labels [B, S] that it shifts."""
    from cut_cross_entropy import linear_cross_entropy

    if not hidden_states.numel():
        raise NotImplementedError("cut-cross-entropy takes no batch without rows")
    torch.compiler.set_stance("force_eager")  # what it would compile, a C++ compiler at hand, runs as it is written
    loss: Tensor = linear_cross_entropy(hidden_states, lm_head_weight, labels, shift=True, impl="torch_compile")
    return loss


def fla(hidden_states: Tensor, lm_head_weight: Tensor, labels: Tensor, lm_head_bias: Tensor) -> Tensor:
    """flash-linear-attention's (fla-core), in chunks of a number of rows that it chooses."""
    from fla.modules.fused_linear_cross_entropy import fused_linear_cross_entropy_loss

    if not hidden_states.numel():
        raise NotImplementedError("fla takes no batch without rows")
    loss: Tensor = fused_linear_cross_entropy_loss(hidden_states, labels, lm_head_weight, bias=lm_head_bias)
    return loss
