"""Scores and gradient in one pass over rows of logits, in blocks that are small enough to stay in the cache.

Finding the largest logit of a row and subtracting it would be two more passes, and logits seldom need them. So logits
are exponentiated unchanged. If the sums show that they needed it, they are exponentiated again, after a subtraction. A
16-bit gradient is computed in a float32 buffer of one block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import Score
from .scorer import Less, Rows, Scorer, accumulator, check_targets, rows_at_once

_TOGETHER = 16  # the number of blocks whose sums are checked together


def score_rows(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    how: Score,
    class_weights: Tensor | None = None,
    gradient: Tensor | None = None,
) -> Tensor:
    """Score ``logits`` [n, V], each row on its class in ``targets`` [n]. Rows that are NOT_SCORED score 0.

    The gradient of Σ weights · ℓ at the logits is written to ``gradient`` [n, V], of the logits' dtype. ``gradient``
    may be the logits themselves. It is exactly 0 in rows that are NOT_SCORED, whatever their logits are.

    Returns:
        ℓ [n], unweighted, in the accumulator's dtype.

    Raises:
        IndexError: a target is not a class. On other devices than the CPU, the device reports it.
    """
    count, classes = logits.shape
    dtype, device = accumulator(logits.dtype), logits.device
    check_targets(targets, classes)
    if not count:
        return torch.zeros(0, dtype=dtype, device=device)
    # No second try is possible on overwritten logits. On other devices than the CPU, it would wait for the device.
    less = Less.LARGEST if gradient is logits or device.type != "cpu" else Less.NOTHING
    scorer = Scorer(how, class_weights, classes, dtype, device, less)
    fits = gradient is not None and gradient.dtype == dtype
    step = min(rows_at_once(logits, 2 if fits and gradient is not logits else 1), count)
    buffer = None if fits else torch.empty((step, classes), dtype=dtype, device=device)
    rows, targeted = scorer.rows(logits.gather(1, targets.clamp(min=0)[:, None]), targets, weights)
    skipped = rows.skipped.squeeze(1)
    # Read once, and not block by block: on other devices than the CPU, each read waits for the device.
    skips = F.pad(skipped, (0, -count % step)).view(-1, step).sum(1).tolist()
    sizes = _group_sizes(count, step)
    gradients = [None] * len(sizes) if gradient is None else gradient.split(sizes)
    for group, given, out in zip(rows.split(sizes), logits.split(sizes), gradients, strict=True):
        blocks = list(zip(group.split(step), given.split(step), strict=True))
        known, skips = skips[: len(blocks)], skips[len(blocks) :]
        while True:
            _score_blocks(scorer, blocks, known, out, buffer)
            if scorer.trusts(group):
                break
    if gradient is not None:
        at_targets = scorer.at_targets(rows, targeted).squeeze(1).masked_fill_(skipped, 0.0)
        # Not scatter_: for 16 bits on a CPU, it copies the whole gradient.
        gradient[torch.arange(count, device=device), targeted.at.squeeze(1)] = at_targets.to(gradient.dtype)
    return scorer.losses(rows, targeted).masked_fill_(skipped, 0.0)


def _group_sizes(count: int, step: int) -> list[int]:
    """The number of rows of each group. The first group is one block, so that large logits show early: an exp that
    overflows takes sixty times as long."""
    whole, rest = divmod(count - step, _TOGETHER * step)
    return [step, *[_TOGETHER * step] * whole] + [rest] * bool(rest)


def _score_blocks(
    scorer: Scorer,
    blocks: Sequence[tuple[Rows, Tensor]],
    skips: Sequence[int],
    gradient: Tensor | None,
    buffer: Tensor | None,
) -> None:
    """Score blocks, each with its logits, in a ``buffer`` or else in their ``gradient``.

    ``skips`` is the number of skipped rows in each block.
    """
    step = len(blocks[0][1])
    gradients = [None] * len(blocks) if gradient is None else gradient.split(step)
    for (block, logits), out, skipped in zip(blocks, gradients, skips, strict=True):
        if skipped and skipped == len(logits):
            if out is not None:
                out.zero_()
            continue
        room = out if buffer is None else buffer[: len(logits)]
        assert room is not None
        scorer.score(block, logits, room, graded=out is not None)
        if out is not None:
            if skipped:
                room.masked_fill_(block.skipped, 0.0)
            if room is not out:
                out.copy_(room)
