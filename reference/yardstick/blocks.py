"""One pass over rows of logits, block by block, each block small enough to stay in the cache: scores and gradient.

The softmax is written straight into the gradient. For 16-bit logits its steps are taken in a buffer of one block in
float32, and where the gradient takes the place of the logits, in that place. Compiled code was no faster on a CPU:
torch's own softmax has the quicker exp.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..score import charge, map_logits, slope
from ..spec import Score
from .rows import NOT_SCORED

_CACHED = 1 << 20  # bytes that a block keeps, by thread. With twice that, torch itself drops out of the cache
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
    logits' dtype, which may be the logits themselves; exactly 0 in rows that are NOT_SCORED, whatever stands there.

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
    if not count:
        return torch.zeros(0, dtype=dtype, device=logits.device)
    scorer = _Scorer(how, class_weights, logits, replaced=gradient is logits)
    fits = gradient is not None and gradient.dtype == dtype
    step = min(_rows_at_once(logits, 2 if fits and gradient is not logits else 1), count)
    buffer = None if fits else torch.empty((step, classes), dtype=dtype, device=logits.device)
    rows = scorer.rows(logits, targets, weights)
    skipped = targets == NOT_SCORED
    # Asked once and not block by block: off the CPU, each answer would be waited for.
    scored = F.pad(~skipped, (0, -count % step)).view(-1, step).sum(1).tolist()
    gradients = [None] * len(scored) if gradient is None else gradient.split(step)
    for part, skip, out, left in zip(rows.split(step), skipped[:, None].split(step), gradients, scored, strict=True):
        if left:
            room = out if buffer is None else buffer[: skip.shape[0]]
            assert room is not None
            scorer.score(part, room, graded=out is not None)
            if out is not None:
                if left < skip.shape[0]:
                    room.masked_fill_(skip, 0.0)
                if room is not out:
                    out.copy_(room)
        elif out is not None:
            out.zero_()
    if gradient is not None:
        at_targets = scorer.at_targets(rows).squeeze(1).masked_fill_(skipped, 0.0)
        # Not scatter_: for 16 bits on a CPU that copies all of the gradient.
        gradient[torch.arange(count, device=logits.device), rows.at.squeeze(1)] = at_targets.to(gradient.dtype)
    return scorer.losses(rows).masked_fill_(skipped, 0.0)


def _rows_at_once(logits: Tensor, arrays: int) -> int:
    """How many rows a block has, of so many arrays like the logits as they are scored."""
    if logits.device.type != "cpu":
        return max(_ELSEWHERE // max(logits.shape[1], 1), 1)
    row = arrays * logits.shape[1] * accumulator(logits.dtype).itemsize
    return max(_CACHED * torch.get_num_threads() // max(row, 1), 1)


class _Rows(NamedTuple):
    """Some rows of logits, all or those of a block, with numbers [n, 1] for each: known before, or found in the pass.

    Attributes:
        logits: [n, V], as they are given.
        at: the target, int64.
        z: the target's logit, as it is scored.
        hard: what the target alone is charged for.
        weights: what the score counts.
        scale: weights times all that is charged for, as far as that is known before: what p is multiplied by.
        bend: the derivative of z at the logit that is given.
        p: found by a softmax, the target's probability.
        top, total: found without one, the largest z_v, and Σ exp(z_v − top).
        spread: found under smoothing, Σ every_v · (z_v − z).
    """

    logits: Tensor
    at: Tensor
    z: Tensor
    hard: Tensor
    weights: Tensor
    scale: Tensor
    bend: Tensor
    p: Tensor
    top: Tensor
    total: Tensor
    spread: Tensor

    def split(self, step: int) -> Iterator[_Rows]:
        """Blocks of ``step`` rows, which share their memory with these: what is found of a block is found of all."""
        return map(_Rows._make, zip(*(each.split(step) for each in self), strict=True))


class _Scorer:
    """Scores blocks of rows that have the same score and the same classes.

    In a block of a few long rows every call into torch takes one percent of the time, however small its tensors are. So
    what is one number a row is reckoned before or after the pass, for all rows at once, where it can be.
    """

    def __init__(self, how: Score, class_weights: Tensor | None, logits: Tensor, *, replaced: bool) -> None:
        """``replaced``: the gradient takes the place of the logits."""
        self.how = how
        self.dtype = accumulator(logits.dtype)
        self.maps = how.softcap is not None or how.logit_scale != 1
        # Where z is in memory that may be written to, a softmax is slower than its steps: it normalises what is to be
        # multiplied anyway. And the steps need not come back to the logits.
        self.softmax = not self.maps and not replaced and logits.dtype == self.dtype
        self.target: Tensor | None = None
        self.every: Tensor | None = None
        self.shared = 0.0
        if how.class_weights or how.label_smoothing:
            charges = charge(how, logits.shape[1], class_weights)
            self.target = charges.target.to(logits.device, self.dtype)
            if how.label_smoothing:
                self.every = charges.every.to(logits.device, self.dtype)
                self.shared = float(charges.every.sum())

    def rows(self, logits: Tensor, targets: Tensor, weights: Tensor) -> _Rows:
        """The rows of a pass, nothing found of them yet."""
        at = targets.clamp(min=0)[:, None]
        given = logits.gather(1, at).to(self.dtype)
        z = map_logits(given, self.how)
        hard = torch.ones_like(z) if self.target is None else self.target[at]
        weights = weights.to(self.dtype)[:, None]
        bend = slope(given, self.how) * torch.ones_like(z)
        unknown = (torch.ones_like(z) for _ in ("p", "top", "total", "spread"))
        return _Rows(logits, at, z, hard, weights, weights * (hard + self.shared), bend, *unknown)

    def score(self, block: _Rows, room: Tensor, *, graded: bool) -> None:
        """Find what there is to find of a block; where it is ``graded``, ``room`` [m, V] is left with the gradient of
        Σ weights · ℓ, but for what is charged at the target alone."""
        how = self.how
        z = block.logits if block.logits.dtype == self.dtype else room.copy_(block.logits)
        bend = slope(z, how) if self.maps and graded else None
        z = map_logits(z, how) if self.maps else z
        if self.every is not None:
            # Where there is no room for z and p, what is to be summed over z has to be summed before.
            torch.mm(z - block.z, self.every[:, None], out=block.spread)
        if self.softmax:
            p = torch._softmax(z, 1, False, out=room)
            torch.gather(p, 1, block.at, out=block.p)
        else:
            torch.amax(z, 1, keepdim=True, out=block.top)
            p = z.sub_(block.top).exp_()
            torch.sum(p, 1, keepdim=True, out=block.total)
        if not graded:
            return
        weights, scale = self._factors(block)
        torch.mul(p, scale if self.softmax else scale / block.total, out=room)
        if self.every is not None:
            room.addr_(weights.squeeze(1), self.every, alpha=-1)
        if bend is not None:
            room.mul_(bend)

    def at_targets(self, rows: _Rows) -> Tensor:
        """The gradient [n, 1] at the targets of rows of which everything has been found."""
        weights, scale = self._factors(rows)
        found = scale * (-self._nll(rows)).exp() - weights * rows.hard
        if self.every is not None:
            found = found - weights * self.every[rows.at]
        return found * rows.bend

    def losses(self, rows: _Rows) -> Tensor:
        """ℓ [n] of rows of which everything has been found."""
        how, nll = self.how, self._nll(rows)
        loss = nll * rows.hard
        if self.every is not None:
            loss = loss + (nll * self.shared - rows.spread)
        if how.z_loss:
            loss = loss + how.z_loss * (nll + rows.z).square()
        if how.dft:
            loss = loss * (-nll).exp()
        return loss.squeeze(1)

    def _factors(self, rows: _Rows) -> tuple[Tensor, Tensor]:
        """What the gradient of each row is multiplied by [m, 1], and with it what p is."""
        how, weights, scale = self.how, rows.weights, rows.scale
        if how.z_loss:
            scale = scale + weights * (2 * how.z_loss * (self._nll(rows) + rows.z))
        if how.dft:
            p = (-self._nll(rows)).exp()
            weights, scale = weights * p, scale * p
        return weights, scale

    def _nll(self, rows: _Rows) -> Tensor:
        """−log p [m, 1] of the targets."""
        if not self.softmax:
            return rows.total.log() + (rows.top - rows.z)
        nll = -rows.p.log()
        lost = (rows.p < torch.finfo(self.dtype).tiny * _UNDERFLOWN).squeeze(1).nonzero().squeeze(1)
        for some in lost.split(_rows_at_once(rows.logits, 1)):
            nll[some] = torch.logsumexp(rows.logits[some], 1, keepdim=True) - rows.z[some]
        return nll
