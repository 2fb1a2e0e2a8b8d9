"""The inputs that a model's forward needs besides token ids and labels, by the names of its parameters.

Each row is a pure function of its index in the batch. It does not depend on the batch size or on other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Side:
    """One argument besides the token ids."""

    shape: tuple[int, ...]
    """The shape of one row. −1 stands for S, and −n for n · S."""

    below: int | None = None
    """Draw integers from 0 up to this, exclusive. None: floats from 0 to 1, which suit pixels, sound and positions."""

    ones: bool = False
    """Use int64 ones instead of drawn numbers: a mask that hides nothing."""

    def rows(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Make [B, *shape] for token ids [B, S] or [B, S, K]. Row r depends only on r. `dtype`: of floats."""
        batch, length = ids.shape[:2]
        shape = tuple(-size * length if size < 0 else size for size in self.shape)
        if self.ones:
            return torch.ones((batch, *shape), dtype=torch.int64, device=ids.device)
        generators = [torch.Generator().manual_seed(17 + row) for row in range(batch)]
        if self.below is not None:
            return torch.stack([torch.randint(self.below, shape, generator=each) for each in generators]).to(ids.device)
        return torch.stack([torch.rand(shape, generator=each) for each in generators]).to(ids.device, dtype)


def sides(names: list[str], config: Any) -> Iterator[dict[str, Side]]:
    """Yield ways to give a model the arguments of these names, the most likely first. None if a name is unknown."""
    if all(name in _KNOWN for name in names):
        choices = {name: _KNOWN[name](_Sizes(config)) for name in names}
        for at in range(max(map(len, choices.values()), default=1)):
            yield {name: each[min(at, len(each) - 1)] for name, each in choices.items()}


def is_known(name: str) -> bool:
    """Whether there is a rule for a parameter of this name."""
    return name in _KNOWN


def numbers_of_codebooks(config: Any) -> list[int]:
    """The numbers in a configuration and its parts that may be that of codebooks."""
    names = ("num_codebooks", "num_channels", "num_quantizers", "num_code_groups")
    found = [value for name, value in _flat(config) if name in names and isinstance(value, int)]
    return [value for value in dict.fromkeys(found) if value > 1]


class _Sizes:
    """The sizes in a configuration and its parts."""

    def __init__(self, config: Any) -> None:
        self._fields = list(_flat(config))

    def __call__(self, default: int, *names: str) -> int:
        """The value of the first of these fields that exists, or the default."""
        found = {name: value for name, value in reversed(self._fields) if isinstance(value, (int, list, tuple))}
        value = next((found[name] for name in names if found.get(name)), default)
        return int(value if isinstance(value, int) else value[0])


def _flat(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield every field of a configuration and of its parts. Fields of parts come last."""
    fields = config if isinstance(config, Mapping) else vars(config)
    yield from fields.items()
    for part in fields.values():
        if hasattr(part, "to_dict"):
            yield from _flat(part)


def _pixels(sizes: _Sizes) -> list[Side]:
    side = sizes(16, "image_size")
    image = (sizes(3, "num_channels", "in_channels", "in_chans"), side, side)
    return [Side(image), Side((1, *image))]


def _features(sizes: _Sizes) -> list[Side]:
    bins = sizes(
        16, "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "feature_size", "input_dim"
    )
    whole = 2 * sizes(16, "max_source_positions")
    beside = 2 * sizes(1, "downsample_factor")  # for each token, before the convolution that halves them
    return [Side((bins, whole)), Side((64, bins)), Side((bins, 64)), Side((bins, -beside))]


_KNOWN: Mapping[str, Callable[[_Sizes], list[Side]]] = {
    "pixel_values": _pixels,
    "input_features": _features,
    "input_values": lambda sizes: [Side((1, 1600)), Side((1600,))],
    "flattened_patches": lambda sizes: [Side((6, 2 + sizes(192, "patch_embed_hidden_size")))],
    "attention_mask": lambda sizes: [Side((-1,), ones=True)],
    "backbone_last_hidden_state": lambda sizes: [Side((sizes(64, "backbone_hidden_size"),))],
    "image_embeds": lambda sizes: [Side((0, sizes(64, "hidden_size")))],  # of no image
    "image_embeds_position_mask": lambda sizes: [Side((-1,), below=1)],
    "inputs_embeds": lambda sizes: [Side((5, sizes(64, "hidden_size")))],
    "image_attention_mask": lambda sizes: [Side((-1, 1), ones=True)],
    "token_type_ids": lambda sizes: [Side((-1,), below=1)],
    "mm_token_type_ids": lambda sizes: [Side((-1,), below=1)],
    "bbox": lambda sizes: [Side((-1, 4))],
    "inputs": lambda sizes: [Side((1600,)), *_features(sizes)],
    "qformer_input_ids": lambda sizes: [Side((5,), below=sizes(30, "vocab_size"))],
}
"""Parameter name -> the arguments to try for it, the most likely first."""
