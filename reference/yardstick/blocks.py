"""One pass over rows of logits, block by block, each block small enough to stay in the cache: scores and gradient.

To find the largest logit of a row and to subtract it would be two more passes, and logits seldom need them: they are
exponentiated as they are, in a gradient of 16 bits by way of a buffer of one block in float32, and again, with
something subtracted, where the sums show that they did.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import Score
from .scorer import Less, Rows, Scorer, accumulator, check_targets, rows_at_once

_TOGETHER = 16  # blocks after which it is asked whether their sums can be trusted


def score_rows(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    how: Score,
    class_weights: Tensor | None = None,
    gradient: Tensor | None = None,
) -> Tensor:
    """Score ``logits`` [n, V], each row on its class in ``targets`` [n]; 0 for rows that are NOT_SCORED.

    The gradient at the logits of the sum of all scores times ``weights`` [n] is written to ``gradient`` [n, V], of the
    logits' dtype, which may be the logits themselves; exactly 0 in rows that are NOT_SCORED, whatever stands there.

    Returns:
        ℓ [n], unweighted, in the accumulator's dtype.

    Raises:
        IndexError: for a target that is no class. Off the CPU the device reports it.
    """
    count, classes = logits.shape
    dtype, device = accumulator(logits.dtype), logits.device
    check_targets(targets, classes)
    if not count:
        return torch.zeros(0, dtype=dtype, device=device)
    # There is no second try on logits that are gone, and off the CPU none without waiting for the device.
    less = Less.LARGEST if gradient is logits or device.type != "cpu" else Less.NOTHING
    scorer = Scorer(how, class_weights, classes, dtype, device, less)
    fits = gradient is not None and gradient.dtype == dtype
    step = min(rows_at_once(logits, 2 if fits and gradient is not logits else 1), count)
    buffer = None if fits else torch.empty((step, classes), dtype=dtype, device=device)
    rows, targeted = scorer.rows(logits.gather(1, targets.clamp(min=0)[:, None]), targets, weights)
    skipped = rows.skipped.squeeze(1)
    # Asked once and not block by block: off the CPU, each answer would be waited for.
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
        # Not scatter_: for 16 bits on a CPU that copies all of the gradient.
        gradient[torch.arange(count, device=device), targeted.at.squeeze(1)] = at_targets.to(gradient.dtype)
    return scorer.losses(rows, targeted).masked_fill_(skipped, 0.0)


def _group_sizes(count: int, step: int) -> list[int]:
    """How many rows each group has. The first is one block: where all logits are large, that shows at once, and an exp
    that overflows takes sixty times as long."""
    whole, rest = divmod(count - step, _TOGETHER * step)
    return [step, *[_TOGETHER * step] * whole] + [rest] * bool(rest)


def _score_blocks(
    scorer: Scorer,
    blocks: Sequence[tuple[Rows, Tensor]],
    skips: Sequence[int],
    gradient: Tensor | None,
    buffer: Tensor | None,
) -> None:
    """Score blocks and their logits, so many rows of which are skipped, in a ``buffer``, or else in their
    ``gradient``."""
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
