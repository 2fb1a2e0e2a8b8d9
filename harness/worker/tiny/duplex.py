"""A tiny model that listens while it speaks, such as Moshi, as a model of two streams side by side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .forward import parameters_of
from .streams import OfStreams

_SPOKEN, _HEARD = "moshi_audio_codes", "user_audio_codes"


class TinyDuplex(OfStreams):
    """A model of text, of the frames that it speaks, and of those that it hears. What it hears is always the same."""

    def __init__(self, inner: torch.nn.Module, documentation: str, accepts_loss_kwargs: bool) -> None:
        super().__init__(inner, documentation, accepts_loss_kwargs, "audio_vocab_size")

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        audio_input_ids: torch.Tensor | None = None,
        audio_labels: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
    ) -> Any:
        """Call the inner model. Return its loss and the logits of both streams, [B, S, V] and [B·S, K, V].

        Args:
            input_ids: [B, S] int64.
            labels: [B, S] int64, its `text_labels`.
            audio_input_ids: [B, K, S] int64, the frames that it spoke before each position.
            audio_labels: [B, K, S] int64.
            num_items_in_batch: as the inner model takes it.
        """
        rest: dict[str, Any] = {"use_cache": False}
        if num_items_in_batch is not None:
            rest["num_items_in_batch"] = num_items_in_batch
        heard = torch.arange(input_ids.shape[1], device=input_ids.device) % self.audio_vocab_size
        output = self.inner(
            input_ids=input_ids,
            text_labels=labels,
            audio_labels=audio_labels,
            return_dict=True,
            **{_SPOKEN: audio_input_ids, _HEARD: heard.expand(len(input_ids), self.codebooks, -1)},
            **rest,
        )
        return SimpleNamespace(loss=output.loss, logits=output.logits, audio_logits=output.audio_logits)

    def frames(self, rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(self.audio_vocab_size, (rows, self.codebooks, length), generator=generator)


def takes_duplex(model_class: type[torch.nn.Module]) -> bool:
    """Whether a model takes text, what it speaks and what it hears, with labels of the first two."""
    return {"input_ids", "text_labels", "audio_labels", _SPOKEN, _HEARD} <= parameters_of(model_class).keys()
