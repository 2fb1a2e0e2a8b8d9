"""Scale weights so that a loss shows bugs: freshly initialised models give every token nearly the same score."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

SPREAD = 3.0
"""The standard deviation of logits over the classes that `sharpen` aims at, averaged over the positions."""


class NotSharpened(Exception):
    """The logits could not be brought to the spread. The message says why."""


def widen(model: torch.nn.Module) -> None:
    """Scale every weight up until a layer's output is about as large as its input.

    Initialisers have a standard deviation of about 0.02, which suits wide models. In a tiny model, attention would
    hardly move a hidden state, and no law could see the influence of other tokens. Larger and constant weights stay.
    """
    for parameter in model.parameters():
        if parameter.dim() >= 2 and parameter.numel() > 1 and parameter.is_floating_point():
            spread = parameter.std().item()
            wanted = parameter[0].numel() ** -0.5
            if 0 < spread < wanted:
                parameter.mul_(wanted / spread)


def sharpen(model: torch.nn.Module, logits: Callable[[], torch.Tensor]) -> None:
    """Scale the weight of the output layer until `logits()` [B, S, V] has the spread `SPREAD`, within a third.

    If that weight is also the input's embedding, or if the logits are capped, one step is not enough.

    Raises:
        NotSharpened: the logits are not finite, or their spread does not follow the weight.
    """
    spread = _spread(logits())
    for heads in _heads(model, logits().shape[-1]):
        for _ in range(8):
            if abs(spread / SPREAD - 1) < 1 / 3:
                return
            factor = min(max(SPREAD / spread, 0.01), 100.0)
            for head in heads:
                head.mul_(factor)
            before, spread = spread, _spread(logits())
            if abs(spread / before - 1) < 0.01:  # another layer makes the logits
                for head in heads:
                    head.div_(factor)
                break
    raise NotSharpened(f"its logits keep a spread of {spread:.3g} over the classes, whatever its output layer")


def _spread(logits: torch.Tensor) -> float:
    if not logits.isfinite().all():
        raise NotSharpened("non-finite logits")
    spread = logits.float().std(-1).mean().item()
    if spread == 0:
        raise NotSharpened("its logits are the same for every class")
    return spread


def _heads(model: torch.nn.Module, classes: int) -> list[list[torch.Tensor]]:
    """The weights that may make the logits: of the layer that the model names, then of others with V outputs.

    The layers of a list make logits together. Last come layers that make those of several codebooks.
    """
    named: Any = None
    with contextlib.suppress(AttributeError):  # some classes inherit it, and call their head otherwise
        named = model.get_output_embeddings()  # type: ignore[operator]
    layers = [named, *reversed(list(model.modules()))]
    groups = [list(each) for each in layers if isinstance(each, torch.nn.ModuleList)] + [[each] for each in layers]
    exact, wide = [], []
    for group in groups:
        weights = [each.weight for each in group if isinstance(getattr(each, "weight", None), torch.Tensor)]
        if not weights or len(weights) < len(group):
            continue
        if all(weight.shape[:1] == (classes,) for weight in weights):
            exact.append(weights)
        elif len(weights) == 1 and _makes_several(weights[0], classes):
            wide.append(weights)
    return exact + wide


def _makes_several(weight: torch.Tensor, classes: int) -> bool:
    """Whether a weight is [K·V, H], [K, H, V] or [K, V, H]."""
    return not len(weight) % classes if weight.dim() == 2 else weight.dim() == 3 and classes in weight.shape[1:]
