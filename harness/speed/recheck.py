"""Ask the same question as `shiftproof check` does: the judge compares values and takes no times."""

from __future__ import annotations

from torch import Tensor

from shiftproof.reference.spec import Compute

from ..candidates.arguments import TO_LOSSES
from ..candidates.declaration import Candidate
from ..isolation.client import Worker
from ..isolation.settings import WorkerSettings
from ..judge.loading import bind_target
from ..worker.exchange import Call, Returned
from ..worker.fresh import sketch
from .answers import Answer, Tolerance, difference, expected
from .bench import Terms
from .inputs import make_inputs
from .shapes import recipe_of

_SKETCH = 1


def wrong_untimed(candidate: Candidate, terms: Terms, seed: int) -> str | None:
    """Describe how the candidate's answer to an ordinary call on the inputs of ``seed`` is wrong, or return None.

    Raises:
        LoadFailure: if the candidate cannot be loaded.
    """
    inputs = make_inputs(terms.spec, recipe_of(terms.spec, terms.shape, terms.dtype, seed))
    settings = WorkerSettings(
        python=candidate.python,
        cwd=candidate.cwd,
        device=terms.device,
        call_deadline=terms.deadline,
        memory_limit=None,
    )
    with Worker(candidate.target, settings) as worker:
        binding = bind_target(worker.describe(), candidate.rename, TO_LOSSES)
        tensors, scalars, _ = inputs.for_candidate(binding)
        logits: dict[str, Tensor] = {binding.names[name]: inputs.logits(name) for name in terms.spec.logits}
        wanted = tuple(logits) if candidate.gradient else ()
        outcome = worker.call(Call({**tensors, **logits}, scalars, gradients=wanted))
    if not isinstance(outcome, Returned) or outcome.value.numel() != 1:
        return outcome.describe()
    sketches = {}
    for name in terms.spec.logits if candidate.gradient else ():
        gradient = outcome.gradients[binding.names[name]]
        if gradient is not None:
            rows = gradient.reshape(-1, gradient.shape[-1]).float()
            sketches[name] = rows @ sketch(_SKETCH, rows.shape[-1], rows.device)
    right = expected(inputs, _SKETCH, terms.device, gradient=candidate.gradient)
    tolerance = Tolerance.of(terms.dtype, Compute(candidate.precision or terms.spec.compute))
    return difference(Answer(float(outcome.value), sketches, {}), right, tolerance)
