"""Losses that are wrong only in some state of a call: beside another loss, or under a loss scale."""

from __future__ import annotations

from torch import Tensor

from ..candidates.loss import Observation
from ..candidates.variant import Asked
from ..worker.exchange import OTHER_BEFORE
from .behaviour import Behaviour, answer, give, needs_fp32, times, variants


def _gradient_of_the_last_call(asked: Asked) -> Observation:
    """Keep the gradient in one buffer for each shape: the next forward overwrites it."""
    right, other = answer(asked), asked.other
    if other is None or asked.manner.order == OTHER_BEFORE:
        return right
    fits = {name: of for name, of in other.oracle.gradients.items() if of.shape == asked.case.pairing.shapes[name]}
    gradients = {**asked.case.oracle.gradients, **times(fits, _scale(asked))}
    return give(asked, right.returned if asked.case.pairing.output_shape else right.value, gradients)


def _rounded_before_it_is_scaled(asked: Asked) -> Observation:
    """Round the gradient to the dtype of the logits in the forward, and multiply it in the backward."""
    right, case = answer(asked), asked.case
    if isinstance(asked.grad_output, Tensor):
        return right
    rounded = {name: of.to(case.batch.tensor(name).dtype).double() for name, of in case.oracle.gradients.items()}
    return give(asked, right.returned if case.pairing.output_shape else right.value, times(rounded, _scale(asked)))


def _scale(asked: Asked) -> float:
    return 1.0 if isinstance(asked.grad_output, Tensor) else asked.grad_output * asked.n_backward


STATES: tuple[Behaviour, ...] = (
    *variants(
        "shared-workspace",
        [("", _gradient_of_the_last_call)],
        formula="what the backward needs is kept in a buffer that the next call overwrites",
        tells="two losses of the same shape",
        seen="an easy slip: a buffer per shape, taken from a pool in the forward",
    ),
    *variants(
        "scaled-late",
        [("", _rounded_before_it_is_scaled)],
        formula="the gradient is rounded to fp16 before it is multiplied by the incoming one",
        tells="an element below 6e-8, and a loss scale",
        seen="fused losses that store the gradient in the forward",
        needs=needs_fp32,
        dtype="float16",
    ),
)
