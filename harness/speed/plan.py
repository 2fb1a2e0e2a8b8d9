"""From options to speed trials: every candidate on each device, in each dtype and shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shiftproof.reference.spec import LossSpec, Reduction, SpecError

from ..candidates.declaration import Candidate, UsageError
from ..judge.loading import find_spec
from ..judge.plan import candidates_of
from .baseline import KINDS, Contender
from .bench import Terms
from .result import Gate
from .run import SpeedOptions
from .shapes import find_shape, recipe_of, usual_shapes


@dataclass(frozen=True)
class Planned:
    """One planned trial."""

    candidate: Candidate
    rival: Contender
    terms: Terms
    options: SpeedOptions

    def __str__(self) -> str:
        return f"{self.candidate.name} on {self.terms.device}, {self.terms.dtype}, {self.terms.shape}"


def plan(
    candidates: Sequence[Candidate],
    *,
    against: str,
    config: str | None = None,
    shapes: Sequence[str] = (),
    threads: int = 1,
    part: str = "both",
    max_slowdown: float | None = None,
    max_memory: float | None = None,
    deadline: float = 20.0,
    times_only: bool = False,
) -> list[Planned]:
    """Return all trials of a run.

    Raises:
        UsageError: for a misspelt, missing or contradictory option.
    """
    for name, ratio in (("--max-slowdown", max_slowdown), ("--max-memory", max_memory)):
        if ratio is not None and not 0 < ratio < math.inf:
            raise UsageError(f"{name} is {ratio}; expected a ratio above 0, such as 1.10")
    if not 0 < deadline < math.inf:
        raise UsageError(f"--deadline is {deadline}; expected seconds above 0")
    if threads < 1:
        raise UsageError(f"--threads is {threads}; expected a number from 1 up")
    if times_only and max_memory is not None:
        raise UsageError("--times-only leaves out memory, but --max-memory needs it; drop one of them")
    options = SpeedOptions(Gate(max_slowdown, max_memory, part), deadline, not times_only)
    found = []
    for candidate in candidates:
        spec = _spec_of(candidate)
        if not candidate.gradient and part != "forward":
            raise UsageError(f"{candidate.name} has no backward; use --pass forward")
        rival = _rival(against, spec, config)
        for device in candidate.devices:
            for shape in map(find_shape, shapes) if shapes else usual_shapes(spec, device):
                for dtype in candidate.dtypes or ("float32",):
                    recipe_of(spec, shape, dtype, 0)  # only for its checks
                    terms = Terms(spec, shape, dtype, device, threads)
                    found.append(Planned(candidate, rival, terms, options))
    return found


def _spec_of(candidate: Candidate) -> LossSpec:
    if candidate.spec is None:
        raise UsageError(
            f"{candidate.name} has no spec to be timed under; choose one with --spec (see `list profiles`)"
        )
    spec = find_spec(candidate.spec)
    if not isinstance(spec, LossSpec):
        raise UsageError(f"{candidate.spec} is a spec for label builders, but speed times only losses")
    if spec.terms[0].reduction is Reduction.NONE:
        raise UsageError(f"{spec.name} returns one number per label, but speed times only losses that are one number")
    return spec


def _rival(against: str, spec: LossSpec, config: str | None) -> Contender:
    if against not in KINDS:
        (other,) = candidates_of([against], config=config, spec=spec.name)
        return Contender(other.name, candidate=other)
    try:
        KINDS[against](spec)
    except SpecError as error:
        raise UsageError(f"--against {against}: {error}") from None
    return Contender(against, kind=against)
