"""Codebook delays, worked by hand on three codebooks of four frames, and their inverse on drawn ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shiftproof.reference.delay import (
    PATTERNS,
    DelayError,
    apply_delay,
    input_frames,
    labels_boson,
    labels_filled,
    labels_hf,
    targets_after_shift,
    undo_delay,
)

B, E, I = 91, 92, -100  # noqa: E741
CODES = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [10, 11, 12, 13]])
QUICK = settings(deadline=None, max_examples=100, derandomize=True)


def drawn(codebooks: int, frames: int) -> Tensor:
    return torch.arange(2 * codebooks * frames).reshape(2, codebooks, frames)


@pytest.mark.parametrize(
    ("name", "codebooks", "delays"),
    [
        ("staircase", 4, (0, 1, 2, 3)),
        ("one_late", 4, (0, 1, 1, 1)),
        ("dia", 9, (0, 8, 9, 10, 11, 12, 13, 14, 15)),
        ("undelayed", 4, (0, 0, 0, 0)),
        *((name, 1, (0,)) for name in PATTERNS),
    ],
)
def test_patterns(name: str, codebooks: int, delays: tuple[int, ...]) -> None:
    assert PATTERNS[name](codebooks) == delays


@pytest.mark.parametrize(
    ("delays", "expected"),
    [
        ((0, 1, 2), [[1, 2, 3, 4, E, E], [B, 5, 6, 7, 8, E], [B, B, 10, 11, 12, 13]]),
        ((0, 1, 1), [[1, 2, 3, 4, E], [B, 5, 6, 7, 8], [B, 10, 11, 12, 13]]),
        ((2, 0, 1), [[B, B, 1, 2, 3, 4], [5, 6, 7, 8, E, E], [B, 10, 11, 12, 13, E]]),
        ((1, 1, 1), [[B, 1, 2, 3, 4], [B, 5, 6, 7, 8], [B, 10, 11, 12, 13]]),
        ((0, 0, 0), CODES.tolist()),
    ],
)
def test_apply_by_hand(delays: tuple[int, ...], expected: list[list[int]]) -> None:
    assert apply_delay(CODES, delays, B, E).tolist() == expected
    assert undo_delay(torch.tensor(expected), delays).tolist() == CODES.tolist()


def test_inputs_and_labels_by_hand() -> None:
    delays = (0, 1, 2)
    assert input_frames(CODES, delays, B, E).tolist() == [
        [B, 1, 2, 3, 4, E, E, E],
        [B, B, 5, 6, 7, 8, E, E],
        [B, B, B, 10, 11, 12, 13, E],
    ]
    assert labels_boson(CODES, delays, E).tolist() == [
        [I, 1, 2, 3, 4, E, I, I],
        [I, I, 5, 6, 7, 8, E, I],
        [I, I, I, 10, 11, 12, 13, E],
    ]
    assert labels_hf(CODES, delays).tolist() == [
        [I, 1, 2, 3, 4, I, I, I],
        [I, I, 5, 6, 7, 8, I, I],
        [I, I, I, 10, 11, 12, 13, I],
    ]
    assert labels_filled(CODES, delays, B, E).equal(input_frames(CODES, delays, B, E))
    # K(T+1), K(T+K) and K·T.
    assert targets_after_shift(labels_boson(CODES, delays, E)) == 15
    assert targets_after_shift(labels_filled(CODES, delays, B, E)) == 21
    assert targets_after_shift(labels_hf(CODES, delays)) == 12


@pytest.mark.parametrize("codebooks", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("frames", [0, 1, 2, 5, 8, 20])
def test_counts_of_the_three_conventions(codebooks: int, frames: int) -> None:
    codes = torch.arange(codebooks * frames).reshape(codebooks, frames)
    delays = PATTERNS["staircase"](codebooks)
    bos, eos = codes.numel(), codes.numel() + 1
    assert targets_after_shift(labels_boson(codes, delays, eos)) == codebooks * (frames + 1)
    assert targets_after_shift(labels_filled(codes, delays, bos, eos)) == codebooks * (frames + codebooks)
    assert targets_after_shift(labels_hf(codes, delays)) == codebooks * frames


@pytest.mark.parametrize("name", PATTERNS)
def test_counts_under_other_patterns(name: str) -> None:
    codes, delays = torch.arange(20).reshape(4, 5), PATTERNS[name](4)
    assert targets_after_shift(labels_boson(codes, delays, 99)) == 4 * 6
    assert targets_after_shift(labels_filled(codes, delays, 98, 99)) == 4 * (6 + max(delays))
    assert targets_after_shift(labels_hf(codes, delays)) == 4 * 5


@given(st.lists(st.integers(0, 6), max_size=5), st.integers(0, 6))
@QUICK
def test_undo_is_the_inverse(delays: list[int], frames: int) -> None:
    codes = drawn(len(delays), frames)
    delayed = apply_delay(codes, delays, -1, -2)
    assert delayed.shape == (2, len(delays), frames + max(delays, default=0))
    assert undo_delay(delayed, delays).equal(codes)
    for book, delay in enumerate(delays):
        line = delayed[:, book]
        assert bool((line[:, :delay] == -1).all())
        assert bool((line[:, delay + frames :] == -2).all())


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 6))
@QUICK
def test_apply_is_the_inverse_where_the_fill_is_right(delays: list[int], frames: int) -> None:
    delayed = apply_delay(drawn(len(delays), frames), delays, -1, -2)
    assert apply_delay(undo_delay(delayed, delays), delays, -1, -2).equal(delayed)


def test_dtype_leading_axes_and_inputs_are_kept() -> None:
    codes = torch.arange(24, dtype=torch.int16).reshape(2, 1, 3, 4)
    before = codes.clone()
    delayed = apply_delay(codes.transpose(0, 1), (0, 1, 2), -1, -2)
    assert delayed.dtype == torch.int16
    assert delayed.shape == (1, 2, 3, 6)
    undo_delay(delayed, (0, 1, 2)).zero_()
    apply_delay(codes, (0, 0, 0), -1, -2).zero_()
    assert codes.equal(before)


@pytest.mark.parametrize("function", [lambda codes, delays: apply_delay(codes, delays, B, E), undo_delay])
@pytest.mark.parametrize(
    ("shape", "delays", "message"),
    [
        ((3, 4), (0, 1), r"2 delays \[0, 1\] for 3 codebooks; expected one for each"),
        ((3, 4), (0, 1, 2, 3), "4 delays .* for 3 codebooks"),
        ((3, 4), (0, -1, 2), r"delays are \[0, -1, 2\]; expected numbers of frames, 0 or more"),
        ((4,), (0,), r"shape \[4\]; expected \[..., codebooks, frames\]"),
    ],
)
def test_what_does_not_fit(function: object, shape: tuple[int, ...], delays: tuple[int, ...], message: str) -> None:
    assert callable(function)
    with pytest.raises(DelayError, match=message):
        function(torch.zeros(shape, dtype=torch.long), delays)


def test_too_short_to_undo() -> None:
    with pytest.raises(DelayError, match="2 frames cannot be delayed by up to 3; expected at least 3 frames"):
        undo_delay(torch.zeros(2, 2, dtype=torch.long), (0, 3))
    assert undo_delay(torch.zeros(2, 3, dtype=torch.long), (0, 3)).shape == (2, 0)
