"""The logits of a case as the product of hidden states and a weight, for a loss that multiplies them itself.

``hidden_states`` [B, S, H] · ``lm_head_weight`` [V, H]ᵀ + ``lm_head_bias`` [V] is equal to the logits of the case to
the last bit, whatever the order of summation. One of the two factors carries the logits, divided by powers of two. The
other factor holds one power of two for every column that carries logits. So every logit is one product, and the other
products in its sum are zeros.

- The hidden states carry the logits if V is not too large. Each class has its own column. The gradient at the hidden
  states is the gradient at the logits, column by column, times those powers of two. So it is read back exactly.
- The weight carries the logits if V is large. Each row of logits has its own column. The gradient at the logits is read
  back from the gradient at the weight.

A dense case is another matter: hidden states and weight are dense there, and its logits are their product, which no
dtype holds exactly.

There are also idle columns, in which one factor is zero and the other is not. They add nothing to the logits. The
gradient in them is a sum over all rows, or over all classes. One idle column is *loud*: for one class, the terms of its
sum have the same sign in every row, so that rounding errors cannot cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from shiftproof.reference.spec import Heads, LossSpec

from .build import Case
from .logits import bell, uniform_ints
from .recipe import HIDDEN_MULTIPLE, Stride

HIDDEN, WEIGHT, BIAS = "hidden_states", "lm_head_weight", "lm_head_bias"
LEAVES = (HIDDEN, WEIGHT, BIAS)

_WIDE = 1100  # with more classes, the weight carries the logits: a square weight would be too large
_IDLE = 3  # the least number of idle columns in the hidden states, and in the weight
_PEAK = 40.0  # of dense logits: large enough that rounding them to bf16 moves probabilities by a tenth

DENSE_HIDDEN_SIZES = (256, 320, 512)
DENSE_PLACES = 8
"""The sizes of dense factors: H, and the most B·S, at which few rounding errors cancel in a mean."""

_SPREAD = 0.2  # of the hidden states whose logits are near each other

_POWERS = (1.0, -2.0, 2.0, -1.0, 4.0)


@dataclass(frozen=True, eq=False)
class Linear:
    """The factors of one case's logits, in their dtype.

    Attributes:
        hidden: [B, S, H].
        weight: [V, H].
        bias: [V].
        by_hidden: True if the hidden states carry the logits, False if the weight does.
        columns: [V or rows] int64, the columns that carry the logits. Empty if both factors are dense.
        scales: float64, the powers of two in these columns of the other factor.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    by_hidden: bool
    columns: Tensor
    scales: Tensor

    @property
    def is_dense(self) -> bool:
        return not len(self.columns)

    @property
    def carrier(self) -> str:
        """The name of the leaf that carries the logits."""
        return HIDDEN if self.by_hidden else WEIGHT

    @property
    def width(self) -> int:
        """H."""
        return self.hidden.shape[-1]

    def leaf(self, name: str) -> Tensor:
        return {HIDDEN: self.hidden, WEIGHT: self.weight, BIAS: self.bias}[name]


def no_linear(spec: LossSpec) -> str | None:
    """The reason why a spec's logits cannot be the product of hidden states and one weight, or None."""
    if spec.logits != ("logits",):
        return f"it reads {', '.join(spec.logits)}"
    if any(term.heads in (Heads.CODEBOOKS, Heads.AHEAD) for term in spec.terms):
        return "it has one head per codebook"
    if spec.layout_of("logits") not in ("b s v", "(b s) v"):
        return f"its logits have the layout {spec.layout_of('logits')}"
    return None


def width_of(classes: int, rows: int, least: int = 0) -> int:
    """H of exact factors, ``least`` or more."""
    carriers = classes if classes <= _WIDE else rows
    return -(-max(carriers + 2 * _IDLE, least) // HIDDEN_MULTIPLE) * HIDDEN_MULTIPLE


@lru_cache(maxsize=8)
def factor(case: Case, biased: bool) -> Linear:
    """Factor the logits of ``case`` exactly into hidden states and a weight, and a bias if ``biased``.

    A class gets a bias other than 0 only if subtracting it from all logits of the class loses no bit.
    """
    if case.recipe.dense:
        return _dense(case, biased)
    logits = case.batch.tensor("logits")
    rows = logits.flatten(0, -2).double()
    count, classes = rows.shape
    by_hidden = classes <= _WIDE
    carriers = classes if by_hidden else count
    width = width_of(classes, count, case.recipe.hidden_size)
    seed = case.recipe.seed
    powers = torch.tensor(_POWERS, dtype=torch.float64)
    scales = powers[_ints(seed, 30, carriers) % len(_POWERS)]
    order = torch.argsort(_ints(seed, 31, width), stable=True)  # the columns, shuffled
    quarters = (_ints(seed, 32, classes) % 4 + 1).double() / 4
    bias = quarters * (1 - 2 * (_ints(seed, 33, classes) % 2)) if biased else torch.zeros(classes, dtype=torch.float64)
    divisors = scales if by_hidden else scales[:, None]
    carried = ((rows - bias) / divisors).to(logits.dtype).double()
    exact = ((carried * divisors + bias == rows) | rows.isnan()).all(0)
    bias = torch.where(exact, bias, 0.0)
    carried = torch.where(exact, carried, rows / divisors)

    hidden = torch.zeros((count, width), dtype=torch.float64)
    weight = torch.zeros((classes, width), dtype=torch.float64)
    if by_hidden:
        hidden[:, :carriers] = carried
        weight[:, :carriers] = torch.diag(scales)
    else:
        unknown = rows.isnan().any(-1)  # NaN in a column of the weight would reach every row
        hidden[:, :carriers] = torch.diag(torch.where(unknown, torch.nan, scales))
        weight[:, :carriers] = carried.T.masked_fill(unknown, 0.0)
    split = carriers + (width - carriers) // 2
    hidden[:, carriers:split] = _idle(case, split - carriers)
    weight[:, split:] = _small(seed, 35, (classes, width - split))
    return Linear(
        hidden=hidden[:, order].reshape(*logits.shape[:-1], width).to(logits.dtype),
        weight=weight[:, order].to(logits.dtype),
        bias=bias.to(logits.dtype),
        by_hidden=by_hidden,
        columns=torch.argsort(order)[:carriers],
        scales=scales,
    )


def _dense(case: Case, biased: bool) -> Linear:
    """Draw dense factors in the recipe's dtype.

    In every second scored row, the target's logit is ``_PEAK``, and a few other classes come near it. In the other
    rows the probability is spread over all classes. All rows of the weight have a part in common, as those of trained
    models have: what it adds to the gradient at the hidden states cancels in the whole sum over classes, and not in a
    part of it.
    """
    seed, width = case.recipe.seed, case.recipe.hidden_size
    *places, classes = case.pairing.shapes["logits"]
    dtype = getattr(torch, case.recipe.dtype)
    hidden = bell(seed, 36, (*places, width))
    steepness = _PEAK / 4 / width**0.5
    weight = (bell(seed, 37, (classes, width)) + bell(seed, 39, (1, width))) * steepness
    for number, pair in enumerate(case.pairing.pairs):
        state = hidden[pair.logit]
        if number % 2:
            state *= _SPREAD
        else:
            weight[pair.target] += state * ((_PEAK - state @ weight[pair.target]) / (state @ state))
    bias = bell(seed, 38, (classes,)) if biased else torch.zeros(classes, dtype=torch.float64)
    none = torch.empty(0, dtype=torch.long)
    return Linear(hidden.to(dtype), weight.to(dtype), bias.to(dtype), True, none, none.double())


def product(linear: Linear) -> Tensor:
    """The logits [B, S, V] of dense factors, float64."""
    return linear.hidden.double() @ linear.weight.double().T + linear.bias.double()


def _idle(case: Case, columns: int) -> Tensor:
    """Hidden states [rows, ``columns``] for columns with zero weight.

    They are the same in every row of the batch, except in the loud column.
    """
    batch, length, _ = case.pairing.shapes["logits"]
    idle = _small(case.recipe.seed, 34, (1, length, columns)).expand(batch, length, columns).clone()
    if case.pairing.pairs and case.recipe.stride is not Stride.EXPANDED:
        # The gradient of this class is negative in the rows where it is the target, and positive in the others.
        loud = case.pairing.pairs[0].target
        idle[..., 0] = -1.0
        for pair in case.pairing.pairs:
            if pair.target == loud:
                idle[(*pair.logit, 0)] = 1.0
    return idle.flatten(0, 1)


def _small(seed: int, stream: int, shape: tuple[int, ...]) -> Tensor:
    """Float64 numbers in {±1/4 … ±1}: exact in every dtype."""
    drawn = _ints(seed, stream, torch.Size(shape).numel()).reshape(shape)
    return (drawn % 4 + 1).double() / 4 * (1 - 2 * (drawn // 4 % 2))


def _ints(seed: int, stream: int, size: int) -> Tensor:
    return torch.from_numpy(uniform_ints(seed, stream, size).astype("int64"))


def through(linear: Linear, gradient: Tensor) -> dict[str, Tensor]:
    """Carry the gradient [B, S, V] at the logits back to the leaves. The results are float64."""
    flat, hidden = gradient.flatten(0, -2), linear.hidden.flatten(0, -2).double()
    return {
        HIDDEN: (flat @ linear.weight.double()).reshape(linear.hidden.shape),
        WEIGHT: flat.T @ hidden,
        BIAS: flat.sum(0),
    }


def read_logits(linear: Linear, leaves: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Read the gradient at the logits, ``shape`` [B, S, V], float64, from that at the leaf that carries them."""
    if linear.by_hidden:
        return (leaves[HIDDEN][..., linear.columns] / linear.scales).reshape(shape)
    return (leaves[WEIGHT][:, linear.columns] / linear.scales).T.reshape(shape)
