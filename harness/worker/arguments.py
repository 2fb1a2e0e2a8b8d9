"""From the tensors of a call to the arguments of a function: device, leaf, memory layout, and binding by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .target import Parameter
from .tensors import same_bits


@dataclass(frozen=True, slots=True, eq=False)
class Arguments:
    """The tensors of one call on their device, twice: as they were, and as they are handed over."""

    originals: dict[str, torch.Tensor]
    """Argument name -> contiguous tensor; those whose gradient is wanted are leaves, and collect it in `.grad`."""

    handed: dict[str, torch.Tensor]
    """Argument name -> what the candidate gets."""

    @property
    def nbytes(self) -> int:
        """Bytes of storage behind both."""
        tensors = (*self.originals.values(), *self.handed.values())
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def mutated(self) -> tuple[str, ...]:
        """The names of the arguments that no longer hold what was handed over."""
        return tuple(name for name in self.handed if not same_bits(self.handed[name], self.originals[name]))


def prepare(
    tensors: Mapping[str, torch.Tensor],
    layouts: Mapping[str, str],
    gradients: tuple[str, ...],
    device: torch.device,
) -> Arguments:
    """Put the tensors on `device` in their layouts, differentiably, under the grad mode that is set now.

    What is handed over is never the leaf itself: real logits come out of a model, and writing to a leaf in place fails
    where writing to them is a bug that goes unseen.
    """
    originals: dict[str, torch.Tensor] = {}
    handed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        original = tensor.to(device).contiguous()
        if name in gradients:
            # Detached, so that no tensor of the caller's is made to collect gradients.
            original = original.detach().requires_grad_()
        originals[name] = original
        handed[name] = lay_out(original, layouts.get(name, "contiguous"))
    return Arguments(originals, handed)


def lay_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """A differentiable copy of `tensor` with the same values in another place.

    - "contiguous": a plain copy.
    - "transposed": the last two dimensions lie the other way round in memory; a plain copy below two dimensions.
    - "strided": every second element of a storage twice as wide along the last dimension; a plain copy of a scalar.
      Between them lie NaN (floating point) or the elements in reverse order (labels): wrong, but in range.
    - "offset": the storage begins one element earlier, so that nothing is aligned to more than the element.
    - "expanded": the first row stands for all, with stride 0 along the first dimension; where rows differ, a plain
      copy. The gradient comes back for each row by itself all the same.
    """
    if layout == "transposed" and tensor.dim() >= 2:
        # clone, since contiguous() returns the tensor itself where a dimension is 1, and that would alias the leaf
        return tensor.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2)
    if layout == "strided" and tensor.dim() >= 1:
        return torch.stack((tensor, _decoy(tensor)), dim=-1).flatten(-2)[..., ::2]
    if layout == "offset":
        flat = tensor.reshape(-1)
        return torch.cat((_decoy(flat.new_zeros(1)), flat))[1:].view(tensor.shape)
    if layout == "expanded" and tensor.dim() >= 1 and same_bits(tensor, tensor[:1].expand_as(tensor)):
        expanded: torch.Tensor = _Expanded.apply(tensor)  # type: ignore[no-untyped-call]
        return expanded
    return tensor.clone(memory_format=torch.contiguous_format)


class _Expanded(torch.autograd.Function):
    """All rows as the first one, stride 0; the gradient goes to the rows as if each had been there itself."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()[:1].clone().expand_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


def bind(
    parameters: tuple[Parameter, ...], values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Values by name -> the positional and the keyword arguments of a call.

    Everything goes by keyword except to positional-only parameters. A name that the function lacks is passed on all the
    same: Python's own complaint about it is the one a candidate's author knows.

    Raises:
        TypeError: a positional-only parameter is given while an earlier, required one is not.
    """
    positional: list[Any] = []
    keywords = dict(values)
    only_positional = [parameter for parameter in parameters if parameter.kind == "positional"]
    given = [index for index, parameter in enumerate(only_positional) if parameter.name in values]
    for parameter in only_positional[: given[-1] + 1 if given else 0]:
        if parameter.name in keywords:
            positional.append(keywords.pop(parameter.name))
        elif parameter.name in defaults:
            positional.append(defaults[parameter.name])
        else:
            raise TypeError(f"missing a required positional argument: {parameter.name!r}")
    return positional, keywords


def _decoy(tensor: torch.Tensor) -> torch.Tensor:
    """Values of the same shape and dtype that spoil the result of whoever reads them."""
    values = tensor.detach()
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.full_like(values, float("nan"))
    return values.flip(-1)
