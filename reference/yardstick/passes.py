"""The pass over rows of logits, by their device: Triton on CUDA, else torch, block by block."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ..spec import Score
from . import blocks
from .rows import NOT_SCORED
from .scorer import accumulator


def score_rows(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    how: Score,
    class_weights: Tensor | None = None,
    gradient: Tensor | None = None,
) -> Tensor:
    """As :func:`.blocks.score_rows`."""
    if in_triton(logits):
        from . import kernel

        return kernel.score_rows(logits, targets, weights, how, class_weights, gradient)
    return blocks.score_rows(logits, targets, weights, how, class_weights, gradient)


def scale_rows(gradient: Tensor, targets: Tensor, grad_output: Tensor) -> None:
    """Multiply ``gradient`` [n, V] in place by ``grad_output``, one number or one per row [n]. Skip rows NOT_SCORED.

    On a CPU, an ``grad_output`` of 1 reads and writes nothing. The kernels skip each row with the factor 1.
    """
    if grad_output.dim() == 0 and not grad_output.is_cuda and grad_output.item() == 1:
        return
    factors = torch.where(targets == NOT_SCORED, 1.0, grad_output.to(accumulator(gradient.dtype)))
    if in_triton(gradient):
        from . import kernel

        kernel.scale_rows(gradient, factors)
    else:
        gradient.mul_(factors[:, None])


def in_triton(rows: Tensor) -> bool:
    """Whether to use the kernels for these rows.

    On a CPU, they run only under Triton's interpreter, if this function is replaced, as in
    tests/candidates/interpreted.py.
    """
    return rows.is_cuda and _has_triton()


@cache
def _has_triton() -> bool:
    """Whether Triton is installed. It comes with torch if torch is built for CUDA on Linux."""
    return find_spec("triton") is not None
