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
    """The tensors of one call on their device, twice: the originals, and the copies for the candidate."""

    originals: dict[str, torch.Tensor]
    """Argument name -> contiguous tensor. Those whose gradient is wanted are leaves, and collect it in `.grad`."""

    handed: dict[str, torch.Tensor]
    """Argument name -> the tensor that the candidate gets."""

    @property
    def nbytes(self) -> int:
        """Bytes of storage of both."""
        tensors = (*self.originals.values(), *self.handed.values())
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def mutated(self) -> tuple[str, ...]:
        """The names of the arguments whose values have changed."""
        return tuple(name for name in self.handed if not same_bits(self.handed[name], self.originals[name]))


def prepare(
    tensors: Mapping[str, torch.Tensor],
    layouts: Mapping[str, str],
    gradients: tuple[str, ...],
    device: torch.device,
) -> Arguments:
    """Put the tensors on `device` in their layouts, differentiably, under the current grad mode.

    The candidate never gets the leaf itself. Real logits are the output of a model, and writing to them in place is a
    bug that raises no error. Writing to a leaf in place would raise one.
    """
    originals: dict[str, torch.Tensor] = {}
    handed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        original = tensor.to(device).contiguous()
        if name in gradients:
            # Detached, so that the caller's tensors do not collect gradients.
            original = original.detach().requires_grad_()
        originals[name] = original
        handed[name] = lay_out(original, layouts.get(name, "contiguous"))
    return Arguments(originals, handed)


def lay_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """Make a differentiable copy of `tensor` with the same values in another memory layout.

    - "contiguous": a plain copy.
    - "transposed": the last two dimensions are swapped in memory. A plain copy below two dimensions.
    - "strided": every second element of a storage twice as wide along the last dimension. A plain copy of a scalar.
      Between the elements are NaN (floating point) or the elements in reverse order (labels): wrong, but in range.
    - "offset": the storage begins one element earlier, so that the data is aligned only to the element size.
    - "sliced": all but the last element of a longer buffer along the second dimension, as `[:, :-1]` is. A plain copy
      below two dimensions. The rest of the buffer is as for "strided".
    - "sequence_first": the first two dimensions are swapped in memory. A plain copy below two dimensions.
    - "expanded": the first row stands for all rows, with stride 0 along the first dimension. A plain copy if rows
      differ. Each row still gets its own gradient.
    """
    if layout == "transposed" and tensor.dim() >= 2:
        # clone, because contiguous() returns the tensor itself if a dimension is 1, and that would alias the leaf
        return tensor.transpose(-1, -2).clone(memory_format=torch.contiguous_format).transpose(-1, -2)
    if layout == "strided" and tensor.dim() >= 1:
        return torch.stack((tensor, _decoy(tensor)), dim=-1).flatten(-2)[..., ::2]
    if layout == "sliced" and tensor.dim() >= 2:
        return torch.cat((tensor, _decoy(tensor[:, :1])), dim=1)[:, :-1]
    if layout == "sequence_first" and tensor.dim() >= 2:
        return tensor.transpose(0, 1).clone(memory_format=torch.contiguous_format).transpose(0, 1)
    if layout == "offset":
        flat = tensor.reshape(-1)
        return torch.cat((_decoy(flat.new_zeros(1)), flat))[1:].view(tensor.shape)
    if layout == "expanded" and tensor.dim() >= 1 and same_bits(tensor, tensor[:1].expand_as(tensor)):
        expanded: torch.Tensor = _Expanded.apply(tensor)  # type: ignore[no-untyped-call]
        return expanded
    return tensor.clone(memory_format=torch.contiguous_format)


class _Expanded(torch.autograd.Function):
    """Show the first row as all rows, with stride 0. In the backward, each row gets its own gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach()[:1].clone().expand_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


def bind(
    parameters: tuple[Parameter, ...], values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Turn values by name into the positional and the keyword arguments of a call.

    Only positional-only parameters are passed by position. A name that the function does not have is still passed,
    because a candidate's author knows Python's own error message for it.

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
    """Values of the same shape and dtype that spoil the result of a candidate that reads them."""
    values = tensor.detach()
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.full_like(values, float("nan"))
    return values.flip(-1)
