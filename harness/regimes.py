"""How the numbers of a case are chosen: integers from a counter-based generator, then exact arithmetic.

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
    """``size`` integers in [0, 2¹⁶). Philox's raw output is fixed by its documentation, unlike its distributions."""
    words = np.random.Philox(key=[seed, stream]).random_raw((size + 3) // 4)
    return np.asarray(words, dtype="<u8").view("<u2")[:size].astype(np.uint16)


def bell(seed: int, stream: int, shape: tuple[int, ...]) -> Tensor:
    """Roughly standard normal float64 numbers, multiples of 2⁻¹³: the centred sum of three 16-bit uniforms."""
    size = int(np.prod(shape, dtype=np.int64))
    parts = uniform_ints(seed, stream, 3 * size).reshape(3, size).astype(np.int64)
    return (torch.from_numpy(parts.sum(0) - 98304).double() / 2**15).reshape(shape)


def draw_logits(recipe: Recipe, pairing: Pairing) -> dict[str, Tensor]:
    """The logits of a recipe, by argument, float64 and not yet rounded to its dtype."""
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
        # One row of one array: were there one in each, a stream that hides its own would go unseen.
        places = [(name, place) for name, of_name in used.items() for place in of_name]
        if places:
            name, place = places[recipe.seed % len(places)]
            drawn[name][place] = torch.nan
    return drawn


def _draw(recipe: Recipe, shape: tuple[int, ...], used: dict[Place, int], stream: int) -> Tensor:
    """Logits of ``shape`` whose rows ``used`` are scored on a target; ``stream`` tells apart several of one recipe."""
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
    """Rows near one-hot (p ≥ .99): on the target, off it, and one spread out, in turn, so that gradients stay alive."""
    height = 8.0 + max(classes, 2).bit_length()
    logits = noise.clone()
    for index, (place, target) in enumerate(used.items()):
        if index % 3 == 0:
            logits[place][(target + 1 + int(picks[index]) % max(classes - 1, 1)) % classes] = height
        elif index % 3 == 1:
            logits[place][target] = height
    return logits


def _enlarge(noise: Tensor, used: dict[Place, int]) -> Tensor:
    """Rows spread over ±1e4, rows far up and rows far down, in turn.

    At least one row that is used is spread out, and in every second one of those the target is the least likely class:
    where rounding takes all the differences of rows at ±1e4, a loss in the thousands still tells right from wrong.
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
    """For a score that is multiplied by p_y: the first row that is used is not at ±1e4, and its p_y neither 0 nor 1.

    Where p_y is one of those, a row adds nothing to the loss. In 16 bits, log p_y is off by so much at ±1e4 that any
    other p_y might be any; so that such rows do not drown the ordinary one, they are ``silent``: p_y is 0 in all.
    """
    for index, (place, target) in enumerate(used.items()):
        if index == 0:
            logits[place] = noise[place] * 3
            logits[place][target] = logits.shape[-1].bit_length()  # about the logarithm of what all the others sum to
        elif silent:
            logits[place] = (noise[place] * 6000).clamp(-10000, 10000)
            _swap(logits[place], target, int(logits[place].argmin()))


def _with_minus_inf(logits: Tensor, used: dict[Place, int], picks: np.ndarray) -> Tensor:
    """A third of the classes off the target −inf. In every second row that is used, from the first on, the target is
    far less likely than what is left, so that the loss is far from ln V and from that of other labels."""
    gone = torch.from_numpy(picks.astype(np.int64) % 3 == 0).reshape(logits.shape)
    gone[..., 0] = False  # one class at least stays finite in rows that nobody is scored on
    for place, target in used.items():
        gone[place][target] = False
    for place, target in list(used.items())[:1]:
        gone[place][(target + 1) % logits.shape[-1]] = False
    logits = _unsettle(logits, used).masked_fill(gone, -torch.inf)
    for place, target in list(used.items())[::2]:
        logits[place][target] -= _FAR
    return logits


def _unsettle(logits: Tensor, used: dict[Place, int], shared: bool = False) -> Tensor:
    """In the first row that is used the target is not the likeliest class: in a small case every row might be certain
    of its own, and a loss and gradient near 0 tell little. ``shared`` rows of the batch are all changed alike."""
    for place, target in list(used.items())[:1]:
        if int(logits[place].argmax()) == target:
            for row in range(len(logits)) if shared else place[:1]:
                _swap(logits[(row, *place[1:])], target, (target + 1) % logits.shape[-1])
    return logits


def _swap(row: Tensor, one: int, other: int) -> None:
    row[[one, other]] = row[[other, one]]
