"""A mutant on trial without a worker: its answer is computed from the case."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from shiftproof.reference.spec import LOGITS, LossSpec

from ..bounds.derive import Bounds, derive_bounds
from ..candidates.arguments import ARGUMENTS, Binding
from ..candidates.declaration import Candidate
from ..candidates.loss import Observation, Trial
from ..candidates.variant import Asked
from ..cases.build import Case, build_case
from ..cases.recipe import Recipe
from ..judge.pool import Pool
from ..judge.profile import Profile
from ..laws import LAWS
from ..mutants.behaviour import Act, answer, at_leaves
from ..results import Level
from ..worker.exchange import Call, Outcome

_BINDING = Binding({name: name for name in ARGUMENTS}, frozenset())


_LINEAR = Binding({name: name for name in ARGUMENTS if name not in LOGITS}, frozenset())


_KEPT = 100_000  # a case with at most this many elements of logits is kept, with everything that belongs to it


class Bench:
    """Everything that the mutants of one spec share: the cases, their bounds, and the recipes of each law."""

    def __init__(
        self, spec: LossSpec, dtype: str, profile: Profile, drawn_only: bool = False, linear: bool = False
    ) -> None:
        self.spec = spec
        self.drawn_only = drawn_only
        self.linear = linear
        self.dtype = dtype
        self.profile = profile
        self.cases: dict[Recipe, Case] = {}
        self._bounds: dict[tuple[int, torch.dtype], Bounds] = {}
        self._pools: dict[int, Pool[Trial, Recipe]] = {}
        self.right = MutantTrial(self, "right", answer)
        self.laws = [law for law in LAWS.values() if law.level is Level.MUST and law.skip_reason(self.right) is None]

    def case(self, recipe: Recipe) -> Case:
        case = self.cases.get(recipe)
        if case is None:
            case = build_case(self.spec, recipe)
            if is_small(case):
                self.cases[recipe] = case
        return case

    def bounds(self, trial: Trial, observation: Observation) -> Bounds:
        case = observation.case
        if self.cases.get(case.recipe) is not case:
            return derive_bounds(case, trial.compute, observation.dtype)
        key = (id(case), observation.dtype)
        if key not in self._bounds:
            self._bounds[key] = derive_bounds(case, trial.compute, observation.dtype)
        return self._bounds[key]

    def pool(self, seed: int) -> Pool[Trial, Recipe]:
        """The cases of all laws under one seed."""
        if seed not in self._pools:
            self._pools[seed] = Pool(LAWS, self.right, self.profile, seed, self.drawn_only)
        return self._pools[seed]


def is_small(case: Case) -> bool:
    return sum(map(math.prod, case.pairing.shapes.values())) <= _KEPT


class _Nobody:
    """Stands in for a worker. A mutant's answers are computed here."""

    seconds_in_candidate = 0.0

    def call(self, call: Call, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
        raise AssertionError("a mutant on trial has no worker")


class MutantTrial(Trial):
    """A trial whose candidate is a mutant. The mutant gets every argument that exists."""

    def __init__(self, bench: Bench, name: str, act: Act) -> None:
        candidate = Candidate(name=name, call=f"mutant:{name}", spec=bench.spec.name)
        binding = _LINEAR if bench.linear else _BINDING
        super().__init__(candidate, bench.spec, binding, _Nobody(), dtypes=(bench.dtype,), device="cpu")
        self.bench = bench
        self.act = act

    def case(self, recipe: Recipe) -> Case:
        return self.bench.case(recipe)

    def answer(self, asked: Asked) -> Observation:
        self.calls += 1
        seen = self.act(asked)
        return at_leaves(seen, self.linear(asked.case)) if self.is_linear else seen

    def bounds(self, observation: Observation) -> Bounds:
        return self.bench.bounds(self, observation)
