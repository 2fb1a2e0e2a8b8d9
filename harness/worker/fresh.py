"""Fresh logits for every timed call: a pure function of a seed, at little more than the cost of writing them."""

from __future__ import annotations

from functools import lru_cache

import torch

_PERIOD = 1_000_003  # numbers in the table; a prime, so that no stride meets itself
_BLOCK = 16  # rows that are written at once
_STRIDES = 997
_LEAST_SCALE, _MORE_SCALE = 2.0, 2.0


def fill(out: torch.Tensor, seed: int) -> None:
    """Write numbers of `seed` to `out`, contiguous and floating, whose last dimension is the classes.

    Rows are stretches of one table of normal numbers, each from a place and times a scale in [2, 4) of its own: what a
    softmax of one call needs cannot be had from another call, and probabilities are far from uniform.
    """
    rows = out.view(-1, out.shape[-1])
    count, classes = rows.shape
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-count // _BLOCK)
    starts = torch.randint(_PERIOD, (blocks,), generator=generator).tolist()
    strides = torch.randint(1, _STRIDES, (blocks,), generator=generator).tolist()
    scales = (torch.rand(count, 1, generator=generator) * _MORE_SCALE + _LEAST_SCALE).to(out.device)
    table = _table(classes, str(out.device))
    for block, (start, stride) in enumerate(zip(starts, strides, strict=True)):
        part = slice(block * _BLOCK, (block + 1) * _BLOCK)
        source = table.as_strided((len(rows[part]), classes), (stride, 1), start)
        torch.mul(source, scales[part], out=rows[part])


def sketch(seed: int, classes: int, device: torch.device) -> torch.Tensor:
    """[V] float32 of 0 and 2: what a gradient is multiplied by, so that each row of it becomes one number.

    Its mean is 1, so a gradient that is nothing, or nothing but the target's, does not pass for p − onehot.
    """
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 2, (classes,), generator=generator) * 2.0).to(device)


@lru_cache(maxsize=2)
def _table(classes: int, device: str) -> torch.Tensor:
    numbers = torch.randn(_PERIOD, generator=torch.Generator().manual_seed(0))
    reach = _PERIOD + _BLOCK * _STRIDES + classes
    return numbers.repeat(-(-reach // _PERIOD))[:reach].to(device)
