"""Weights that make a loss telling: freshly initialised models give every token nearly the same score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SPREAD = 3.0
"""The standard deviation over the classes that logits are given, on average over the positions."""


class NotSharpened(Exception):
    """The logits could not be given a spread. The message says why."""


def widen(model: torch.nn.Module) -> None:
    """Scale every weight up to where a layer's output is about as large as its input.

    Initialisers have a standard deviation of 0.02 or so, which suits wide models: in a tiny one, attention would hardly
    move a hidden state, and no law could see what a token takes from the others. Larger and constant weights stay.
    """
    for parameter in model.parameters():
        if parameter.dim() >= 2 and parameter.is_floating_point():
            spread = parameter.std().item()
            wanted = parameter[0].numel() ** -0.5
            if 0 < spread < wanted:
                parameter.mul_(wanted / spread)


def sharpen(model: torch.nn.Module, logits: Callable[[], torch.Tensor]) -> None:
    """Scale the weight of the output layer until `logits()` [B, S, V] has the spread `SPREAD`, within a third.

    Where that weight is the input's embedding as well, or where the logits are capped, one step is not enough.

    Raises:
        NotSharpened: the logits are not finite, or their spread does not follow the weight.
    """
    for _ in range(8):
        now = logits().float()
        if not now.isfinite().all():
            raise NotSharpened("non-finite logits")
        spread = now.std(-1).mean().item()
        if abs(spread / SPREAD - 1) < 1 / 3:
            return
        if spread == 0:
            raise NotSharpened("its logits are the same for every class")
        head = _head(model, now.shape[-1])
        head.mul_(min(max(SPREAD / spread, 0.01), 100.0))
    raise NotSharpened(f"its logits keep a spread of {spread:.3g} over the classes, whatever its output layer")


def _head(model: torch.nn.Module, classes: int) -> torch.Tensor:
    """The weight that makes the logits: of the layer the model names, or else of its last with an output a class."""
    named: Any = getattr(model, "get_output_embeddings", lambda: None)()
    layers: list[Any] = [named] if hasattr(named, "weight") else list(model.modules())
    weights = [getattr(layer, "weight", None) for layer in layers]
    fitting = [weight for weight in weights if isinstance(weight, torch.Tensor) and weight.shape[:1] == (classes,)]
    if not fitting:
        raise NotSharpened(f"no layer has {classes} outputs")
    return fitting[-1]
