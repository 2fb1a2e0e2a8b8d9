"""The yardsticks as candidates: ``yardsticks.py:hf_causal_lm`` is that of the profile hf.causal_lm, judged as any loss.

They take arrays as a batch has them, so a profile is judged without its layouts. ``linear_hf_causal_lm`` is the
yardstick of a linear layer whose weight is the identity: its logits are its hidden states, to the last bit.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.yardstick import linear_yardstick, yardstick

RIGHT = {name.replace(".", "_"): name for name in PROFILES}
LINEAR = {f"linear_{name.replace('.', '_')}": name for name in PROFILES if PROFILES[name].logits == ("logits",)}
# Those of codebooks have logits of four axes, which no single linear layer gives.
LINEAR = {candidate: name for candidate, name in LINEAR.items() if "k" not in PROFILES[name].axes_of("logits")}


def _through_identity(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def through(logits: Tensor, **arguments: Any) -> Tensor:
        weight = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        return loss(hidden_states=logits, lm_head_weight=weight, **arguments)

    return through


def __getattr__(name: str) -> Callable[..., Tensor]:
    if name in LINEAR:
        loss = _through_identity(linear_yardstick(PROFILES[LINEAR[name]]))
    elif name in RIGHT:
        loss = yardstick(PROFILES[RIGHT[name]])
    else:
        raise AttributeError(f"no profile is called {name!r} with underscores for dots")

    def candidate(**arguments: Any) -> Tensor:
        return loss(**arguments)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(field.name, kind, default=None) for field in fields(Batch)]
    candidate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return candidate
