"""Fresh logits for every timed call: a pure function of a seed, at little more than the cost of writing them."""

from __future__ import annotations

from functools import lru_cache

import torch

_PERIOD = 1_000_003  # numbers in the table; a prime, so that no stride divides it
BLOCK = 16  # rows that are written at once
_STRIDES = 997
_LEAST_SCALE, _MORE_SCALE = 2.0, 2.0


class Fresh:
    """The numbers [rows, classes] of `seed`, floating point, written in parts of any size.

    Each row is a stretch of one table of normal numbers, times the row's own scale in [2, 4). So no call can reuse the
    softmax of another call, and probabilities are far from uniform.
    """

    def __init__(self, seed: int, rows: int, classes: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        blocks = -(-rows // BLOCK)
        self._starts = torch.randint(_PERIOD, (blocks,), generator=generator).tolist()
        self._strides = torch.randint(1, _STRIDES, (blocks,), generator=generator).tolist()
        self._scales = (torch.rand(rows, 1, generator=generator) * _MORE_SCALE + _LEAST_SCALE).to(device)
        self._table = _table(classes, str(device))

    def write(self, out: torch.Tensor, first: int = 0) -> None:
        """Fill `out` [m, classes] with the rows from `first` on. `first` is a multiple of BLOCK."""
        for at in range(0, len(out), BLOCK):
            part, block = out[at : at + BLOCK], (first + at) // BLOCK
            source = self._table.as_strided(part.shape, (self._strides[block], 1), self._starts[block])
            torch.mul(source, self._scales[first + at :][: len(part)], out=part)


def fill(out: torch.Tensor, seed: int) -> None:
    """Fill `out` with the numbers of `seed`. `out` is contiguous, and its last dimension is the classes."""
    rows = out.view(-1, out.shape[-1])
    Fresh(seed, len(rows), rows.shape[1], out.device).write(rows)


def sketch(seed: int, classes: int, device: torch.device) -> torch.Tensor:
    """A vector [V] float32 of 0 and 2. Multiplied by it, each row of a gradient becomes one number.

    Its mean is 1, so that a gradient that is zero, or zero except at the target, differs from p − onehot.
    """
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 2, (classes,), generator=generator) * 2.0).to(device)


@lru_cache(maxsize=2)
def _table(classes: int, device: str) -> torch.Tensor:
    numbers = torch.randn(_PERIOD, generator=torch.Generator().manual_seed(0))
    reach = _PERIOD + BLOCK * _STRIDES + classes
    return numbers.repeat(-(-reach // _PERIOD))[:reach].to(device)
