"""Codebook delays: codebook k of every frame moves ``delays[k]`` frames later, so that one step predicts all codebooks.

Three codebooks a, b, c of four frames, delayed by 0, 1, 2, with ``B`` before and ``E`` after:

    a1 a2 a3 a4            a1 a2 a3 a4 E  E
    b1 b2 b3 b4     ->     B  b1 b2 b3 b4 E
    c1 c2 c3 c4            B  B  c1 c2 c3 c4
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

IGNORE = -100


class DelayError(ValueError):
    """Codes and delays do not fit together. The message gives the found and the expected values."""


def staircase(codebooks: int) -> tuple[int, ...]:
    """0, 1, …, K−1: MusicGen, Parler-TTS, Higgs-audio, MOSS-TTSD."""
    return tuple(range(codebooks))


def one_late(codebooks: int) -> tuple[int, ...]:
    """0, 1, 1, …: the semantic codebook first, all acoustic ones a frame later (Moshi)."""
    return tuple(min(book, 1) for book in range(codebooks))


def dia(codebooks: int) -> tuple[int, ...]:
    """0, 8, 9, …: Dia, whose last of nine codebooks has 15."""
    return tuple(7 + book if book else 0 for book in range(codebooks))


def undelayed(codebooks: int) -> tuple[int, ...]:
    """0, 0, …: no delay at all (CSM, Qwen3-TTS)."""
    return (0,) * codebooks


PATTERNS: dict[str, Callable[[int], tuple[int, ...]]] = {
    "staircase": staircase,
    "one_late": one_late,
    "dia": dia,
    "undelayed": undelayed,
}


def apply_delay(codes: Tensor, delays: Sequence[int], before: int, after: int) -> Tensor:
    """Move each codebook of ``codes`` [..., K, T] ``delays[k]`` frames later: [..., K, T + max(delays)].

    The free places hold ``before`` in front of a codebook and ``after`` behind it.

    Raises:
        DelayError: there is not one delay ≥ 0 for every codebook.
    """
    longest = _check(codes, delays)
    frames = codes.shape[-1]
    delayed = codes.new_full((*codes.shape[:-1], frames + longest), after)
    for book, delay in enumerate(delays):
        delayed[..., book, :delay] = before
        delayed[..., book, delay : delay + frames] = codes[..., book, :]
    return delayed


def undo_delay(delayed: Tensor, delays: Sequence[int]) -> Tensor:
    """Invert :func:`apply_delay`: [..., K, T + max(delays)] -> [..., K, T].

    Raises:
        DelayError: there is not one delay ≥ 0 for every codebook, or there are fewer frames than the longest delay.
    """
    longest = _check(delayed, delays)
    frames = delayed.shape[-1] - longest
    if frames < 0:
        raise DelayError(
            f"{delayed.shape[-1]} frames cannot be delayed by up to {longest}; expected at least {longest} frames"
        )
    books = [delayed[..., book, delay : delay + frames] for book, delay in enumerate(delays)]
    return torch.stack(books, dim=-2) if books else delayed[..., :frames]


def between(codes: Tensor, first: int, last: int) -> Tensor:
    """Add one frame of ``first`` in front of ``codes`` [..., K, T], and one of ``last`` behind: [..., K, T + 2]."""
    side = (*codes.shape[:-1], 1)
    return torch.cat([codes.new_full(side, first), codes, codes.new_full(side, last)], dim=-1)


# The labels of the same audio in the three ways in which Higgs-audio is trained. All are [..., K, T + 2 + max(delays)],
# like the model's inputs, and aligned with them: the loss must still shift them by one.


def input_frames(codes: Tensor, delays: Sequence[int], bos: int, eos: int) -> Tensor:
    """The model's inputs: BOS, the codes and EOS, delayed, with BOS before and EOS after."""
    return apply_delay(between(codes, bos, eos), delays, bos, eos)


def labels_boson(codes: Tensor, delays: Sequence[int], eos: int, ignore: int = IGNORE) -> Tensor:
    """All codes, and each codebook's own EOS once: K(T+1) targets (boson-ai/higgs-audio, higgs_audio_collator.py)."""
    return apply_delay(between(codes, ignore, eos), delays, ignore, ignore)


def labels_filled(codes: Tensor, delays: Sequence[int], bos: int, eos: int) -> Tensor:
    """The inputs themselves, so that the fill is trained too: K(T+1+max(delays)) targets, K(T+K) for a staircase."""
    return input_frames(codes, delays, bos, eos)


def labels_hf(codes: Tensor, delays: Sequence[int], ignore: int = IGNORE) -> Tensor:
    """Only the codes, never an EOS: K·T targets (transformers, processing_higgs_audio_v2.py).

    transformers ignores the ids BOS and EOS by value. No audio code has these ids, so it ignores the same places.
    """
    return apply_delay(between(codes, ignore, ignore), delays, ignore, ignore)


def targets_after_shift(labels: Tensor, ignore: int = IGNORE) -> int:
    """The number of ``labels`` [..., S] that are trained on after a loss has shifted them by one."""
    return int((labels[..., 1:] != ignore).sum())


def _check(codes: Tensor, delays: Sequence[int]) -> int:
    """Check that ``delays`` fit ``codes`` [..., K, T]. Return the longest."""
    if codes.dim() < 2:
        raise DelayError(f"codes have shape {list(codes.shape)}; expected [..., codebooks, frames]")
    if len(delays) != codes.shape[-2]:
        raise DelayError(f"{len(delays)} delays {list(delays)} for {codes.shape[-2]} codebooks; expected one for each")
    if any(delay < 0 for delay in delays):
        raise DelayError(f"delays are {list(delays)}; expected numbers of frames, 0 or more")
    return max(delays, default=0)
