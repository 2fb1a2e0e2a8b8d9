"""A tiny depth decoder by itself: the codes of one frame as a sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from .forward import parameters_of
from .model import TinyModel

_STATE = "backbone_last_hidden_state"


class Steps(TinyModel):
    """A decoder of the codes of a frame, such as CSM's. What its backbone hands over is always the same.

    Its first position is the backbone's, and has no logits. So its row j sees codes 0 … j, and is to be scored on code
    j + 1.
    """

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **rest: Any) -> Any:
        """Call the inner model with one position more. Return its output.

        Args:
            input_ids: [B, S] int64.
            labels: [B, S] int64. −100 is ignored.
            **rest: as of any tiny model.
        """
        after = None if labels is None else F.pad(labels, (0, 1), value=-100)
        return super().forward(F.pad(input_ids, (1, 0)), after, **rest)


def takes_steps(model_class: type[torch.nn.Module]) -> bool:
    """Whether a model takes the codes of a frame after the state of a backbone."""
    return {"input_ids", "labels", _STATE} <= parameters_of(model_class).keys()
