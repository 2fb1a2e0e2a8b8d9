"""The logits of a case as the product of hidden states and a weight, for a loss that multiplies them itself.

``hidden_states`` [B, S, H] · ``lm_head_weight`` [V, H]ᵀ + ``lm_head_bias`` [V] are the logits of the case to the last
bit, in whatever order the products are added up: one of the two carries the logits, divided by powers of two, and the
other is known and holds one power of two for every column that carries any. So every logit is one product, and the rest
of its sum is zeros.

- Hidden states carry them where H = V is not too wide: each class has a column of its own. The gradient at the hidden
  states is then the gradient at the logits, column by column, times those powers of two: it is read back exactly.
- The weight carries them where V is wide: each row of logits has a column of its own, and the gradient at the logits is
  read back from that of the weight.

Beside them lie idle columns, in which one of the two is zero and the other is not: they add nothing to the logits, and
in them the gradient is a sum over all rows, or over all classes. One of them is *loud*: what is added up there for one
class has the same sign in every row, so that rounding cannot cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from shiftproof.reference.spec import Heads, LossSpec

from .cases import Case
from .recipe import Stride
from .regimes import uniform_ints

HIDDEN, WEIGHT, BIAS = "hidden_states", "lm_head_weight", "lm_head_bias"
LEAVES = (HIDDEN, WEIGHT, BIAS)

_WIDE = 1100  # from more classes on, the weight carries the logits: a square one would be too large
_IDLE = 3  # at least so many columns in which the hidden states are not zero, and as many in which the weight is not
_MULTIPLE = 32
"""Widths are a multiple of it, as those of models. Of others oneDNN's bf16 product, on CPUs with AMX, reads past the
end of a row and takes that times zero: a NaN in the next row gets into this one (uxlfoundation/oneDNN#5717)."""

_POWERS = (1.0, -2.0, 2.0, -1.0, 4.0)


@dataclass(frozen=True, eq=False)
class Linear:
    """The factors of one case's logits, in their dtype.

    ``hidden`` [B, S, H], ``weight`` [V, H] and ``bias`` [V]. ``by_hidden`` says that the hidden states carry the
    logits; ``columns`` [V or rows] int64 are those in which they are carried, and ``scales`` float64 the powers of two
    that the other one holds there.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    by_hidden: bool
    columns: Tensor
    scales: Tensor

    def leaf(self, name: str) -> Tensor:
        return {HIDDEN: self.hidden, WEIGHT: self.weight, BIAS: self.bias}[name]


def no_linear(spec: LossSpec) -> str | None:
    """What keeps a spec's logits from being the product of hidden states and one weight, or None."""
    if spec.logits != ("logits",):
        return f"it reads {', '.join(spec.logits)}"
    if any(term.heads in (Heads.CODEBOOKS, Heads.AHEAD) for term in spec.terms):
        return "it has a head a codebook"
    if spec.layout_of("logits") not in ("b s v", "(b s) v"):
        return f"its logits lie as {spec.layout_of('logits')}"
    return None


@lru_cache(maxsize=8)
def factor(case: Case, biased: bool) -> Linear:
    """Factors whose product, with a bias if it is to be ``biased``, is the logits of ``case`` exactly.

    A class has a bias other than 0 where all its logits can do without it and lose no bit.
    """
    logits = case.batch.tensor("logits")
    rows = logits.flatten(0, -2).double()
    count, classes = rows.shape
    by_hidden = classes <= _WIDE
    carriers = classes if by_hidden else count
    width = -(-(carriers + 2 * _IDLE) // _MULTIPLE) * _MULTIPLE
    seed = case.recipe.seed
    powers = torch.tensor(_POWERS, dtype=torch.float64)
    scales = powers[_ints(seed, 30, carriers) % len(_POWERS)]
    order = torch.argsort(_ints(seed, 31, width), stable=True)  # where each column goes
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
        unknown = rows.isnan().any(-1)  # a column of NaN in the weight would be in every row
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


def _idle(case: Case, columns: int) -> Tensor:
    """Hidden states [rows, ``columns``] that meet no weight. The batch's rows are alike, but in the loud column."""
    batch, length, _ = case.pairing.shapes["logits"]
    idle = _small(case.recipe.seed, 34, (1, length, columns)).expand(batch, length, columns).clone()
    if case.pairing.pairs and case.recipe.stride is not Stride.EXPANDED:
        # Of this class, the gradient falls in the rows where it is the target and rises in the others.
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
    """The gradients of the leaves, float64, that ``gradient`` [B, S, V] at the logits comes to."""
    flat, hidden = gradient.flatten(0, -2), linear.hidden.flatten(0, -2).double()
    return {
        HIDDEN: (flat @ linear.weight.double()).reshape(linear.hidden.shape),
        WEIGHT: flat.T @ hidden,
        BIAS: flat.sum(0),
    }


def read_logits(linear: Linear, leaves: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """The gradient at the logits, of ``shape`` [B, S, V], float64, from that of the leaf which carries them."""
    if linear.by_hidden:
        return (leaves[HIDDEN][..., linear.columns] / linear.scales).reshape(shape)
    return (leaves[WEIGHT][:, linear.columns] / linear.scales).T.reshape(shape)
