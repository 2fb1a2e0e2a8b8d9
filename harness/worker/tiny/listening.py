"""A tiny model that hears: beside each token of its input stands a frame of audio."""

from __future__ import annotations

from typing import Any

import torch

from .model import TinyModel

_CODES = 7  # that are heard


class Listening(TinyModel):
    """A model of tokens [B, S, 1 + K], such as Kyutai's speech-to-text. What it hears is always the same."""

    def __init__(self, inner: torch.nn.Module, codebooks: int) -> None:
        super().__init__(inner, {})
        self._heard = codebooks

    def given(self, input_ids: torch.Tensor) -> dict[str, Any]:
        codes = torch.arange(input_ids.shape[1], device=input_ids.device) % _CODES
        audio = codes[:, None].expand(*input_ids.shape, self._heard)
        return {self.tokens: torch.cat((input_ids[..., None], audio), -1)}
