"""Gaps in the labels of a model of several arrays of logits: found by calling it, since some models raise there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch

Change = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Gap:
    """Labels that may be ignored.

    Attributes:
        name: of the labels, in words.
        opened: ignores them.
        closed: makes them count, if they are ignored.
    """

    name: str
    opened: Change
    closed: Change


def close(batch: Batch, gaps: Iterable[Gap]) -> Batch:
    """The batch without any of these gaps."""
    return reduce(lambda made, gap: gap.closed(made), gaps, batch)


def with_array(batch: Batch, name: str, value: Tensor) -> Batch:
    """The batch with another array ``name``."""
    other: dict[str, Any] = {name: value}
    return replace(batch, **other)


def ignoring(*names: str) -> Change:
    """The change that ignores all labels in these arrays."""
    return lambda batch: reduce(
        lambda made, name: with_array(made, name, torch.full_like(made.tensor(name), -100)), names, batch
    )


def gaps_of_stream(stream: str, labels: str, tokens: str, marker: int | None = None) -> tuple[Gap, Gap]:
    """The gaps of one stream: the last label of each sequence, and all labels.

    ``labels`` and ``tokens`` name arrays [B, S] or [B, S, K]. A token below 0 has no label. A model that takes no
    label −100 may take ``marker`` in its place.
    """

    def last_ignored(batch: Batch) -> Batch:
        ignored = batch.tensor(labels).clone()
        last = ignored[:, -1]
        (last if last.dim() == 1 else last[:, 0]).fill_(-100)
        return with_array(batch, labels, ignored)

    def all_counting(batch: Batch) -> Batch:
        found, of = batch.tensor(labels), batch.tensor(tokens)
        filling = of if marker is None else torch.full_like(of, marker)
        return with_array(batch, labels, filling.where((found < 0) & (of >= 0), found))

    def one_counting(batch: Batch) -> Batch:
        found, of = batch.tensor(labels), batch.tensor(tokens)
        places = (of[:, 1:] >= 0).nonzero()[-1:].unbind(1)  # a shift leaves the first position without a label
        if bool((found[:, 1:] >= 0).any()) or not len(places[0]):
            return batch
        kept = found.clone()
        kept[:, 1:][places] = of[:, 1:][places]
        return with_array(batch, labels, kept)

    return (
        Gap(f"the last label of {stream}", last_ignored, all_counting),
        Gap(f"all labels of {stream}", ignoring(labels), one_counting),
    )
