"""A tiny model that listens while it speaks, such as Moshi, as a model of two streams side by side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .config import VOCABULARY
from .forward import parameters_of
from .weights import sharpen

_BATCH, _LENGTH = 2, 12
_SEED = 5
_SPOKEN, _HEARD = "moshi_audio_codes", "user_audio_codes"


class TinyDuplex(torch.nn.Module):
    """A model of text, of the frames that it speaks, and of those that it hears. What it hears is always the same.

    Attributes:
        inner: the model itself.
        codebooks: K.
        vocab_size, audio_vocab_size: V of the text and of a codebook.
        documentation, accepts_loss_kwargs: as of a model of text alone.
    """

    def __init__(self, inner: torch.nn.Module, documentation: str, accepts_loss_kwargs: bool) -> None:
        super().__init__()
        self.inner = inner
        config: Any = inner.config
        self.codebooks = int(config.num_codebooks)
        self.vocab_size, self.audio_vocab_size = VOCABULARY, int(config.audio_vocab_size)
        self.documentation, self.accepts_loss_kwargs = documentation, accepts_loss_kwargs

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


def takes_duplex(model_class: type[torch.nn.Module]) -> bool:
    """Whether a model takes text, what it speaks and what it hears, with labels of the first two."""
    return {"input_ids", "text_labels", "audio_labels", _SPOKEN, _HEARD} <= parameters_of(model_class).keys()


def sharpened(model: TinyDuplex) -> TinyDuplex:
    """Sharpen the logits of both streams. Return the model.

    Raises:
        NotSharpened: the logits of a stream cannot be brought to their spread.
        Exception: the model cannot be called.
    """
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(model.vocab_size, (_BATCH, _LENGTH), generator=generator)
    frames = torch.randint(model.audio_vocab_size, (_BATCH, model.codebooks, _LENGTH), generator=generator)
    with torch.no_grad():
        sharpen(model.inner, lambda: model(ids, ids, frames, frames).logits)
        sharpen(model.inner, lambda: model(ids, ids, frames, frames).audio_logits)
    return model
