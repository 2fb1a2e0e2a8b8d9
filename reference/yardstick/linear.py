"""A linear layer and the loss of its logits, some at a time, so that there never are all the logits.

Some rows at a time, that is, or some classes at a time where products of 16 bits are quick (``classes.py``).
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

_PARTS = 6  # of the rows: the logits of one part, whose place their gradient takes, are a sixth of all logits
_LEAST = 32  # rows a part: fewer would make matrix products slow
_MOST = 512  # more would not make them faster


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

    Logits have the dtype of ``hidden``. Rows that are NOT_SCORED are not multiplied at all. Gradients of the weight and
    the bias are summed up in float32 at least. With some rows at a time, 16-bit weights take another V·H floats for it.

    Returns:
        ℓ [n], unweighted, 0 where NOT_SCORED; and the gradients of their sum times ``weights`` [n] at ``hidden``,
        ``weight`` and ``bias``, each where it is ``wanted``.

    Raises:
        IndexError: for a target that is no class. Off the CPU the device reports it.
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
        del logits, gradient  # before there are those of the next part
    return scores, (
        at_hidden,
        None if at_weight is None else at_weight.to(weight.dtype),
        None if at_bias is None or bias is None else at_bias.to(bias.dtype),
    )


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add ``gradient`` [m, V]ᵀ · ``hidden`` [m, H] to ``total`` [V, H], rounded to no fewer bits than that has."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.T, hidden)
    elif gradient.is_cuda:
        total += torch.mm(gradient.T, hidden, out_dtype=total.dtype)
    else:
        total.addmm_(gradient.T.to(total.dtype), hidden.to(total.dtype))
