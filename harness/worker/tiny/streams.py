"""A tiny model of text and frames of codebooks, such as Higgs audio's, as a model with two streams side by side."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .config import VOCABULARY
from .forward import parameters_of
from .weights import sharpen

_BATCH, _LENGTH = 2, 12
_SEED = 5
_SPECIAL = ("audio_token_id", "audio_delay_token_id")  # where input_ids hold one of these, a frame stands


class OfStreams(torch.nn.Module):
    """A model of text and frames side by side.

    Attributes:
        inner: the model itself.
        codebooks: K.
        vocab_size, audio_vocab_size: V of the text and of a codebook.
        documentation, accepts_loss_kwargs: as of a model without frames.
    """

    def __init__(
        self, inner: torch.nn.Module, documentation: str, accepts_loss_kwargs: bool, codebook_size: str
    ) -> None:
        super().__init__()
        self.inner = inner
        config: Any = inner.config
        self.codebooks = int(config.num_codebooks)
        self.vocab_size, self.audio_vocab_size = VOCABULARY, int(getattr(config, codebook_size))
        self.documentation, self.accepts_loss_kwargs = documentation, accepts_loss_kwargs

    def frames(self, rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
        """Draw frames as `forward` takes them."""
        raise NotImplementedError


class TinyStreams(OfStreams):
    """A model whose frames are aligned with its text. The inner model takes frames alone, packed to the left."""

    def __init__(self, inner: torch.nn.Module, documentation: str, accepts_loss_kwargs: bool) -> None:
        super().__init__(inner, documentation, accepts_loss_kwargs, "codebook_size")
        config: Any = inner.config
        self._special = [int(getattr(config, name)) for name in _SPECIAL if hasattr(config, name)]
        self._takes = parameters_of(type(inner))
        layers = (each for each in inner.modules() if isinstance(each, torch.nn.Linear))
        heads = [each for each in layers if each.out_features == self.vocab_size]
        if len(heads) != 1:
            raise ValueError(f"{len(heads)} of its layers have the {self.vocab_size} outputs of a text head, not one")
        (self._text_head,) = heads

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        audio_input_ids: torch.Tensor | None = None,
        audio_labels: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
    ) -> Any:
        """Call the inner model. Return its loss and the logits of both streams, [B, S, V] and [B, S, K·V].

        Args:
            input_ids: [B, S] int64.
            labels: [B, S] int64. −100 is ignored.
            audio_input_ids: [B, S, K] int64, −1 where a position holds no frame.
            audio_labels: [B, S, K] int64. −100 is ignored.
            num_items_in_batch: as the inner model takes it.
        """
        rest: dict[str, Any] = {"use_cache": False} if "use_cache" in self._takes else {}
        if num_items_in_batch is not None:
            rest["num_items_in_batch"] = num_items_in_batch
        text = input_ids
        for special in self._special:
            text = text.masked_fill(text == special, 0)
        if audio_input_ids is not None:
            here = (audio_input_ids >= 0).all(-1)
            text = text.masked_fill(here, self._special[0])
            frames, mask = _packed(audio_input_ids.clamp(min=0), here)
            rest |= {"audio_input_ids": frames, "audio_input_ids_mask": mask}
            if audio_labels is not None:
                rest["audio_labels"] = _packed(audio_labels, here)[0]
        seen: list[torch.Tensor] = []
        listening = self._text_head.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            output = self.inner(input_ids=text, labels=labels, return_dict=True, **rest)
        finally:
            listening.remove()
        return SimpleNamespace(loss=output.loss, logits=seen[-1] if seen else None, audio_logits=output.logits)

    def frames(self, rows: int, length: int, generator: torch.Generator) -> torch.Tensor:
        """Draw frames as `forward` takes them. The first row begins without any."""
        frames = torch.randint(self.audio_vocab_size, (rows, length, self.codebooks), generator=generator)
        frames[0, : length // 2] = -1
        return frames


def _packed(arrays: torch.Tensor, here: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Move the frames of each sequence to the left. Return them [B, T, K], and which are real [B, T]."""
    order = torch.argsort((~here).long(), dim=1, stable=True)
    most = max(int(here.sum(1).max()), 1)
    moved = arrays.gather(1, order[..., None].expand_as(arrays))
    return moved[:, :most], here.gather(1, order)[:, :most]


def takes_streams(model_class: type[torch.nn.Module]) -> bool:
    """Whether a model takes text and frames of codebooks, each with labels."""
    return {"input_ids", "labels", "audio_input_ids", "audio_labels"} <= parameters_of(model_class).keys()


def sharpened(model: OfStreams) -> OfStreams:
    """Sharpen the logits of both streams. Return the model.

    Raises:
        NotSharpened: the logits of a stream cannot be brought to their spread.
        Exception: the model cannot be called.
    """
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(model.vocab_size, (_BATCH, _LENGTH), generator=generator)
    frames = model.frames(_BATCH, _LENGTH, generator)
    with torch.no_grad():
        sharpen(model.inner, lambda: model(ids, ids, frames, frames).logits)
        sharpen(model.inner, lambda: model(ids, ids, frames, frames).audio_logits.reshape(-1, model.audio_vocab_size))
    return model
