"""The scores of a linear layer's logits and the gradients of the layer, with some classes of all rows at a time.

The gradient of the weight is a sum over rows. With some rows at a time, it must be kept in float32 between matrix
products, and on a CPU no 16-bit product gives float32. With all rows at a time, a class's gradient is one product,
which keeps its sum in float32 and rounds it once. This saves V·H floats. But the logits are made twice, because the
softmax of a row needs its last class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..spec import Score
from .scorer import Less, Rows, Scorer, Sums, accumulator, check_targets, rows_at_once

_LOGITS = 1 << 22  # logits at a time
_LEAST = 256  # classes at a time: fewer would make matrix products slow
_MULTIPLE = 32  # the number of classes at a time is a multiple of this, the size of a tile
_TILES = {torch.bfloat16: "amx_bf16", torch.float16: "amx_fp16"}


def suits(hidden: Tensor) -> bool:
    """Whether products of ``hidden``'s dtype are so fast on its device that it pays to make the logits twice.

    In bfloat16, this took half as long as some rows at a time with AMX, and 1.3 to 1.6 times as long without AMX.
    """
    if hidden.device.type != "cpu" or hidden.dtype not in _TILES or not hasattr(torch.cpu, "get_capabilities"):
        return False  # older versions of torch have no get_capabilities
    return bool(torch.cpu.get_capabilities().get(_TILES[hidden.dtype]))


def score_classes(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weights: Tensor,
    how: Score,
    class_weights: Tensor | None,
    wanted: Sequence[bool],
) -> tuple[Tensor, tuple[Tensor | None, Tensor, Tensor | None]]:
    """Score as :func:`.linear.score_linear` does. All rows must be scored. The weight always gets its gradient.

    The gradient of ``hidden`` is a float32 sum of rounded products, one product per part of the classes. This is as
    exact as the gradient of the logits, which is rounded too.

    Raises:
        IndexError: a target is not a class.
    """
    check_targets(targets, len(weight))
    dtype, device, count = accumulator(hidden.dtype), hidden.device, len(hidden)
    parts = _parts(count, len(weight))
    scorer = Scorer(how, class_weights, len(weight), dtype, device, Less.LARGEST)
    at_hidden = torch.zeros(hidden.shape, dtype=dtype, device=device) if wanted[0] else None
    at_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    at_bias = None if bias is None or not wanted[2] else torch.empty_like(bias)

    def logits_of(classes: slice) -> Tensor:
        part = weight[classes]
        return hidden @ part.T if bias is None else torch.addmm(bias[classes], hidden, part.T)

    given = torch.empty((count, 1), dtype=hidden.dtype, device=device)
    lowest = torch.full((count, 1), torch.finfo(dtype).min / 2, dtype=dtype, device=device)
    sums = Sums(lowest, torch.zeros_like(lowest), torch.zeros_like(lowest))
    for classes in parts:
        logits = logits_of(classes)
        rows, at = _targets_in(classes, targets)
        given[rows, 0] = logits[rows, at]
        _join(scorer, sums, logits, classes)
    found, targeted = scorer.rows(given, targets, weights)
    found = scorer.joined(found, sums)
    at_targets = scorer.at_targets(found, targeted).squeeze(1).to(hidden.dtype)
    for classes in reversed(parts):
        if classes != parts[-1]:
            logits = logits_of(classes)
        gradient = _grade(scorer, found, logits, classes)
        rows, at = _targets_in(classes, targets)
        gradient[rows, at] = at_targets[rows]
        torch.mm(gradient.T, hidden, out=at_weight[classes])
        if at_hidden is not None:
            at_hidden += gradient @ weight[classes]
        if at_bias is not None:
            at_bias[classes] = gradient.sum(0, dtype=dtype)
    if at_hidden is not None:
        at_hidden = at_hidden.to(hidden.dtype)
    return scorer.losses(found, targeted), (at_hidden, at_weight, at_bias)


def _parts(count: int, classes: int) -> list[slice]:
    """Split the classes into parts of about equal size, as large as the number of rows allows."""
    most = max(_LOGITS // max(count, 1), _LEAST)
    each = -(-classes // -(-classes // most))
    each += -each % _MULTIPLE
    return [slice(start, min(start + each, classes)) for start in range(0, classes, each)]


def _targets_in(classes: slice, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The rows whose target is in a part of the classes, and the target's index in that part."""
    rows = ((targets >= classes.start) & (targets < classes.stop)).nonzero().squeeze(1)
    return rows, targets[rows] - classes.start


def _join(scorer: Scorer, sums: Sums, logits: Tensor, classes: slice) -> None:
    """Add ``logits`` [n, C] to the sums of their rows, block by block."""
    step, room = _buffer(scorer, logits)
    for some, block in zip(sums.split(step), logits.split(step), strict=True):
        scorer.join(some, block, room[: len(block)], classes)


def _grade(scorer: Scorer, rows: Rows, logits: Tensor, classes: slice) -> Tensor:
    """Replace ``logits`` [n, C] by their gradient, block by block."""
    step, room = _buffer(scorer, logits)
    for some, block in zip(rows.split(step), logits.split(step), strict=True):
        scorer.grade(some, block, room[: len(block)], classes)
        block.copy_(room[: len(block)])
    return logits


def _buffer(scorer: Scorer, logits: Tensor) -> tuple[int, Tensor]:
    """The number of rows of a block, and the buffer in which a block is scored."""
    step = min(rows_at_once(logits, 1), max(len(logits), 1))
    return step, torch.empty((step, logits.shape[1]), dtype=scorer.dtype, device=logits.device)
