"""How a model's logits move with its parameters. The model's gradient is compared with that."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

STEPS = (1.0, -1.0, 0.5, -0.5)
"""The positions of the parameters along the direction, in units of the step length."""

_SEED = 11


def directions(parameters: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    """A direction of length 1, float32: half along the gradient, if there is one, and half random."""
    generator = torch.Generator().manual_seed(_SEED)
    drawn = [torch.randn(each.shape, generator=generator).to(each.device) for each in parameters]
    along = _unit([torch.zeros_like(each) if g is None else g for each, g in zip(drawn, gradients, strict=True)])
    return _unit([one + other for one, other in zip(_unit(drawn), along, strict=True)])


def slope(gradients: Sequence[torch.Tensor | None], direction: Sequence[torch.Tensor]) -> torch.Tensor:
    """The slope of the loss along the direction by the gradients, float64."""
    parts = [(g.double() * d.double()).sum() for g, d in zip(gradients, direction, strict=True) if g is not None]
    return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)


def nudged(
    parameters: Sequence[torch.Tensor],
    direction: Sequence[torch.Tensor],
    length: float,
    logits: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """The logits at each of STEPS · `length` along the direction, stacked. The parameters are restored afterwards."""
    kept = [each.detach().clone() for each in parameters]
    found = []
    try:
        for step in STEPS:
            with torch.no_grad():
                for parameter, before, along in zip(parameters, kept, direction, strict=True):
                    parameter.copy_(before + step * length * along)
            found.append(logits().detach().to("cpu", copy=True))
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)
    return torch.stack(found)


def _unit(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    length = torch.stack([each.double().square().sum() for each in tensors]).sum().sqrt()
    return [each / float(length) if length else each for each in (each.float() for each in tensors)]
