"""The numbers of a case: integers from a counter-based generator, then exact arithmetic.

No floating-point generator is used, so that the same recipe gives the same bytes on every device and version.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shiftproof.reference.pairing import Pairing, Place

from .recipe import Recipe, Regime, Stride

_SIXTEEN_BITS = ("bfloat16", "float16")
_SPOILT = (Regime.NAN_VALID, Regime.PLUS_INF, Regime.TARGET_MINUS_INF)
_FAR = 16.0
_MANY = 256  # rows whose mean is nearly the same with other labels, unless some rows are certain of theirs


def uniform_ints(seed: int, stream: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    """``size`` integers in [0, 2¹⁶). NumPy guarantees the raw output of Philox, but not its distributions."""
    words = np.random.Philox(key=[seed, stream]).random_raw((size + 3) // 4)
    return np.asarray(words, dtype="<u8").view("<u2")[:size].astype(np.uint16)


def bell(seed: int, stream: int, shape: tuple[int, ...]) -> Tensor:
    """Roughly standard normal float64 numbers, multiples of 2⁻¹³: the centred sum of three 16-bit uniforms."""
    size = int(np.prod(shape, dtype=np.int64))
    parts = uniform_ints(seed, stream, 3 * size).reshape(3, size).astype(np.int64)
    return (torch.from_numpy(parts.sum(0) - 98304).double() / 2**15).reshape(shape)


class _Used(NamedTuple):
    """The rows of one array of logits that are scored, in the order of the pairs.

    Attributes:
        places: where each row is.
        rows: [n] int64, the same as indices into the logits as [rows, V].
        targets: [n] int64.
    """

    places: list[Place]
    rows: Tensor
    targets: Tensor


def _used(pairing: Pairing, name: str) -> _Used:
    target_of = {pair.logit: pair.target for pair in pairing.of(name)}
    extents = pairing.shapes[name][:-1]
    strides = torch.tensor([math.prod(extents[axis + 1 :]) for axis in range(len(extents))])
    places = torch.tensor(list(target_of), dtype=torch.long).reshape(-1, len(extents))
    return _Used(list(target_of), (places * strides).sum(1), torch.tensor(list(target_of.values()), dtype=torch.long))


def draw_logits(recipe: Recipe, pairing: Pairing) -> dict[str, Tensor]:
    """Draw the logits of a recipe, by argument, in float64. They are not yet rounded to the recipe's dtype."""
    used = {name: _used(pairing, name) for name in pairing.shapes}
    drawn = {
        name: _draw(recipe, shape, used[name], 10 * index) for index, (name, shape) in enumerate(pairing.shapes.items())
    }
    if recipe.regime is Regime.HUGE:
        for index, name in enumerate(pairing.shapes):
            if any(term.score.dft for term in pairing.terms if term.logits == name):
                noise = bell(recipe.seed, 10 * index + 1, pairing.shapes[name])
                _keep_one_ordinary(drawn[name], used[name], noise, silent=recipe.dtype in _SIXTEEN_BITS)
    if recipe.regime in _SPOILT:
        _spoil_one_row(recipe, pairing, drawn)
    return drawn


def _spoil_one_row(recipe: Recipe, pairing: Pairing, drawn: dict[str, Tensor]) -> None:
    """Make one row that counts NaN or infinite.

    Only one row of one array. With one in each array, a stream that hides it would not be noticed. The arrays take
    turns from seed to seed, so that few cases are enough.
    """
    counted = {name: [pair for pair in pairing.of(name) if pair.weight] for name in pairing.shapes}
    arrays = [name for name, pairs in counted.items() if pairs]
    if not arrays:
        return
    name = arrays[recipe.seed % len(arrays)]
    pair = counted[name][recipe.seed // len(arrays) % len(counted[name])]
    row = drawn[name][pair.logit]
    match recipe.regime:
        case Regime.NAN_VALID:
            row[:] = torch.nan
        case Regime.PLUS_INF:
            row[(pair.target + 1) % len(row)] = torch.inf
        case Regime.TARGET_MINUS_INF:
            row[pair.target] = -torch.inf


def _draw(recipe: Recipe, shape: tuple[int, ...], used: _Used, stream: int) -> Tensor:
    """Draw logits of ``shape``. ``stream`` is different for each array of a recipe."""
    noise = bell(recipe.seed, stream + 1, shape)
    shared = recipe.stride is Stride.EXPANDED
    if shared and shape[0]:
        noise = noise[:1].expand(shape).clone()
    match recipe.regime:
        case Regime.CALM:
            return noise
        case Regime.NORMAL:
            return _unsettle(noise * 3, used, shared)
        case Regime.SHARP:
            return _sharpen(noise, used, _picks(recipe, used, stream))
        case Regime.TIES:
            return _unsettle((noise * 1.5).round(), used, shared)
        case Regime.HUGE:
            return _enlarge(noise, used)
        case Regime.MINUS_INF:
            return _with_minus_inf(noise * 3, used, uniform_ints(recipe.seed, stream + 2, noise.numel()))
        case Regime.NAN_IGNORED:
            logits = noise * 3 if len(used.rows) < _MANY else _sharpen(noise, used, _picks(recipe, used, stream))
            idle = torch.ones(shape[:-1], dtype=torch.bool)
            idle.view(-1)[used.rows] = False
            logits[idle] = torch.nan
            return logits
        case Regime.NAN_VALID | Regime.PLUS_INF | Regime.TARGET_MINUS_INF:
            return noise * 3


def _picks(recipe: Recipe, used: _Used, stream: int) -> np.ndarray:
    return uniform_ints(recipe.seed, stream + 2, max(len(used.rows), 1))


def _sharpen(noise: Tensor, used: _Used, picks: np.ndarray) -> Tensor:
    """Make the used rows, in turn, near one-hot (p ≥ .99) off the target, near one-hot on it, and spread out.

    The spread-out rows keep gradients away from zero.
    """
    classes = noise.shape[-1]
    height = 8.0 + max(classes, 2).bit_length()
    logits = noise.clone()
    flat = _rows_of(logits)
    off = torch.from_numpy(picks[: len(used.rows)].astype(np.int64)) % max(classes - 1, 1)
    flat[used.rows[0::3], (used.targets + 1 + off)[0::3] % classes] = height
    flat[used.rows[1::3], used.targets[1::3]] = height
    return logits


def _enlarge(noise: Tensor, used: _Used) -> Tensor:
    """Make the rows, in turn, spread over ±1e4, shifted far up, and shifted far down.

    At least one used row is spread out. In every second one of these, the target is the least likely class. In rows
    shifted to ±1e4, rounding may remove all differences. A loss in the thousands still tells right from wrong.
    """
    logits = noise * 3
    flat = _rows_of(logits)
    flat[0::3] = (flat[0::3] * 2000).clamp(-10000, 10000)
    flat[1::3] += 10000
    flat[2::3] -= 10000
    spread = used.rows % 3 == 0
    if len(used.rows) and not spread.any():
        spread[0] = True
        flat[used.rows[0]] = (_rows_of(noise)[used.rows[0]] * 6000).clamp(-10000, 10000)
    rows, targets = used.rows[spread][::2], used.targets[spread][::2]
    if len(rows):
        least = flat[rows].argmin(1)
        flat[rows, targets], flat[rows, least] = flat[rows, least], flat[rows, targets]
    return logits


def _keep_one_ordinary(logits: Tensor, used: _Used, noise: Tensor, silent: bool) -> None:
    """Keep the first used row away from ±1e4, with p_y neither 0 nor 1, for a score that is multiplied by p_y.

    A row whose p_y is 0 or 1 adds nothing to the loss. At ±1e4 in 16 bits, log p_y has such a large error that any
    other p_y may have any value. If ``silent``, p_y is 0 in all other used rows, so that their error cannot hide the
    first row.
    """
    for index, (place, target) in enumerate(zip(used.places, used.targets.tolist(), strict=True)):
        if index == 0:
            logits[place] = noise[place] * 3
            logits[place][target] = logits.shape[-1].bit_length()  # about the logarithm of the sum of all the others
        elif silent:
            logits[place] = (noise[place] * 6000).clamp(-10000, 10000)
            _swap(logits[place], target, int(logits[place].argmin()))


def _with_minus_inf(logits: Tensor, used: _Used, picks: np.ndarray) -> Tensor:
    """Set a third of the classes other than the target to −inf.

    In every second used row, from the first on, the target is far less likely than the other classes that are left. So
    the loss is far from ln V and from the loss of other labels.
    """
    gone = torch.from_numpy(picks.astype(np.int64) % 3 == 0).reshape(logits.shape)
    gone[..., 0] = False  # at least one class stays finite in rows that are not scored
    rows = _rows_of(gone)
    rows[used.rows, used.targets] = False
    rows[used.rows[:1], (used.targets[:1] + 1) % logits.shape[-1]] = False
    logits = _unsettle(logits, used).masked_fill(gone, -torch.inf)
    _rows_of(logits)[used.rows[::2], used.targets[::2]] -= _FAR
    return logits


def _unsettle(logits: Tensor, used: _Used, shared: bool = False) -> Tensor:
    """Make sure that the target is not the most likely class in the first used row.

    In a small case, every row might be certain of its target. A loss and a gradient near 0 prove little. If ``shared``,
    all rows of the batch are changed in the same way.
    """
    for place, target in zip(used.places[:1], used.targets[:1].tolist(), strict=True):
        if int(logits[place].argmax()) == target:
            for row in range(len(logits)) if shared else place[:1]:
                _swap(logits[(row, *place[1:])], target, (target + 1) % logits.shape[-1])
    return logits


def _rows_of(logits: Tensor) -> Tensor:
    """The same numbers as [rows, V]."""
    return logits.view(math.prod(logits.shape[:-1]), logits.shape[-1])


def _swap(row: Tensor, one: int, other: int) -> None:
    row[[one, other]] = row[[other, one]]
