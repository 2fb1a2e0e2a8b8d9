"""The head of a model: the product that makes its logits, and the gradients at its two factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..bounds.derive import Bounds, derive_leaf_bounds
from ..bounds.rounding import FP32_ROUNDOFF
from ..cases.build import Case
from ..cases.linear import HIDDEN, WEIGHT, Linear, through
from ..worker.heads import Link, link

_MORE = 8.0  # roundings between the product and the logits, such as in a cap and its derivative
_FITTED = 1e-6  # relative error of a scale or a cap, which is fitted to logits in float32


@dataclass(frozen=True, eq=False)
class Head:
    """The hidden states [B, L, H] and the weight [V, H] whose product is a model's logits, and the gradients there.

    All are float64. A gradient is None if none arrived. A frozen weight never gets one.
    """

    hidden: Tensor
    weight: Tensor
    link: Link
    hidden_gradient: Tensor | None
    weight_gradient: Tensor | None

    @property
    def rounding(self) -> Tensor:
        """How far the same product, computed in another order, may be from the returned logits, [B, L]."""
        products = self.hidden.abs().flatten(0, 1) @ self.weight.abs().T
        steps = self.hidden.shape[-1] + _MORE
        return (
            (self.link.left + steps * FP32_ROUNDOFF * products * self.link.slope).amax(-1).view(self.hidden.shape[:2])
        )


def read_head(watched: Mapping[str, Tensor], logits: Tensor) -> Head | None:
    """Find the head among the watched tensors of a model that returned these logits [B, L, V]."""
    if not {"hidden", "weight"} <= set(watched):
        return None
    hidden, weight = watched["hidden"].double(), watched["weight"].double()
    product = hidden.flatten(0, 1) @ weight.T + (watched["bias"].double() if "bias" in watched else 0.0)
    found = link(product, logits.double().flatten(0, 1))
    if found is None:
        return None
    return Head(hidden, weight, found, *(watched.get(f"{name}_gradient") for name in ("hidden", "weight")))


def head_gradients(case: Case, head: Head, bounds: Bounds) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The right gradients at hidden states and weight, and how far a right model may be from them.

    The error bound of the gradient at the logits has two parts. One is the bound for given logits. The other comes from
    the error of the model's own logits: if δ is the largest such error in a row, it is 2·δ·w·p for a class of
    probability p and a pair of weight w.
    """
    shape = case.oracle.gradients["logits"].shape
    slope = head.link.slope.view(shape)
    right = case.oracle.gradients["logits"] * slope
    off = bounds.gradients["logits"] + moved_gradient(case, head.rounding)
    off = off * slope + (_MORE * FP32_ROUNDOFF + _FITTED * (slope != 1)) * right.abs()
    # Up to `slope`, the product is the logits. So the bounds are those of a loss that multiplies by itself.
    empty = torch.zeros(0)
    linear = Linear(head.hidden, head.weight, torch.zeros(len(head.weight), dtype=torch.float64), True, empty, empty)
    own = replace(case, oracle=replace(case.oracle, gradients={"logits": right}))
    allowed = derive_leaf_bounds(own, linear, replace(bounds, gradients={"logits": off}))
    expected = through(linear, right)
    names = (HIDDEN, WEIGHT)
    return {name: expected[name] for name in names}, {name: allowed[name] for name in names}


def moved_gradient(case: Case, off: Tensor) -> Tensor:
    """How far the gradient [B, L, V] moves if the logits of a row move by at most ``off`` [B, L]."""
    moved = torch.zeros(case.pairing.shapes["logits"], dtype=torch.float64)
    logits = case.batch.tensor("logits").double()
    for pair in case.pairing.pairs:
        most = 2 * float(off[pair.logit])
        moved[pair.logit] += abs(pair.weight) * most * torch.softmax(logits[pair.logit], -1)
    return 1.1 * moved


def moved_value(case: Case, off: Tensor) -> float:
    """How far the loss moves if the logits of a row move by at most ``off`` [B, L]."""
    return sum(2 * abs(pair.weight) * float(off[pair.logit]) for pair in case.pairing.pairs)
