"""Variants: other ways to call a candidate on a case than the plain one, each with its own right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import first_logit
from shiftproof.reference.spec import LossSpec

from ..cases.build import Case


@dataclass(frozen=True)
class Manner:
    """How a candidate is called on a case, and the state that it finds.

    Attributes:
        grad_mode: one of ``GRAD_MODES``.
        n_backward: how many times backward runs from the one loss. The gradients add up.
        leaves: our names of the arguments whose gradients are wanted. None: every argument that can have one.
        layout: the memory layout of all other tensors: labels, masks and weights. "" for the plain one.
        autocast: the dtype of ``torch.autocast`` around the call, or "" for none.
        backend: the backend of ``torch.compile``, or "" to call the candidate as it is.
        train_mode: whether a module is in train mode. None: as it is.
        count: "tensor" if num_items_in_batch is an int64 tensor of one number, as trainers gather it; "keyword" if it
            is passed to a candidate that takes it only in ``**kwargs``. "" for the plain way.
        mask: the dtype of an attention mask for a model that can take one, or "" to pass none.
        order: the order in which another loss is computed and goes backward: one of ``ORDERS``. "" for no other loss.
    """

    grad_mode: str = "enabled"
    n_backward: int = 1
    leaves: tuple[str, ...] | None = None
    layout: str = ""
    autocast: str = ""
    backend: str = ""
    train_mode: bool | None = None
    count: str = ""
    mask: str = ""
    order: str = ""

    @property
    def records(self) -> bool:
        """Whether anything records a gradient."""
        return self.grad_mode == "enabled" and self.leaves != ()


ORDINARY = Manner()


@dataclass(frozen=True, eq=False)
class Asked:
    """One call: a case, the incoming gradient, and the manner of the call.

    Attributes:
        grad_output: the incoming gradient: one number, or float32 in the shape of the output.
        other: a case of the same shape on which the candidate is called before this call's backward, or None.
    """

    case: Case
    grad_output: float | Tensor = 1.0
    manner: Manner = ORDINARY
    other: Case | None = None

    @property
    def records(self) -> bool:
        return self.manner.records

    @property
    def n_backward(self) -> int:
        return self.manner.n_backward


@dataclass(frozen=True)
class Variant:
    """One way to call a candidate on a case.

    A law declares one with the fields in which it differs from the plain call. :meth:`Trial.observe` makes the call.

    Attributes:
        name: unique among the variants of one kind of candidate.
        change: makes another batch of the case's, or None to pass the case's own. The right answer is computed anew.
        spec: makes another spec of the case's, or None to keep it.
        grad_output: the incoming gradient for a case: one number, or float32 in the shape of the output.
        manner: how a case is called.
        wanted: whether a trial is asked in this way at all.
        refusable: whether an exception is as good as the right answer.
        words: begins a message on a case, or None. Example: "with an incoming gradient of 3".
    """

    name: str
    change: Callable[[Case], Batch] | None = None
    spec: Callable[[Case], LossSpec] | None = None
    grad_output: Callable[[Case], float | Tensor] = lambda case: 1.0
    manner: Callable[[Case], Manner] = lambda case: ORDINARY
    wanted: Callable[[Any], bool] = lambda trial: True
    refusable: bool = False
    words: Callable[[Case], str] | None = None


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
