"""Whether an answer to a case is right, for anyone's own property tests."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from shiftproof.reference.spec import Compute

from ..cases.build import Case
from .compare import different_gradients, same_value
from .derive import derive_bounds


@torch.no_grad()  # a test may have the batch require a gradient
def disagreement(
    case: Case,
    loss: Tensor | float,
    gradients: Mapping[str, Tensor] | None = None,
    compute: Compute | str | None = None,
) -> str | None:
    """Say in one sentence how an answer to ``case`` is wrong by more than rounding, or return None.

    Args:
        case: drawn from :func:`batches`.
        loss: a scalar.
        gradients: by the logits' name, each in the shape of the batch's logits. None: only the loss is compared.
        compute: ``strict`` if the loss computes in float32 at least, or ``native`` if it computes in the dtype of its
            logits. None means what the spec says.

    Raises:
        ValueError: the loss is not a scalar, or ``gradients`` lacks logits of the spec.
    """
    value = torch.as_tensor(loss).detach()
    if value.numel() != 1:
        raise ValueError(f"the loss has shape {list(value.shape)}; expected a scalar")
    right = case.oracle
    if right.value is None:
        raise ValueError(f"the spec {case.spec.name} leaves the loss of this case undefined; filter such cases out")
    if gradients is not None and (missing := set(right.gradients) - set(gradients)):
        raise ValueError(f"gradients has no {sorted(missing)}; it has {sorted(gradients)}")
    bounds = derive_bounds(case, Compute(compute or case.spec.compute), value.dtype)
    if not same_value(float(value), right.value, bounds.value):
        return f"the loss is {float(value):.9g}; expected {right.value:.9g} ± {bounds.value:.2g}"
    if gradients is None:
        return None
    found = {name: gradients[name].detach().double() for name in right.gradients}
    return different_gradients(found, right.gradients, bounds.gradients)
