"""A tiny model of a library's class, which needs only token ids and labels."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch

from .config import VOCABULARY
from .forward import parameters_of
from .inputs import Side


class TinyModel(torch.nn.Module):
    """A model that needs only token ids and labels.

    Attributes:
        inner: the model itself.
        vocab_size: V, the number of classes of its logits. Token ids and labels may be any of 0 … V−1.
        side: the arguments that are added to every call.
        side_inputs: the names of the arguments that are added to every call.
        reads_input_ids: whether the model takes the token ids. A model of speech or images with a decoder has no
            parameter for them, and a model of another's hidden states gets those in their place. With labels, it makes
            its decoder's inputs from the labels. Without labels, the token ids are its decoder's inputs.
        is_encoder_decoder: as in the configuration.
        accepts_loss_kwargs: whether `transformers.Trainer` passes `num_items_in_batch` to this model.
        gives_logits: whether the output has `.logits` when labels are given. With a fused loss it does not.
        documentation: the forward's documentation of `labels`, and the sentences on shifts in the class's docstring.
        codebooks: K, for a model of codebooks. Else 0.
        tokens: the name of the argument that the token ids are: `input_ids`, or that of a decoder which does not make
            its inputs from the labels.
    """

    def __init__(
        self, inner: torch.nn.Module, side: Mapping[str, Side], codebooks: int = 0, tokens: str = "input_ids"
    ) -> None:
        super().__init__()
        self.inner = inner
        self.codebooks = codebooks
        self.tokens = tokens
        self.side = dict(side)
        self._parameters_of_forward = parameters_of(type(inner))
        self.side_inputs = tuple(side)
        self.reads_input_ids = "input_ids" in self._parameters_of_forward and "inputs_embeds" not in side
        config: Any = inner.config
        self.is_encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
        self.accepts_loss_kwargs = accepts_loss_kwargs(inner)
        self.documentation = documentation(type(inner))
        self.vocab_size = VOCABULARY
        self.gives_logits = True
        self._head: list[torch.nn.Module] = []  # in a list, so that it is no second module of this one

    def given(self, input_ids: torch.Tensor) -> dict[str, Any]:
        """The arguments by which the inner model gets its tokens."""
        return {self.tokens: input_ids}

    def read_at(self, head: torch.nn.Module) -> None:
        """Take the output of this layer for logits, since the inner model returns none."""
        self._head = [head]

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **rest: Any) -> Any:
        """Call the inner model. Return its output.

        Args:
            input_ids: [B, S] int64, or of K codebooks as the inner model takes them.
            labels: [B, S] int64, or of K codebooks as the inner model takes them. −100 is ignored.
            **rest: further arguments of the inner model. They replace arguments that would be added.
        """
        floats = next(self.inner.parameters())
        per_row = self.codebooks if self.codebooks and input_ids.dim() == 2 else 1
        arguments: dict[str, Any] = {
            name: side.rows(input_ids[::per_row], floats.dtype) for name, side in self.side.items()
        }
        accepted = self._parameters_of_forward
        if self.reads_input_ids and self.tokens not in arguments:
            arguments.update(self.given(input_ids))
        if labels is not None:
            arguments["labels"] = labels
        elif "decoder_input_ids" in accepted and not self.codebooks:
            arguments["decoder_input_ids"] = input_ids
        if "use_cache" in accepted:
            arguments["use_cache"] = bool(getattr(self.inner.config, "use_cache", False))
        if "return_dict" in accepted:
            arguments["return_dict"] = True
        seen: list[torch.Tensor] = []
        listening = [head.register_forward_hook(lambda *of: seen.append(of[-1])) for head in self._head]
        try:
            output = self.inner(**{**arguments, **rest})
        finally:
            for each in listening:
                each.remove()
        if seen:
            return SimpleNamespace(loss=output.loss, logits=seen[-1])
        if (depth := getattr(output, "depth_decoder_logits", None)) is not None:
            output["depth_logits"] = depth
        return output


def accepts_loss_kwargs(model: torch.nn.Module) -> bool:
    """Whether `transformers.Trainer` passes `num_items_in_batch` to this model (`Trainer.__init__`, 4.46 and later)."""
    declared = getattr(model, "accepts_loss_kwargs", None)
    if declared is not None:
        return bool(declared)
    return any(each.kind is each.VAR_KEYWORD for each in parameters_of(type(model)).values())


def documentation(model_class: type[torch.nn.Module]) -> str:
    """The entry for `labels` in forward's docstring, and the sentences on shifting in the class's docstring."""
    text = inspect.cleandoc(model_class.forward.__doc__ or "")
    entry = re.search(r"^( *)labels\b.*(\n(?:\1 +.*)?$)*", text, re.MULTILINE)
    sentences = re.split(r"(?<=[.!?])\s+", inspect.cleandoc(model_class.__doc__ or ""))
    shifting = [" ".join(each.split()) for each in sentences if re.search(r"\bshift", each, re.IGNORECASE)]
    return "\n".join([*([inspect.cleandoc(entry.group())] if entry else []), *shifting])
