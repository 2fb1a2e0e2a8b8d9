"""The arithmetic on logits in the cache: the sums of a row's exponentials, and from them score and gradient.

The exponentials are written directly into the memory of the gradient, and turned into the gradient there. Compiled code
was no faster on a CPU, because torch's own exp is faster.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from ..score import charge, map_logits, slope
from ..spec import Score
from .rows import NOT_SCORED

_TRUSTED = (1.0, 1e20)  # good sums: underflow then loses at most 1e-38 of a sum, and weight / sum does not underflow
_UNDERFLOWN = 1e4  # times the smallest normal number: the logarithm of a smaller probability is not accurate
_CACHED = 1 << 20  # bytes of a block, per thread. With twice that, torch itself no longer fits in the cache
_ELSEWHERE = 1 << 26  # elements of a block on other devices than the CPU, where few kernels are faster


class Less(IntEnum):
    """The number that is subtracted from the logits of a row before they are exponentiated."""

    NOTHING = 0
    TARGET = 1
    LARGEST = 2


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which logits of ``dtype`` are scored: float32, or their own if that is wider."""
    return torch.promote_types(dtype, torch.float32)


def check_targets(targets: Tensor, classes: int) -> None:
    """Check that ``targets`` [n] are below ``classes``.

    Raises:
        IndexError: a target is not a class. Only on a CPU. On other devices, the device reports it later.
    """
    if targets.device.type == "cpu" and len(targets) and int(targets.max()) >= classes:
        wrong = int((targets >= classes).sum())
        raise IndexError(f"{wrong} labels are no class in [0, {classes}) and not ignored; mark or correct them")


def rows_at_once(logits: Tensor, arrays: int) -> int:
    """The number of rows of a block that needs ``arrays`` arrays like the logits [n, V], in the accumulator's dtype."""
    if logits.device.type != "cpu":
        return max(_ELSEWHERE // max(logits.shape[1], 1), 1)
    row = arrays * logits.shape[1] * accumulator(logits.dtype).itemsize
    return max(_CACHED * torch.get_num_threads() // max(row, 1), 1)


class Sums(NamedTuple):
    """Sums over the logits z_v of some rows, [n, 1] each.

    Attributes:
        top: the number that was subtracted from each z_v.
        total: Σ exp(z_v − top).
        spread: under smoothing, Σ every_v · (z_v − z).
    """

    top: Tensor
    total: Tensor
    spread: Tensor

    def split(self, sizes: int | list[int]) -> list[Sums]:
        """Split into blocks of these sizes. The blocks share memory with these sums."""
        return [Sums(*parts) for parts in zip(*(each.split(sizes) for each in self), strict=True)]


class Rows(NamedTuple):
    """All rows, or those of a block, with numbers [n, 1] for each.

    Attributes:
        skipped: whether the row is not scored, bool.
        z: the target's logit, after scale and softcap.
        weights: the weight of the score.
        scale: weights times the sum of all factors of log-probabilities, without z-loss and dft. The factor of p.
        sums: the sums over the logits.
    """

    skipped: Tensor
    z: Tensor
    weights: Tensor
    scale: Tensor
    sums: Sums

    def split(self, sizes: int | list[int]) -> list[Rows]:
        """Split into blocks of these sizes. They share memory with these rows, so results of a block show here too."""
        return [Rows(*parts) for parts in zip(*(each.split(sizes) for each in self), strict=True)]


class Targeted(NamedTuple):
    """Facts about the target of each row, for use after the sums are known, [n, 1].

    Attributes:
        at: the target's class, int64.
        hard: the additional factor of the target's log-probability.
        bend: the derivative of the target's z at the given logit.
    """

    at: Tensor
    hard: Tensor
    bend: Tensor


class Scorer:
    """Scores blocks of rows that have the same score and the same classes.

    In a block of a few long rows, every call into torch takes one percent of the time, even if its tensors are small.
    So numbers per row are computed before or after the pass, for all rows at once, if possible.
    """

    def __init__(
        self,
        how: Score,
        class_weights: Tensor | None,
        classes: int,
        dtype: torch.dtype,
        device: torch.device,
        less: Less,
    ) -> None:
        """``dtype`` is the accumulator's. ``less`` is subtracted at first. :meth:`trusts` may increase it."""
        self.how = how
        self.dtype = dtype
        self.maps = how.softcap is not None or how.logit_scale != 1
        self.less = less
        self.target: Tensor | None = None
        self.every: Tensor | None = None
        self.shared = 0.0
        if how.class_weights or how.label_smoothing:
            charges = charge(how, classes, class_weights)
            self.target = charges.target.to(device, dtype)
            if how.label_smoothing:
                self.every = charges.every.to(device, dtype)
                self.shared = float(charges.every.sum())

    def rows(self, given: Tensor, targets: Tensor, weights: Tensor) -> tuple[Rows, Targeted]:
        """Make rows without sums from the target's ``given`` logit [n, 1], ``targets`` [n] and ``weights`` [n]."""
        at = targets.clamp(min=0)[:, None]
        given = given.to(self.dtype)
        z = map_logits(given, self.how)
        hard = torch.ones_like(z) if self.target is None else self.target[at]
        weights = weights.to(self.dtype)[:, None]
        sums = Sums(torch.zeros_like(z), torch.ones_like(z), torch.zeros_like(z))
        rows = Rows(targets[:, None] == NOT_SCORED, z, weights, weights * (hard + self.shared), sums)
        return rows, Targeted(at, hard, slope(given, self.how) * torch.ones_like(z))

    def score(self, block: Rows, logits: Tensor, room: Tensor, *, graded: bool) -> None:
        """Compute the sums of a block from all its ``logits`` [m, V].

        If ``graded``, write the gradient of Σ weights · ℓ into ``room`` [m, V], without the target's additional part.
        """
        z, bend = self._map(logits, room, graded=graded)
        top, total, spread = block.sums
        if self.every is not None:
            # There may be no memory for both z and p. So the sum over z comes first.
            torch.mm(z - block.z, self.every[:, None], out=spread)
        if self.less is Less.TARGET:
            top.copy_(block.z)
        elif self.less is Less.LARGEST:
            torch.amax(z, 1, keepdim=True, out=top)
        p = self._exp(z, None if self.less is Less.NOTHING else top, room if z is logits else z)
        torch.sum(p, 1, keepdim=True, out=total)
        if graded:
            self._grade(block, p, room, bend, self.every)

    def join(self, sums: Sums, logits: Tensor, room: Tensor, classes: slice) -> None:
        """Add ``logits`` [m, C] of further ``classes`` to the sums of some rows.

        Until :meth:`joined`, the spread is Σ every_v · (z_v − top).
        """
        z, _ = self._map(logits, room, graded=False)
        top = torch.maximum(sums.top, z.amax(1, keepdim=True))
        less = sums.top - top
        if self.every is not None:
            sums.spread.add_(less * self.every[: classes.start].sum()).addmm_(z - top, self.every[classes, None])
        p = self._exp(z, top, room if z is logits else z)
        sums.total.mul_(less.exp_()).add_(p.sum(1, keepdim=True))
        sums.top.copy_(top)

    def joined(self, rows: Rows, sums: Sums) -> Rows:
        """Return the rows with ``sums``, to which all classes have been added."""
        return rows._replace(sums=sums._replace(spread=sums.spread + (sums.top - rows.z) * self.shared))

    def grade(self, block: Rows, logits: Tensor, room: Tensor, classes: slice) -> None:
        """Write the gradient of some ``classes`` into ``room`` [m, C], as :meth:`score` does for all classes.

        The block must have its sums.
        """
        z, bend = self._map(logits, room, graded=True)
        p = self._exp(z, block.sums.top, room if z is logits else z)
        self._grade(block, p, room, bend, None if self.every is None else self.every[classes])

    def trusts(self, rows: Rows) -> bool:
        """Whether the sums of some rows are good. If not, ``less`` is raised, and the rows must be scored again."""
        if self.less is Less.LARGEST:
            return True
        least, most = torch.aminmax(rows.sums.total.masked_fill(rows.skipped, 1.0))
        if _TRUSTED[0] <= least.item() and most.item() <= _TRUSTED[1]:
            return True
        self.less = Less(self.less + 1)
        return False

    def at_targets(self, rows: Rows, targeted: Targeted) -> Tensor:
        """The gradient [n, 1] at the targets of rows with complete sums."""
        weights, scale = self._factors(rows)
        found = scale * (-self._nll(rows)).exp() - weights * targeted.hard
        if self.every is not None:
            found = found - weights * self.every[targeted.at]
        return found * targeted.bend

    def losses(self, rows: Rows, targeted: Targeted) -> Tensor:
        """ℓ [n] of rows with complete sums."""
        how, nll = self.how, self._nll(rows)
        loss = nll * targeted.hard
        if self.every is not None:
            loss = loss + (nll * self.shared - rows.sums.spread)
        if how.z_loss:
            loss = loss + how.z_loss * (nll + rows.z).square()
        if how.dft:
            loss = loss * (-nll).exp()
        return loss.squeeze(1)

    def _map(self, logits: Tensor, room: Tensor, *, graded: bool) -> tuple[Tensor, Tensor | float | None]:
        """Return z: the logits themselves, a copy in ``room``, or a new tensor. Also dz/dx, if ``graded`` and not 1."""
        z = logits if logits.dtype == self.dtype else room.copy_(logits)
        if not self.maps:
            return z, None
        bend = slope(z, self.how) if graded else None
        return map_logits(z, self.how), bend

    def _exp(self, z: Tensor, top: Tensor | None, place: Tensor) -> Tensor:
        """Write exp(z − top) into ``place``."""
        return torch.exp(z if top is None else torch.sub(z, top, out=place), out=place)

    def _grade(self, rows: Rows, p: Tensor, room: Tensor, bend: Tensor | float | None, every: Tensor | None) -> None:
        """Turn exponentials ``p`` into the gradient, in ``room``."""
        weights, scale = self._factors(rows)
        torch.mul(p, scale / rows.sums.total, out=room)
        if every is not None:
            room.addr_(weights.squeeze(1), every, alpha=-1)
        if bend is not None:
            room.mul_(bend)

    def _factors(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The weight [m, 1] of each row's score, and the factor [m, 1] of p."""
        how, weights, scale = self.how, rows.weights, rows.scale
        if how.z_loss:
            scale = scale + weights * (2 * how.z_loss * (self._nll(rows) + rows.z))
        if how.dft:
            p = (-self._nll(rows)).exp()
            weights, scale = weights * p, scale * p
        return weights, scale

    def _nll(self, rows: Rows) -> Tensor:
        """−log p [m, 1] of the targets."""
        top, total, _ = rows.sums
        p = (rows.z - top).exp() / total
        lost = p < torch.finfo(self.dtype).tiny * _UNDERFLOWN
        # log total + (top − z) only for lost values: if top is small, it is the difference of two large numbers.
        return torch.where(lost, total.log() + (top - rows.z), -p.clamp(max=1.0).log())
