"""A tiny model whose configuration says which codebooks weigh how much, and which ids end and begin a text."""

from __future__ import annotations

from typing import Any

import torch

from .model import TinyModel

_FIELDS = ("codebook_weights", "bos_token_id", "eos_token_id")


class Configured(TinyModel):
    """A model of codebooks such as Parler's. Each call says what its configuration says otherwise."""

    @classmethod
    def of(cls, model: TinyModel) -> Configured:
        """Make it of a model that has its weights."""
        made = cls(model.inner, model.side, model.codebooks, model.tokens)
        made.vocab_size = model.vocab_size
        return made

    def forward(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        codebook_weights: torch.Tensor,
        bos_token_id: int,
        eos_token_id: int,
    ) -> Any:
        """Call the inner model. Return its output.

        Args:
            input_ids, labels: of K codebooks as the inner model takes them, int64. −100 is ignored.
            codebook_weights: [K] float32.
            bos_token_id: the label that never counts.
            eos_token_id: the input after which nothing counts.
        """
        config = _config_of(self.inner)
        before = {name: getattr(config, name) for name in _FIELDS}
        config.codebook_weights, config.bos_token_id = codebook_weights.tolist(), bos_token_id
        config.eos_token_id = eos_token_id
        try:
            return super().forward(input_ids, labels)
        finally:
            for name, value in before.items():
                setattr(config, name, value)


def is_configured(inner: torch.nn.Module) -> bool:
    """Whether a model, or its decoder, has weights of codebooks in its configuration."""
    return hasattr(_config_of(inner), _FIELDS[0])


def _config_of(inner: torch.nn.Module) -> Any:
    """The configuration of a model's decoder, or of the model if it is one."""
    return getattr(getattr(inner, "decoder", inner), "config", None)
