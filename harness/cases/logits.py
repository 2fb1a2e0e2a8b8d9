"""The numbers of a case: integers from a counter-based generator, then exact arithmetic.

No floating-point generator is used, so that the same recipe gives the same bytes on every device and version.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shiftproof.reference.pairing import Pairing, Place

from .recipe import Recipe, Regime, Stride

_SIXTEEN_BITS = ("bfloat16", "float16")
_FAR = 16.0


def uniform_ints(seed: int, stream: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    """``size`` integers in [0, 2¹⁶). NumPy guarantees the raw output of Philox, but not its distributions."""
    words = np.random.Philox(key=[seed, stream]).random_raw((size + 3) // 4)
    return np.asarray(words, dtype="<u8").view("<u2")[:size].astype(np.uint16)


def bell(seed: int, stream: int, shape: tuple[int, ...]) -> Tensor:
    """Roughly standard normal float64 numbers, multiples of 2⁻¹³: the centred sum of three 16-bit uniforms."""
    size = int(np.prod(shape, dtype=np.int64))
    parts = uniform_ints(seed, stream, 3 * size).reshape(3, size).astype(np.int64)
    return (torch.from_numpy(parts.sum(0) - 98304).double() / 2**15).reshape(shape)


def draw_logits(recipe: Recipe, pairing: Pairing) -> dict[str, Tensor]:
    """Draw the logits of a recipe, by argument, in float64. They are not yet rounded to the recipe's dtype."""
    used = {name: {pair.logit: pair.target for pair in pairing.of(name)} for name in pairing.shapes}
    drawn = {
        name: _draw(recipe, shape, used[name], 10 * index) for index, (name, shape) in enumerate(pairing.shapes.items())
    }
    if recipe.regime is Regime.HUGE:
        for index, name in enumerate(pairing.shapes):
            if any(term.score.dft for term in pairing.terms if term.logits == name):
                noise = bell(recipe.seed, 10 * index + 1, pairing.shapes[name])
                _keep_one_ordinary(drawn[name], used[name], noise, silent=recipe.dtype in _SIXTEEN_BITS)
    if recipe.regime is Regime.NAN_VALID:
        # Only one row of one array gets NaN. With one in each array, a stream that hides its NaN would not be noticed.
        places = [(name, place) for name, of_name in used.items() for place in of_name]
        if places:
            name, place = places[recipe.seed % len(places)]
            drawn[name][place] = torch.nan
    return drawn


def _draw(recipe: Recipe, shape: tuple[int, ...], used: dict[Place, int], stream: int) -> Tensor:
    """Draw logits of ``shape``. ``used`` maps each row that is scored to its target.

    ``stream`` is different for each array of a recipe.
    """
    noise = bell(recipe.seed, stream + 1, shape)
    shared = recipe.stride is Stride.EXPANDED
    if shared and shape[0]:
        noise = noise[:1].expand(shape).clone()
    classes = shape[-1]
    match recipe.regime:
        case Regime.CALM:
            return noise
        case Regime.NORMAL:
            return _unsettle(noise * 3, used, shared)
        case Regime.SHARP:
            return _sharpen(noise, used, uniform_ints(recipe.seed, stream + 2, max(len(used), 1)), classes)
        case Regime.TIES:
            return _unsettle((noise * 1.5).round(), used, shared)
        case Regime.HUGE:
            return _enlarge(noise, used)
        case Regime.MINUS_INF:
            return _with_minus_inf(noise * 3, used, uniform_ints(recipe.seed, stream + 2, noise.numel()))
        case Regime.NAN_IGNORED:
            logits = noise * 3
            idle = torch.ones(shape[:-1], dtype=torch.bool)
            for place in used:
                idle[place] = False
            logits[idle] = torch.nan
            return logits
        case Regime.NAN_VALID:
            return noise * 3


def _sharpen(noise: Tensor, used: dict[Place, int], picks: np.ndarray, classes: int) -> Tensor:
    """Make the used rows, in turn, near one-hot (p ≥ .99) off the target, near one-hot on it, and spread out.

    The spread-out rows keep gradients away from zero.
    """
    height = 8.0 + max(classes, 2).bit_length()
    logits = noise.clone()
    for index, (place, target) in enumerate(used.items()):
        if index % 3 == 0:
            logits[place][(target + 1 + int(picks[index]) % max(classes - 1, 1)) % classes] = height
        elif index % 3 == 1:
            logits[place][target] = height
    return logits


def _enlarge(noise: Tensor, used: dict[Place, int]) -> Tensor:
    """Make the rows, in turn, spread over ±1e4, shifted far up, and shifted far down.

    At least one used row is spread out. In every second one of these, the target is the least likely class. In rows
    shifted to ±1e4, rounding may remove all differences. A loss in the thousands still tells right from wrong.
    """
    logits = noise * 3
    flat = logits.view(-1, logits.shape[-1]) if logits.numel() else logits
    flat[0::3] = (flat[0::3] * 2000).clamp(-10000, 10000)
    flat[1::3] += 10000
    flat[2::3] -= 10000
    kinds = torch.arange(len(flat)) % 3
    spread = [place for place in used if not kinds.view(logits.shape[:-1])[place]]
    if used and not spread:
        spread = list(used)[:1]
        logits[spread[0]] = (noise[spread[0]] * 6000).clamp(-10000, 10000)
    for place in spread[::2]:
        _swap(logits[place], used[place], int(logits[place].argmin()))
    return logits


def _keep_one_ordinary(logits: Tensor, used: dict[Place, int], noise: Tensor, silent: bool) -> None:
    """Keep the first used row away from ±1e4, with p_y neither 0 nor 1, for a score that is multiplied by p_y.

    A row whose p_y is 0 or 1 adds nothing to the loss. At ±1e4 in 16 bits, log p_y has such a large error that any
    other p_y may have any value. If ``silent``, p_y is 0 in all other used rows, so that their error cannot hide the
    first row.
    """
    for index, (place, target) in enumerate(used.items()):
        if index == 0:
            logits[place] = noise[place] * 3
            logits[place][target] = logits.shape[-1].bit_length()  # about the logarithm of the sum of all the others
        elif silent:
            logits[place] = (noise[place] * 6000).clamp(-10000, 10000)
            _swap(logits[place], target, int(logits[place].argmin()))


def _with_minus_inf(logits: Tensor, used: dict[Place, int], picks: np.ndarray) -> Tensor:
    """Set a third of the classes other than the target to −inf.

    In every second used row, from the first on, the target is far less likely than the other classes that are left. So
    the loss is far from ln V and from the loss of other labels.
    """
    gone = torch.from_numpy(picks.astype(np.int64) % 3 == 0).reshape(logits.shape)
    gone[..., 0] = False  # at least one class stays finite in rows that are not scored
    for place, target in used.items():
        gone[place][target] = False
    for place, target in list(used.items())[:1]:
        gone[place][(target + 1) % logits.shape[-1]] = False
    logits = _unsettle(logits, used).masked_fill(gone, -torch.inf)
    for place, target in list(used.items())[::2]:
        logits[place][target] -= _FAR
    return logits


def _unsettle(logits: Tensor, used: dict[Place, int], shared: bool = False) -> Tensor:
    """Make sure that the target is not the most likely class in the first used row.

    In a small case, every row might be certain of its target. A loss and a gradient near 0 prove little. If ``shared``,
    all rows of the batch are changed in the same way.
    """
    for place, target in list(used.items())[:1]:
        if int(logits[place].argmax()) == target:
            for row in range(len(logits)) if shared else place[:1]:
                _swap(logits[(row, *place[1:])], target, (target + 1) % logits.shape[-1])
    return logits


def _swap(row: Tensor, one: int, other: int) -> None:
    row[[one, other]] = row[[other, one]]
