"""How the numbers of a case are chosen: integers from a counter-based generator, then exact arithmetic.

No floating-point generator is used, so that the same recipe gives the same bytes on every device and version.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shiftproof.reference.pairing import Pairing

from .recipe import Recipe, Regime, Stride


def uniform_ints(seed: int, stream: int, size: int) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    """``size`` integers in [0, 2¹⁶). Philox's raw output is fixed by its documentation, unlike its distributions."""
    words = np.random.Philox(key=[seed, stream]).random_raw((size + 3) // 4)
    return np.asarray(words, dtype="<u8").view("<u2")[:size].astype(np.uint16)


def bell(seed: int, stream: int, shape: tuple[int, ...]) -> Tensor:
    """Roughly standard normal float64 numbers, multiples of 2⁻¹³: the centred sum of three 16-bit uniforms."""
    size = int(np.prod(shape, dtype=np.int64))
    parts = uniform_ints(seed, stream, 3 * size).reshape(3, size).astype(np.int64)
    return (torch.from_numpy(parts.sum(0) - 98304).double() / 2**15).reshape(shape)


def draw_logits(recipe: Recipe, pairing: Pairing) -> Tensor:
    """The logits [B, L, V] of a recipe, float64 and not yet rounded to its dtype."""
    shape = pairing.logits_shape
    noise = bell(recipe.seed, 1, shape)
    if recipe.stride is Stride.EXPANDED and shape[0]:
        noise = noise[:1].expand(shape).clone()
    used = {pair.logit: pair.target for pair in pairing.pairs}
    classes = shape[2]
    match recipe.regime:
        case Regime.CALM:
            return noise
        case Regime.NORMAL:
            return noise * 3
        case Regime.SHARP:
            return _sharpen(noise, used, uniform_ints(recipe.seed, 2, max(len(used), 1)), classes)
        case Regime.TIES:
            return (noise * 1.5).round()
        case Regime.HUGE:
            return _enlarge(noise)
        case Regime.MINUS_INF:
            return _with_minus_inf(noise * 3, used, uniform_ints(recipe.seed, 2, noise.numel()))
        case Regime.NAN_IGNORED:
            logits = noise * 3
            idle = torch.ones(shape[:2], dtype=torch.bool)
            for place in used:
                idle[place] = False
            logits[idle] = torch.nan
            return logits
        case Regime.NAN_VALID:
            logits = noise * 3
            if used:
                logits[list(used)[recipe.seed % len(used)]] = torch.nan
            return logits


def _sharpen(noise: Tensor, used: dict[tuple[int, int], int], picks: np.ndarray, classes: int) -> Tensor:
    """Rows near one-hot (p ≥ .99): on the target, off it, and one spread out, in turn, so that gradients stay alive."""
    height = 8.0 + max(classes, 2).bit_length()
    logits = noise.clone()
    for index, (place, target) in enumerate(used.items()):
        if index % 3 == 0:
            logits[place][(target + 1 + int(picks[index]) % max(classes - 1, 1)) % classes] = height
        elif index % 3 == 1:
            logits[place][target] = height
    return logits


def _enlarge(noise: Tensor) -> Tensor:
    """Rows spread over ±1e4, rows far up and rows far down, in turn."""
    logits = noise * 3
    flat = logits.view(-1, logits.shape[-1]) if logits.numel() else logits
    flat[0::3] = (flat[0::3] * 2000).clamp(-10000, 10000)
    flat[1::3] += 10000
    flat[2::3] -= 10000
    return logits


def _with_minus_inf(logits: Tensor, used: dict[tuple[int, int], int], picks: np.ndarray) -> Tensor:
    gone = torch.from_numpy(picks.astype(np.int64) % 3 == 0).reshape(logits.shape)
    gone[..., 0] = False  # one class at least stays finite in rows that nobody is scored on
    for place, target in used.items():
        gone[place][target] = False
    return logits.masked_fill(gone, -torch.inf)
