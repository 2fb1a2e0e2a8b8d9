"""How a model with codebooks takes its tokens and labels, and returns its logits: found by calling the model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import einops
from torch import Tensor

from shiftproof.reference.spec import LossSpec

_TOKENS = ("b s k", "(b k) s", "b k s")
_LOGITS = ("b s k v", "b k s v", "(b k) s v", "b s (k v)", "(b s) k v")
MOST_CODEBOOKS = 32
"""Numbers up to this are tried in turn."""

LENGTHS = (7, 5)
"""Of the sequences in a first call: one that is not the number of codebooks."""


@dataclass(frozen=True)
class ModelLayout:
    """The number of codebooks of a model, and einops patterns over the axes b, s, k, v."""

    codebooks: int
    tokens: str
    labels: str
    logits: str

    def lay_out_tokens(self, tokens: Tensor) -> Tensor:
        """Bring tokens [B, S, K] into the layout of the model."""
        laid_out: Tensor = einops.rearrange(tokens, f"b s k -> {self.tokens}")
        return laid_out.contiguous()

    def lay_out_logits(self, logits: Tensor) -> Tensor:
        """Bring logits [B, L, K, V] into the layout of the model."""
        laid_out: Tensor = einops.rearrange(logits, f"b s k v -> {self.logits}")
        return laid_out

    def canonical_logits(self, logits: Tensor, rows: int) -> Tensor:
        """Bring logits of ``rows`` sequences from the layout of the model into [B, L, K, V].

        Raises:
            ValueError: they do not have this layout.
        """
        try:
            found: Tensor = einops.rearrange(logits, f"{self.logits} -> b s k v", b=rows, k=self.codebooks)
        except einops.EinopsError as error:
            raise ValueError(f"its logits {list(logits.shape)} are not {self.logits}") from error
        return found


def find_layouts(spec: LossSpec, ask: Callable[[ModelLayout, int], Tensor | None]) -> list[ModelLayout]:
    """Find the layouts that a model takes, that of the spec first. A model may flatten what it gets, and take several.

    ``ask`` calls the model on one sequence of the given length. It returns the model's logits, or None if the model
    gives no loss. One sequence with fewer codebooks than the model has is never taken for several whole sequences. A
    model that takes a single row would take K codebooks for K sequences: it has none.
    """
    if ask(ModelLayout(1, "(b k) s", "(b k) s", ""), LENGTHS[0]) is not None:
        return []
    for codebooks in range(2, MOST_CODEBOOKS + 1):
        length = next(each for each in LENGTHS if each != codebooks)
        found = []
        for labels in dict.fromkeys((spec.layout_of("labels"), *_TOKENS)):
            for tokens in dict.fromkeys((labels, *_TOKENS)):
                way = ModelLayout(codebooks, tokens, labels, "")
                logits = ask(way, length)
                found += [] if logits is None else with_logits(way, logits, length)
        if found:
            return found
    return []


def with_logits(layout: ModelLayout, logits: Tensor, length: int) -> list[ModelLayout]:
    """``layout`` with the layout of the logits of one sequence. Empty if they have none."""
    ways = (replace(layout, logits=pattern) for pattern in _LOGITS)
    return [way for way in ways if _fits(way, logits, length)][:1]


def _fits(layout: ModelLayout, logits: Tensor, length: int) -> bool:
    """Whether logits for one sequence have this layout, with as many rows as labels, or more."""
    if logits.dim() != len(re.sub(r"\(.*?\)", "group", layout.logits).split()):
        return False
    try:
        _, rows, _, classes = layout.canonical_logits(logits, 1).shape
    except ValueError:
        return False
    return rows >= length and classes > 1
