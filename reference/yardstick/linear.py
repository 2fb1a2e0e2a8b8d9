"""A linear layer and the loss of its logits, without all logits in memory at once.

It makes some rows at a time, or some classes at a time if 16-bit products are fast (``classes.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..spec import Score
from .classes import score_classes, suits
from .passes import score_rows
from .rows import NOT_SCORED
from .scorer import accumulator

_PARTS = 6  # parts of the rows: the logits of one part, overwritten by their gradient, are a sixth of all logits
_LEAST = 32  # rows per part: fewer would make matrix products slow
_MOST = 512  # rows per part: more would not make them faster


def score_linear(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    how: Score,
    class_weights: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Score the logits ``hidden`` [n, H] · ``weight`` [V, H]ᵀ + ``bias`` [V], each row on its class in ``targets`` [n].

    Logits have the dtype of ``hidden``. Rows that are NOT_SCORED are not multiplied. Gradients of the weight and the
    bias are summed at least in float32. With some rows at a time, 16-bit weights need V·H more floats for this.

    Returns:
        ℓ [n], unweighted, 0 where NOT_SCORED; and the gradients of Σ weights · ℓ at ``hidden``, ``weight`` and
        ``bias``, each only if it is ``wanted``.

    Raises:
        IndexError: a target is not a class. On other devices than the CPU, the device reports it.
    """
    dtype, device = accumulator(hidden.dtype), hidden.device
    scores = torch.zeros(len(hidden), dtype=dtype, device=device)
    at_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format) if wanted[0] else None
    scored = (targets != NOT_SCORED).nonzero().squeeze(1)
    at_weight: Tensor | None
    if wanted[1] and suits(hidden):
        scores[scored], (found, at_weight, at_bias) = score_classes(
            hidden[scored], weight, bias, targets[scored], weights[scored], how, class_weights, wanted
        )
        if at_hidden is not None and found is not None:
            at_hidden[scored] = found
        return scores, (at_hidden, at_weight, at_bias)
    at_weight = torch.zeros(weight.shape, dtype=dtype, device=device) if wanted[1] else None
    at_bias = torch.zeros(len(weight), dtype=dtype, device=device) if bias is not None and wanted[2] else None
    for rows in scored.split(min(max(-(-len(scored) // _PARTS), _LEAST), _MOST)):
        part = hidden[rows]
        logits = part @ weight.T if bias is None else torch.addmm(bias, part, weight.T)
        gradient = logits if any(wanted) else None
        scores[rows] = score_rows(logits, targets[rows], weights[rows], how, class_weights, gradient)
        if gradient is not None:
            if at_hidden is not None:
                at_hidden[rows] = gradient @ weight
            if at_weight is not None:
                _add_product(at_weight, gradient, part)
            if at_bias is not None:
                at_bias += gradient.sum(0, dtype=dtype)
        del logits, gradient  # freed before the next part is made
    return scores, (
        at_hidden,
        None if at_weight is None else at_weight.to(weight.dtype),
        None if at_bias is None or bias is None else at_bias.to(bias.dtype),
    )


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add ``gradient`` [m, V]ᵀ · ``hidden`` [m, H] to ``total`` [V, H], with at least the precision of ``total``."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.T, hidden)
    elif gradient.is_cuda:
        total += torch.mm(gradient.T, hidden, out_dtype=total.dtype)
    else:
        total.addmm_(gradient.T.to(total.dtype), hidden.to(total.dtype))
