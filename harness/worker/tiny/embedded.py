"""A tiny model that takes its tokens as embeddings alone, because another model makes them in real life."""

from __future__ import annotations

from typing import Any

import torch

from .model import TinyModel

_STEPS = ("generation_step", "generation_steps")  # for a single token, which generation alone hands over


class Embedded(TinyModel):
    """A model of `inputs_embeds`. Its own table, or one for each position, embeds the tokens."""

    def given(self, input_ids: torch.Tensor) -> dict[str, Any]:
        step = {name: 1 for name in _STEPS if name in self._parameters_of_forward}
        return {"inputs_embeds": self._embedded(input_ids), **({self.tokens: input_ids} if step else {}), **step}

    def _embedded(self, input_ids: torch.Tensor) -> torch.Tensor:
        tables: Any = self.inner.get_input_embeddings()  # type: ignore[operator]
        if not isinstance(tables, torch.nn.ModuleList):
            return tables(input_ids)  # type: ignore[no-any-return]
        columns = [tables[at % len(tables)](input_ids[:, at]) for at in range(input_ids.shape[1])]
        return torch.stack(columns, 1)
