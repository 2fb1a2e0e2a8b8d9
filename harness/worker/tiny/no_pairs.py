"""Evidence, found by calling a model, that its loss pairs no row of logits with a label: CTC, regression, flow."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from typing import Any

import torch

from .forward import parameters_of
from .inputs import Side, sides
from .model import TinyModel, documentation

_SEED = 5
_BATCH, _LENGTHS = 2, (2, 3)
_IDS = 9  # ids below this are in every vocabulary
_MARKS = ("audio_bos_token_id", "audio_latent_token_id")  # of the first frame's place, and of each place of a frame


def evidence_of_no_pairs(inner: torch.nn.Module) -> str:
    """Return in words why no row of logits belongs to a label, or "" if nothing shows that."""
    return _rows_apart_from_labels(inner) or _labels_of_floats(inner)


def _rows_apart_from_labels(inner: torch.nn.Module) -> str:
    """Labels of two lengths give a loss, and as many rows of logits."""
    for side in _heard(inner):
        model, rows = TinyModel(inner, side), {}
        with contextlib.suppress(Exception), torch.no_grad():
            for length in _LENGTHS:
                labels = torch.arange(1, length + 1).expand(_BATCH, -1).contiguous()
                output = model(labels, labels)
                if output.loss is not None:
                    rows[length] = output.logits.shape[1]
            if len(rows) == len(_LENGTHS) and len(set(rows.values())) == 1:
                counts = ", ".join(f"{count} for {length} labels" for length, count in rows.items())
                return f"its rows of logits are not the positions of labels: {counts}; CTC and its like have no pairs"
    return ""


def _heard(inner: torch.nn.Module) -> Iterator[dict[str, Side]]:
    """Yield ways to give a model what it hears, alone and with each mask that it may need."""
    masks = [name for name in ("attention_mask", "padding_mask") if name in parameters_of(type(inner))]
    for side in sides([getattr(inner, "main_input_name", "input_ids")], inner.config):
        yield side
        for name, length in itertools.product(
            masks, dict.fromkeys(size for each in side.values() for size in each.shape)
        ):
            yield {**side, name: Side((length,), ones=True)}


def _labels_of_floats(inner: torch.nn.Module) -> str:
    """Labels [B, F, D], of a width D that the documentation names, give a loss with a gradient at them."""
    config: Any = inner.config
    documented = re.search(r"of shape `?\((?:[^,()]+,){2} *(\w+)\)", documentation(type(inner)))
    width = getattr(config, documented.group(1), None) if documented is not None else None
    if not isinstance(width, int):
        return ""
    frames = _LENGTHS[-1]
    generator = torch.Generator().manual_seed(_SEED)
    ids = torch.randint(_IDS, (_BATCH, frames + 1), generator=generator)
    if all(hasattr(config, name) for name in _MARKS):
        first, each = (int(getattr(config, name)) for name in _MARKS)
        ids = torch.tensor([first, *[each] * frames]).expand(_BATCH, -1).contiguous()
    labels = torch.rand((_BATCH, frames, width), generator=generator, requires_grad=True)
    with contextlib.suppress(Exception):
        (slope,) = torch.autograd.grad(inner(input_ids=ids, labels=labels).loss, labels)
        if slope.any():
            shape = list(labels.shape)
            return f"its loss has a gradient at its labels, floats {shape}; regression and flow losses have no pairs"
    return ""
