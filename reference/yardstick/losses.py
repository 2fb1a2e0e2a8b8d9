"""The yardsticks as functions of the reference's own arguments, differentiable by autograd.

The forward computes value and gradient in one pass, so that logits are read once and their softmax is not stored. The
backward multiplies that gradient in place by the incoming gradient, and returns it. In a second backward, or if the
gradient depends on the incoming gradient, it is computed again from the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..batch import Batch, BatchError, show
from ..pairing import first_logit, output_shape
from ..spec import Heads, LossSpec, LossTerm, Reduction
from .linear import score_linear
from .passes import scale_rows, score_rows
from .rows import Rows, rows_of

Gradients = tuple[Tensor | None, ...]


class Unsupported(ValueError):
    """There is no such yardstick for the spec. The message says why."""


def yardstick(spec: LossSpec) -> Callable[..., Tensor]:
    """Return the loss of ``spec``, a function of the tensors of a :class:`~shiftproof.reference.batch.Batch`, by name.

    Arrays have the batch's layouts, not ``spec.layouts``. The function returns the loss, [] or one number per label
    position, in float32, or in the logits' dtype if that is wider. It supports any incoming gradient, and does not
    write to its inputs. Contiguous logits are read in place. Others are copied first.

    The function raises BatchError for tensors that do not fit together, and IndexError for labels that are not classes.
    On CUDA, such labels make the loss NaN, because a check would wait for the device.
    """

    def loss(**arguments: Any) -> Tensor:
        batch = Batch(**arguments)
        losses = []
        for term in spec.terms:
            logits = batch.tensor(term.logits)
            work = _Logits(term, rows_of(term, batch), batch.class_weights, logits.dtype)
            losses.append(_answer(spec, batch, work, (logits,)))
        return sum(losses[1:], start=losses[0])

    return loss


def linear_yardstick(spec: LossSpec) -> Callable[..., Tensor]:
    """Return the loss of ``spec`` for a linear layer.

    It takes ``hidden_states`` [B, L, H], ``lm_head_weight`` [V, H] and ``lm_head_bias`` [V] or None in place of
    ``logits``, which never exist all at once. Its other arguments are those of the batch.

    Raises:
        Unsupported: the spec scores anything other than ``logits`` [B, L, V], or has several terms.
    """
    heads = [term.heads for term in spec.terms]
    if spec.logits != ("logits",) or not set(heads) <= {Heads.ONE, Heads.FIRST} or len(spec.terms) > 1:
        raise Unsupported(
            f"spec {spec.name!r} scores {', '.join(spec.logits)} of heads {', '.join(heads)}; a linear layer gives one "
            "array of logits [B, L, V]: ask for one with one term over one head, or use yardstick on logits"
        )

    def loss(
        *, hidden_states: Tensor, lm_head_weight: Tensor, lm_head_bias: Tensor | None = None, **arguments: Any
    ) -> Tensor:
        if hidden_states.dim() != 3 or lm_head_weight.dim() != 2 or hidden_states.shape[2] != lm_head_weight.shape[1]:
            raise BatchError(
                f"hidden_states are {show(hidden_states)} and lm_head_weight is {show(lm_head_weight)}; expected "
                "[B, L, H] and [V, H]"
            )
        # Only the shape of the logits matters here, and an expanded zero takes no memory.
        shape = (*hidden_states.shape[:2], len(lm_head_weight))
        batch = Batch(logits=hidden_states.new_zeros(()).expand(shape), **arguments)
        work = _Linear(spec.terms[0], rows_of(spec.terms[0], batch), batch.class_weights, hidden_states.dtype)
        return _answer(spec, batch, work, (hidden_states, lm_head_weight, lm_head_bias))

    return loss


def _answer(spec: LossSpec, batch: Batch, work: _Work, leaves: tuple[Tensor | None, ...]) -> Tensor:
    """Compute the loss of one term, in the shape of the spec."""
    term = work.term
    apply: Callable[..., Tensor] = _Loss.apply
    loss = apply(work, torch.is_grad_enabled(), *leaves)
    if term.reduction is not Reduction.NONE:
        return loss
    kept = output_shape(spec, batch)
    return loss.view(batch.tensor(term.logits).shape[:2]).narrow(1, first_logit(term, batch), kept[1])


class _Work(Protocol):
    """The computation of one term from its inputs, without autograd."""

    @property
    def term(self) -> LossTerm: ...

    @property
    def rows(self) -> Rows: ...

    @property
    def early(self) -> bool:
        """Whether the gradient can be computed before the incoming gradient is known."""

    def run(self, leaves: Sequence[Any], weights: Tensor, wanted: Sequence[bool]) -> tuple[Tensor, Gradients]:
        """Compute ℓ [n] of every row, and the gradients of Σ weights · ℓ at the leaves that are wanted."""

    def scale(self, gradients: Gradients, grad_output: Tensor) -> None:
        """Multiply gradients by the incoming gradient, in place."""


@dataclass(frozen=True, eq=False)
class _Logits:
    term: LossTerm
    rows: Rows
    class_weights: Tensor | None
    dtype: torch.dtype

    @property
    def early(self) -> bool:
        # In fp16, a gradient that is not yet multiplied by the trainer's loss scale would underflow.
        return self.dtype is not torch.float16

    def run(self, leaves: Sequence[Any], weights: Tensor, wanted: Sequence[bool]) -> tuple[Tensor, Gradients]:
        (logits,) = leaves
        rows = logits.flatten(0, -2)
        gradient = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) if wanted[0] else None
        scores = score_rows(rows, self.rows.targets, weights, self.term.score, self.class_weights, gradient)
        return scores, (None if gradient is None else gradient.view(logits.shape),)

    def scale(self, gradients: Gradients, grad_output: Tensor) -> None:
        (gradient,) = gradients
        if gradient is not None:
            scale_rows(gradient.flatten(0, -2), self.rows.targets, grad_output)


@dataclass(frozen=True, eq=False)
class _Linear:
    term: LossTerm
    rows: Rows
    class_weights: Tensor | None
    dtype: torch.dtype

    @property
    def early(self) -> bool:
        # An incoming gradient per token enters the sum of the weight's gradient.
        return self.dtype is not torch.float16 and self.term.reduction is not Reduction.NONE

    def run(self, leaves: Sequence[Any], weights: Tensor, wanted: Sequence[bool]) -> tuple[Tensor, Gradients]:
        hidden, weight, bias = leaves
        scores, (at_hidden, *others) = score_linear(
            hidden.flatten(0, -2), weight, bias, self.rows.targets, weights, self.term.score, self.class_weights, wanted
        )
        return scores, (None if at_hidden is None else at_hidden.view(hidden.shape), *others)

    def scale(self, gradients: Gradients, grad_output: Tensor) -> None:
        if grad_output.is_cuda or grad_output.item() != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(grad_output)


class _Loss(torch.autograd.Function):
    """Σ weights · ℓ over the rows of one term, or weights · ℓ of each row under reduction none."""

    @staticmethod
    def forward(ctx: Any, work: _Work, recorded: bool, *leaves: Tensor | None) -> Tensor:
        ctx.work, ctx.wanted = work, ctx.needs_input_grad[2:]
        early = recorded and work.early and any(ctx.wanted)
        wanted = ctx.wanted if early else (False,) * len(leaves)
        scores, gradients = work.run(leaves, work.rows.weights, wanted)
        ctx.gradients = gradients if early else None
        ctx.save_for_backward(*leaves)
        weighed = scores.double() * work.rows.weights
        if work.term.reduction is not Reduction.NONE:
            weighed = weighed.sum() + work.rows.empty
        return weighed.to(scores.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            _, gradients = ctx.work.run(ctx.saved_tensors, ctx.work.rows.weights * grad_output, ctx.wanted)
        else:
            ctx.work.scale(gradients, grad_output)
        return (None, None, *gradients)
