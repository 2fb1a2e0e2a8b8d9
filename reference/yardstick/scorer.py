"""What is reckoned of logits that lie in the cache: the sums of a row's exponentials, and from them score and gradient.

The exponentials are written straight into the room that the gradient is to have, and multiplied there by what makes
them the gradient. Compiled code was no faster on a CPU: torch's own exp is the quicker one.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from ..score import charge, map_logits, slope
from ..spec import Score
from .rows import NOT_SCORED

_TRUSTED = (1.0, 1e20)  # of sums: what underflows is then at most 1e-38 of all, and a small weight over a sum does not
_UNDERFLOWN = 1e4  # times the smallest normal number: below that, a probability is no longer good for its logarithm
_CACHED = 1 << 20  # bytes that a block keeps, by thread. With twice that, torch itself drops out of the cache
_ELSEWHERE = 1 << 26  # off the CPU, where what counts is that kernels are few


class Less(IntEnum):
    """What is subtracted from the logits of a row before they are exponentiated."""

    NOTHING = 0
    TARGET = 1
    LARGEST = 2


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that logits of ``dtype`` are scored in: float32, or their own where that is wider."""
    return torch.promote_types(dtype, torch.float32)


def check_targets(targets: Tensor, classes: int) -> None:
    """Refuse ``targets`` [n] that are no class of so many.

    Raises:
        IndexError: on a CPU. Elsewhere the device reports it, for which nobody waits.
    """
    if targets.device.type == "cpu" and len(targets) and int(targets.max()) >= classes:
        wrong = int((targets >= classes).sum())
        raise IndexError(f"{wrong} labels are no class in [0, {classes}) and not ignored; mark them, or mend them")


def rows_at_once(logits: Tensor, arrays: int) -> int:
    """How many rows a block has, of so many arrays like the logits [n, V] as they are scored."""
    if logits.device.type != "cpu":
        return max(_ELSEWHERE // max(logits.shape[1], 1), 1)
    row = arrays * logits.shape[1] * accumulator(logits.dtype).itemsize
    return max(_CACHED * torch.get_num_threads() // max(row, 1), 1)


class Sums(NamedTuple):
    """What has been found of the logits z_v of some rows, [n, 1] each.

    Attributes:
        top, total: what was subtracted from each z_v, and Σ exp(z_v − top).
        spread: under smoothing, Σ every_v · (z_v − z).
    """

    top: Tensor
    total: Tensor
    spread: Tensor

    def split(self, sizes: int | list[int]) -> list[Sums]:
        """Those of blocks of so many rows, which share their memory with these."""
        return [Sums(*parts) for parts in zip(*(each.split(sizes) for each in self), strict=True)]


class Rows(NamedTuple):
    """Some rows, all or those of a block, with numbers [n, 1] for each.

    Attributes:
        skipped: which are not scored, bool.
        z: the target's logit, as it is scored.
        weights: what the score counts.
        scale: weights times all that is charged for, as far as that is known before: what p is multiplied by.
        sums: what has been found of their logits.
    """

    skipped: Tensor
    z: Tensor
    weights: Tensor
    scale: Tensor
    sums: Sums

    def split(self, sizes: int | list[int]) -> list[Rows]:
        """Blocks of so many rows, which share their memory with these: what is found of a block is found of all."""
        return [Rows(*parts) for parts in zip(*(each.split(sizes) for each in self), strict=True)]


class Targeted(NamedTuple):
    """What is asked of the target of each row when its sums are known, [n, 1].

    Attributes:
        at: which class it is, int64.
        hard: what it alone is charged for.
        bend: the derivative of its z at the logit that is given.
    """

    at: Tensor
    hard: Tensor
    bend: Tensor


class Scorer:
    """Scores blocks of rows that have the same score and the same classes.

    In a block of a few long rows every call into torch takes one percent of the time, however small its tensors are. So
    what is one number a row is reckoned before or after the pass, for all rows at once, where it can be.
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
        """``dtype``: of the accumulator. ``less``: what is subtracted at first; :meth:`trusts` may raise it."""
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
        """Rows by the target's logit as it is ``given`` [n, 1], ``targets`` [n] and ``weights`` [n], without sums."""
        at = targets.clamp(min=0)[:, None]
        given = given.to(self.dtype)
        z = map_logits(given, self.how)
        hard = torch.ones_like(z) if self.target is None else self.target[at]
        weights = weights.to(self.dtype)[:, None]
        sums = Sums(torch.zeros_like(z), torch.ones_like(z), torch.zeros_like(z))
        rows = Rows(targets[:, None] == NOT_SCORED, z, weights, weights * (hard + self.shared), sums)
        return rows, Targeted(at, hard, slope(given, self.how) * torch.ones_like(z))

    def score(self, block: Rows, logits: Tensor, room: Tensor, *, graded: bool) -> None:
        """Find the sums of a block of all its ``logits`` [m, V]; where it is ``graded``, ``room`` [m, V] is left with
        the gradient of Σ weights · ℓ, but for what is charged at the target alone."""
        z, bend = self._map(logits, room, graded=graded)
        top, total, spread = block.sums
        if self.every is not None:
            # Where there is no room for z and p, what is to be summed over z has to be summed before.
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
        """Add to the sums of some rows what their ``logits`` [m, C] of further ``classes`` have. Until
        :meth:`joined`, the spread is that of z_v − top."""
        z, _ = self._map(logits, room, graded=False)
        top = torch.maximum(sums.top, z.amax(1, keepdim=True))
        less = sums.top - top
        if self.every is not None:
            sums.spread.add_(less * self.every[: classes.start].sum()).addmm_(z - top, self.every[classes, None])
        p = self._exp(z, top, room if z is logits else z)
        sums.total.mul_(less.exp_()).add_(p.sum(1, keepdim=True))
        sums.top.copy_(top)

    def joined(self, rows: Rows, sums: Sums) -> Rows:
        """The rows with the sums that all classes have been added to."""
        return rows._replace(sums=sums._replace(spread=sums.spread + (sums.top - rows.z) * self.shared))

    def grade(self, block: Rows, logits: Tensor, room: Tensor, classes: slice) -> None:
        """Leave in ``room`` [m, C] what :meth:`score` does for all classes, of a block with sums, for some of them."""
        z, bend = self._map(logits, room, graded=True)
        p = self._exp(z, block.sums.top, room if z is logits else z)
        self._grade(block, p, room, bend, None if self.every is None else self.every[classes])

    def trusts(self, rows: Rows) -> bool:
        """Whether the sums of some rows are in order. If not, they are to be scored again: more is subtracted now."""
        if self.less is Less.LARGEST:
            return True
        least, most = torch.aminmax(rows.sums.total.masked_fill(rows.skipped, 1.0))
        if _TRUSTED[0] <= least.item() and most.item() <= _TRUSTED[1]:
            return True
        self.less = Less(self.less + 1)
        return False

    def at_targets(self, rows: Rows, targeted: Targeted) -> Tensor:
        """The gradient [n, 1] at the targets of rows of which everything has been found."""
        weights, scale = self._factors(rows)
        found = scale * (-self._nll(rows)).exp() - weights * targeted.hard
        if self.every is not None:
            found = found - weights * self.every[targeted.at]
        return found * targeted.bend

    def losses(self, rows: Rows, targeted: Targeted) -> Tensor:
        """ℓ [n] of rows of which everything has been found."""
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
        """The logits as they are scored, themselves or in ``room`` or elsewhere; and, where that is wanted and not 1,
        the derivative of that."""
        z = logits if logits.dtype == self.dtype else room.copy_(logits)
        if not self.maps:
            return z, None
        bend = slope(z, self.how) if graded else None
        return map_logits(z, self.how), bend

    def _exp(self, z: Tensor, top: Tensor | None, place: Tensor) -> Tensor:
        """exp(z − top), in ``place``."""
        return torch.exp(z if top is None else torch.sub(z, top, out=place), out=place)

    def _grade(self, rows: Rows, p: Tensor, room: Tensor, bend: Tensor | float | None, every: Tensor | None) -> None:
        """Make the gradient of exponentials ``p``."""
        weights, scale = self._factors(rows)
        torch.mul(p, scale / rows.sums.total, out=room)
        if every is not None:
            room.addr_(weights.squeeze(1), every, alpha=-1)
        if bend is not None:
            room.mul_(bend)

    def _factors(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """What the gradient of each row is multiplied by [m, 1], and with it what p is."""
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
        # Not the second everywhere: where little is subtracted, it is the difference of two large numbers.
        return torch.where(lost, total.log() + (top - rows.z), -p.clamp(max=1.0).log())
