"""One pass over rows of logits, block by block, each block small enough to stay in the cache: scores and gradient.

The softmax is written straight into the gradient, or, for 16-bit logits, into a buffer of one block in float32.
Compiled code was no faster on a CPU: torch's own softmax has the quicker exp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..score import charge, map_logits, slope
from ..spec import Score
from .rows import NOT_SCORED

_CACHED = 1 << 19  # elements of a block and a thread: 2 MiB of float32. Half and twice that were slower
_ELSEWHERE = 1 << 26  # off the CPU, where what counts is that kernels are few
_UNDERFLOWN = 1e4  # times the smallest normal number: below that, a probability is no longer good for its logarithm


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that logits of ``dtype`` are scored in: float32, or their own where that is wider."""
    return torch.promote_types(dtype, torch.float32)


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
    logits' dtype and not their memory; exactly 0 in rows that are NOT_SCORED, whatever stands there.

    Returns:
        ℓ [n], unweighted, in the accumulator's dtype.

    Raises:
        IndexError: for a target that is no class. Off the CPU the device reports it.
    """
    count, classes = logits.shape
    dtype = accumulator(logits.dtype)
    if logits.device.type == "cpu" and count and int(targets.max()) >= classes:
        wrong = int((targets >= classes).sum())
        raise IndexError(f"{wrong} labels are no class in [0, {classes}) and not ignored; mark them, or mend them")
    step = _CACHED * torch.get_num_threads() if logits.device.type == "cpu" else _ELSEWHERE
    step = max(step // max(classes, 1), 1)
    in_place = gradient is not None and gradient.dtype == dtype
    buffer = None if in_place else torch.empty((min(step, count), classes), dtype=dtype, device=logits.device)
    scores = torch.zeros(count, dtype=dtype, device=logits.device)
    scorer = _Scorer(how, classes, class_weights, dtype, logits.device)
    weights = weights.to(dtype)
    for start in range(0, count, step):
        part = slice(start, start + step)
        skipped = targets[part] == NOT_SCORED
        block = None if gradient is None else gradient[part]
        left = len(skipped) - int(skipped.sum())
        if left:
            room = block if buffer is None else buffer[: len(skipped)]
            assert room is not None
            at = targets[part].clamp(min=0)[:, None]
            found = scorer.score(logits[part], at, room, None if block is None else weights[part, None])
            scores[part] = found.masked_fill_(skipped, 0.0)
            if block is not None and left < len(skipped):
                room.masked_fill_(skipped[:, None], 0.0)
            if block is not None and buffer is not None:
                block.copy_(room)
        elif block is not None:
            block.zero_()
    return scores


class _Scorer:
    """Scores blocks of rows that have the same score and the same classes."""

    def __init__(
        self, how: Score, classes: int, class_weights: Tensor | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.how = how
        self.maps = how.softcap is not None or how.logit_scale != 1
        self.target: Tensor | None = None
        self.every: Tensor | None = None
        if how.class_weights or how.label_smoothing:
            charges = charge(how, classes, class_weights)
            self.target = charges.target.to(device, dtype)
            self.every = charges.every.to(device, dtype) if how.label_smoothing else None

    def score(self, logits: Tensor, at: Tensor, room: Tensor, weights: Tensor | None) -> Tensor:
        """ℓ [m] of ``logits`` [m, V] at the classes ``at`` [m, 1]; ``room`` [m, V] is left with the gradient of their
        sum times ``weights`` [m, 1], where there are any."""
        how = self.how
        z = logits if logits.dtype == room.dtype else room.copy_(logits)
        z = map_logits(z, how) if self.maps else z
        at_target = z.gather(1, at)
        # Where there is no room for z and p, what is to be summed over z has to be summed before.
        total = None if self.every is None else (z - at_target) @ self.every
        p = torch._softmax(z, 1, False, out=room)
        p_target = p.gather(1, at)
        nll = -p_target.log()
        lost = (p_target < torch.finfo(p.dtype).tiny * _UNDERFLOWN).squeeze(1)
        if bool(lost.any()):
            rows = map_logits(logits[lost].to(p.dtype), how)
            nll[lost] = (torch.logsumexp(rows, 1) - at_target[lost, 0])[:, None]
        hard = 1.0 if self.target is None else self.target[at]
        loss = nll * hard
        mass: Tensor | float = hard
        if self.every is not None and total is not None:
            shared = self.every.sum()
            loss = loss + (nll * shared - total[:, None])
            mass = mass + shared
        if how.z_loss:
            lse = nll + at_target
            loss = loss + how.z_loss * lse.square()
            mass = mass + 2 * how.z_loss * lse
        if how.dft:
            loss = loss * p_target
        if weights is not None:
            weights = weights * p_target if how.dft else weights
            p.mul_(weights * mass)
            if self.every is not None:
                p.addr_(weights.squeeze(1), self.every, alpha=-1)
            p.scatter_add_(1, at, -weights * hard)
            if self.maps:
                p.mul_(slope(logits.to(p.dtype), how))
        return loss.squeeze(1)
