"""One pass over rows of logits, block by block, each block small enough to stay in the cache: scores and gradient.

The exponentials are written straight into the gradient, for 16-bit logits into a buffer of one block in float32, and
multiplied there by what makes them the gradient. To find the largest logit of a row and to subtract it would be two
more passes, and logits seldom need them: they are taken as they are, and again, with something subtracted, where the
sums show that they did. Compiled code was no faster on a CPU: torch's own exp is the quicker one.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..score import charge, map_logits, slope
from ..spec import Score
from .rows import NOT_SCORED

_CACHED = 1 << 20  # bytes that a block keeps, by thread. With twice that, torch itself drops out of the cache
_ELSEWHERE = 1 << 26  # off the CPU, where what counts is that kernels are few
_TOGETHER = 16  # blocks after which it is asked whether their sums can be trusted
_TRUSTED = (1.0, 1e20)  # of sums: what underflows is then at most 1e-38 of all, and a small weight over a sum does not
_UNDERFLOWN = 1e4  # times the smallest normal number: below that, a probability is no longer good for its logarithm


class _Less(IntEnum):
    """What is subtracted from the logits of a row before they are exponentiated."""

    NOTHING = 0
    TARGET = 1
    LARGEST = 2


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
    rows, targeted = scorer.rows(logits, targets, weights)
    skipped = rows.skipped.squeeze(1)
    # Asked once and not block by block: off the CPU, each answer would be waited for.
    skips = F.pad(skipped, (0, -count % step)).view(-1, step).sum(1).tolist()
    sizes = _group_sizes(count, step)
    gradients = [None] * len(sizes) if gradient is None else gradient.split(sizes)
    for group, out in zip(rows.split(sizes), gradients, strict=True):
        blocks = group.split(step)
        known, skips = skips[: len(blocks)], skips[len(blocks) :]
        while True:
            _score_blocks(scorer, blocks, known, out, buffer)
            if scorer.trusts(group):
                break
    if gradient is not None:
        at_targets = scorer.at_targets(rows, targeted).squeeze(1).masked_fill_(skipped, 0.0)
        # Not scatter_: for 16 bits on a CPU that copies all of the gradient.
        gradient[torch.arange(count, device=logits.device), targeted.at.squeeze(1)] = at_targets.to(gradient.dtype)
    return scorer.losses(rows, targeted).masked_fill_(skipped, 0.0)


def _group_sizes(count: int, step: int) -> list[int]:
    """How many rows each group has. The first is one block: where all logits are large, that shows at once, and an exp
    that overflows takes sixty times as long."""
    whole, rest = divmod(count - step, _TOGETHER * step)
    return [step, *[_TOGETHER * step] * whole] + [rest] * bool(rest)


def _score_blocks(
    scorer: _Scorer, blocks: Sequence[_Rows], skips: Sequence[int], gradient: Tensor | None, buffer: Tensor | None
) -> None:
    """Score blocks, so many rows of which are skipped, in a ``buffer``, or else in their ``gradient``."""
    step = len(blocks[0].z)
    gradients = [None] * len(blocks) if gradient is None else gradient.split(step)
    for block, out, skipped in zip(blocks, gradients, skips, strict=True):
        if skipped and skipped == len(block.z):
            if out is not None:
                out.zero_()
            continue
        room = out if buffer is None else buffer[: len(block.z)]
        assert room is not None
        scorer.score(block, room, graded=out is not None)
        if out is not None:
            if skipped:
                room.masked_fill_(block.skipped, 0.0)
            if room is not out:
                out.copy_(room)


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
        skipped: which are not scored, bool.
        z: the target's logit, as it is scored.
        weights: what the score counts.
        scale: weights times all that is charged for, as far as that is known before: what p is multiplied by.
        top, total: found, what was subtracted from each z_v, and Σ exp(z_v − top).
        spread: found under smoothing, Σ every_v · (z_v − z).
    """

    logits: Tensor
    skipped: Tensor
    z: Tensor
    weights: Tensor
    scale: Tensor
    top: Tensor
    total: Tensor
    spread: Tensor

    def split(self, sizes: int | list[int]) -> list[_Rows]:
        """Blocks of so many rows, which share their memory with these: what is found of a block is found of all."""
        return list(map(_Rows._make, zip(*(each.split(sizes) for each in self), strict=True)))


class _Targeted(NamedTuple):
    """What is asked of the target of each row when the pass is over, [n, 1].

    Attributes:
        at: which class it is, int64.
        hard: what it alone is charged for.
        bend: the derivative of its z at the logit that is given.
    """

    at: Tensor
    hard: Tensor
    bend: Tensor


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
        # There is no second try on logits that are gone, and off the CPU none without waiting for the device.
        self.less = _Less.LARGEST if replaced or logits.device.type != "cpu" else _Less.NOTHING
        self.target: Tensor | None = None
        self.every: Tensor | None = None
        self.shared = 0.0
        if how.class_weights or how.label_smoothing:
            charges = charge(how, logits.shape[1], class_weights)
            self.target = charges.target.to(logits.device, self.dtype)
            if how.label_smoothing:
                self.every = charges.every.to(logits.device, self.dtype)
                self.shared = float(charges.every.sum())

    def rows(self, logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[_Rows, _Targeted]:
        """The rows of a pass, nothing found of them yet."""
        at = targets.clamp(min=0)[:, None]
        given = logits.gather(1, at).to(self.dtype)
        z = map_logits(given, self.how)
        hard = torch.ones_like(z) if self.target is None else self.target[at]
        weights = weights.to(self.dtype)[:, None]
        found = torch.zeros_like(z), torch.ones_like(z), torch.zeros_like(z)
        rows = _Rows(logits, targets[:, None] == NOT_SCORED, z, weights, weights * (hard + self.shared), *found)
        return rows, _Targeted(at, hard, slope(given, self.how) * torch.ones_like(z))

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
        place = room if z is block.logits else z
        if self.less is _Less.TARGET:
            block.top.copy_(block.z)
        elif self.less is _Less.LARGEST:
            torch.amax(z, 1, keepdim=True, out=block.top)
        p = torch.exp(z if self.less is _Less.NOTHING else torch.sub(z, block.top, out=place), out=place)
        torch.sum(p, 1, keepdim=True, out=block.total)
        if not graded:
            return
        weights, scale = self._factors(block)
        torch.mul(p, scale / block.total, out=room)
        if self.every is not None:
            room.addr_(weights.squeeze(1), self.every, alpha=-1)
        if bend is not None:
            room.mul_(bend)

    def trusts(self, rows: _Rows) -> bool:
        """Whether the sums of some rows are in order. If not, they are to be scored again: more is subtracted now."""
        if self.less is _Less.LARGEST:
            return True
        least, most = torch.aminmax(rows.total.masked_fill(rows.skipped, 1.0))
        if _TRUSTED[0] <= least.item() and most.item() <= _TRUSTED[1]:
            return True
        self.less = _Less(self.less + 1)
        return False

    def at_targets(self, rows: _Rows, targeted: _Targeted) -> Tensor:
        """The gradient [n, 1] at the targets of rows of which everything has been found."""
        weights, scale = self._factors(rows)
        found = scale * (-self._nll(rows)).exp() - weights * targeted.hard
        if self.every is not None:
            found = found - weights * self.every[targeted.at]
        return found * targeted.bend

    def losses(self, rows: _Rows, targeted: _Targeted) -> Tensor:
        """ℓ [n] of rows of which everything has been found."""
        how, nll = self.how, self._nll(rows)
        loss = nll * targeted.hard
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
        p = (rows.z - rows.top).exp() / rows.total
        lost = p < torch.finfo(self.dtype).tiny * _UNDERFLOWN
        # Not the second everywhere: where little is subtracted, it is the difference of two large numbers.
        return torch.where(lost, rows.total.log() + (rows.top - rows.z), -p.clamp(max=1.0).log())
