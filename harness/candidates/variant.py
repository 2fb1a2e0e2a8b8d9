"""Variants: other ways to call a candidate on a case than the plain one, each with its own right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import first_logit

from ..cases.build import Case


@dataclass(frozen=True, eq=False)
class Asked:
    """One call: a case, the incoming gradient, and the number and mode of backward passes.

    Attributes:
        grad_output: the incoming gradient: one number, or float32 in the shape of the output.
        grad_mode: one of ``GRAD_MODES``.
    """

    case: Case
    grad_output: float | Tensor = 1.0
    grad_mode: str = "enabled"
    n_backward: int = 1

    @property
    def records(self) -> bool:
        return self.grad_mode == "enabled"


@dataclass(frozen=True)
class Variant:
    """One way to call a candidate on a case.

    A law declares one with the fields in which it differs from the plain call. :meth:`Trial.observe` makes the call.

    Attributes:
        name: unique among the variants of one kind of candidate.
        change: makes another batch of the case's, or None to pass the case's own. The right answer is computed anew.
        grad_output: the incoming gradient for a case: one number, or float32 in the shape of the output.
        grad_mode: one of ``GRAD_MODES``.
        n_backward: how many times backward runs from the one loss. The gradients add up.
        refusable: whether an exception is as good as the right answer.
        words: begins a message on a case, or None. Example: "with an incoming gradient of 3".
    """

    name: str
    change: Callable[[Case], Batch] | None = None
    grad_output: Callable[[Case], float | Tensor] = lambda case: 1.0
    grad_mode: str = "enabled"
    n_backward: int = 1
    refusable: bool = False
    words: Callable[[Case], str] | None = None

    def ask(self, case: Case) -> Asked:
        """The call of this variant on a case whose batch is changed already."""
        return Asked(case, self.grad_output(case), self.grad_mode, self.n_backward)


PLAIN = Variant("plain")


def weighted_by(grad_output: Tensor, case: Case) -> Case:
    """Return a case whose right gradient has each pair weighted by its own incoming gradient.

    ``grad_output`` has the shape of the output.
    """
    first = first_logit(case.spec.terms[0], case.batch)
    pairing = replace(
        case.pairing,
        pairs=tuple(
            pair._replace(weight=pair.weight * float(grad_output[pair.logit[0], pair.logit[1] - first]))
            for pair in case.pairing.pairs
        ),
    )
    return replace(case, pairing=pairing, oracle=evaluate(pairing, case.batch))
