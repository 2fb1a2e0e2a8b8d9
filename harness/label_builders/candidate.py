"""One label builder on trial: it gets a case and returns labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from shiftproof.reference.builders import BuilderBatch, BuilderSpec, answer

from ..candidates.arguments import Binding, hand_over
from ..candidates.declaration import Candidate
from ..candidates.loss import Caller, Problem, problem_of
from ..cases.cells import CellCounts
from ..cases.space import Space
from ..results import Verdict
from ..worker.exchange import Call, Returned
from ..worker.protocol import Scalar
from .cases import BuilderCase, BuilderRecipe, build_builder_case, space
from .cells import builder_cells
from .generators import BUILDER_RECIPES


@dataclass(frozen=True, eq=False)
class Built:
    """What a builder did with one case.

    Attributes:
        problem: why there is no output. If it is set, all fields below are None.
        returned: what the builder returned, in its own shape and dtype.
        mutated: shiftproof's names of the arguments that the builder wrote to.
    """

    case: BuilderCase
    problem: Problem | None
    returned: Tensor | None = None
    mutated: tuple[str, ...] = ()


class BuilderTrial:
    """A builder, its spec and a worker that runs it. Laws ask it what the builder returns."""

    generators = BUILDER_RECIPES
    dtypes = ("int64",)
    share = 1.0
    most_places = 5000  # a right answer is made place by place
    values_only = ""
    scope: tuple[str, ...] = ()

    def __init__(
        self, candidate: Candidate, spec: BuilderSpec, binding: Binding, caller: Caller, *, device: str
    ) -> None:
        self.candidate = candidate
        self.spec = spec
        self.binding = binding
        self.caller = caller
        self.device = device
        self.sizes = candidate.sizes
        self.whole_space: Space = space(spec, frozenset(binding.names))
        self.space: Space = self.sizes.restrict(self.whole_space)
        self.failed: set[str] = set()  # ids of the laws that failed so far
        self.unjudged: dict[str, str] = {}  # ids of the laws that could not be asked, and why
        self.ahead: BuilderRecipe | None = None
        self.regions: tuple[BuilderRecipe, ...] = ()
        self.near_regions: tuple[BuilderRecipe, ...] = ()
        self.cell_counts = CellCounts(builder_cells(spec))
        self.calls = 0
        self.seconds_in_oracle = 0.0
        self._seen: dict[BuilderRecipe, Built] = {}

    def case(self, recipe: BuilderRecipe) -> BuilderCase:
        """Return the case of a recipe under this trial's spec."""
        started = time.perf_counter()
        case = build_builder_case(self.spec, recipe)
        self.seconds_in_oracle += time.perf_counter() - started
        return case

    def affords(self, recipe: BuilderRecipe) -> bool:
        """Whether a case is small enough to be called again and again. A builder's are."""
        return True

    def takes_long(self, recipe: BuilderRecipe) -> bool:
        """Whether a call would take seconds. A builder's sizes are limited, so that none does."""
        return False

    def skip_reason(self, law: str) -> str | None:
        """Return why a law cannot be asked. All laws can be asked."""
        return None

    def fit(self, recipe: BuilderRecipe) -> BuilderRecipe:
        """Return the recipe with sizes that the builder accepts."""
        return self.sizes.fit(recipe)

    def variation(self, case: BuilderCase, change: Callable[[BuilderBatch], BuilderBatch]) -> BuilderCase:
        """Return a case with a batch that was changed by hand, and its right answer."""
        started = time.perf_counter()
        batch = change(case.batch)
        changed = replace(case, batch=batch, expected=answer(case.spec.build, batch))
        self.seconds_in_oracle += time.perf_counter() - started
        return changed

    def observe_cached(self, recipe: BuilderRecipe) -> Built:
        """Return what the builder makes of a recipe. It is called once, and the result is cached."""
        if recipe not in self._seen:
            built = self.observe(self.case(recipe))
            if built.problem is not None and built.problem.verdict is Verdict.UNJUDGED:
                return built  # not cached: the next process may answer
            self._seen[recipe] = built
        return self._seen[recipe]

    def observe(self, case: BuilderCase) -> Built:
        """Call the builder on a case. The result is never cached."""

        def give(name: str) -> Tensor | Scalar:
            value: Tensor | Scalar | tuple[int, ...] = getattr(case.batch, name)
            return list(value) if isinstance(value, tuple) else value

        tensors, scalars = hand_over(self.binding, give)
        self.calls += 1
        outcome = self.caller.call(Call(tensors, scalars))
        if not isinstance(outcome, Returned):
            return Built(case, problem_of(outcome))
        back = {theirs: ours for ours, theirs in self.binding.names.items()}
        return Built(case, None, outcome.value, tuple(back.get(name, name) for name in outcome.mutated))
