"""The audio labels of transformers' HiggsAudioV2 processor, right, and wrong in the two ways of labels.

    shiftproof check examples/higgs_audio/hf_labels.py:build_labels --spec delay.labels.hf

Codebook k stands k frames later than codebook 0. Labels stand where their inputs stand, since the model shifts them.
Only the codes are trained: the begin, the end and the fill of the delay are ignored.
"""

import torch
from torch import Tensor


def build_labels(audio_codes: Tensor, delays: tuple[int, ...], ignore_index: int = -100) -> Tensor:
    """[B, K, T] codes -> [B, K, T + 2 + longest delay] labels: begin, codes, end, delayed."""
    rows, books, frames = audio_codes.shape
    labels = audio_codes.new_full((rows, books, frames + 2 + max(delays)), ignore_index)
    for book, delay in enumerate(delays):
        labels[:, book, delay + 1 : delay + 1 + frames] = audio_codes[:, book]
    return labels


def shifted(audio_codes: Tensor, delays: tuple[int, ...], ignore_index: int = -100) -> Tensor:
    """Shifted already, though the model shifts them too."""
    labels = build_labels(audio_codes, delays, ignore_index)
    return torch.cat([labels[..., 1:], torch.full_like(labels[..., :1], ignore_index)], dim=-1)


def cut(audio_codes: Tensor, delays: tuple[int, ...], ignore_index: int = -100) -> Tensor:
    """Without their first frame, so one frame fewer than the inputs: 167 against 166."""
    return build_labels(audio_codes, delays, ignore_index)[..., 1:]
