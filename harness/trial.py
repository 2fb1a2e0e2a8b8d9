"""One candidate on trial: a case goes in, what came back comes out in the reference's terms."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.spec import Compute, LossSpec, Reduction, ShiftedBy

from .arguments import Binding, lay_back, linear_of, values_for
from .candidate import Candidate
from .cases import Case, build_case
from .cells import Tally, loss_cells
from .compare import Bounds, derive_bounds
from .head import Head
from .linear import LEAVES, Linear, read_logits
from .recipe import Recipe
from .source import LOSS_RECIPES
from .strategies import Space, space
from .verdict import Verdict
from .worker.exchange import Call, Died, NotAnswered, Outcome, OutOfMemory, Raised, Returned, TimedOut, Unusable, Window
from .worker.target import LoadFailure


class Caller(Protocol):
    """What runs a candidate: the worker in another process, or the one in this process."""

    @property
    def seconds_in_candidate(self) -> float: ...

    def call(self, call: Call) -> Outcome: ...


@dataclass(frozen=True)
class Problem:
    """Why an outcome is no answer. ``kind`` stays the same while a case shrinks, ``message`` need not."""

    verdict: Verdict
    kind: str
    message: str


@dataclass(frozen=True, eq=False)
class Observation:
    """What a candidate did with one case.

    Attributes:
        problem: why there is no loss to look at; then all below is None.
        value: the loss; under reduction none, the sum of what was returned.
        returned: the loss as it was returned, float64, any shape; ``dtype`` is the dtype that it had.
        gradients: float64, at each of the spec's logits, in the batch's shapes; 0 at those that none flowed to, and
            None where none flowed to any.
        leaves: float64, at the hidden states, the weight and the bias of a candidate that is given these, 0 and None as
            for ``gradients``, which are then read back from them.
        mutated: our names of the arguments that were written to.
        head: what makes a model's logits, and the gradients there, where it was asked for and found.
        off: float64 [B, L], by how much the logits that a model's loss is made of may differ from those that it
            returned, where it makes its own.
        window: what a trainer did with its model.
    """

    case: Case
    problem: Problem | None
    value: float | None = None
    returned: Tensor | None = None
    dtype: torch.dtype = torch.float32
    gradients: Mapping[str, Tensor] | None = None
    leaves: Mapping[str, Tensor] | None = None
    mutated: tuple[str, ...] = ()
    head: Head | None = None
    off: Tensor | None = None
    window: Window | None = None


class Trial:
    """A candidate, its spec and a worker that runs it; laws ask it for observations.

    Attributes:
        share: of each law's budget, what is asked of this kind of candidate.
        values_only: why the gradient of a candidate that is declared to have one cannot be read, or "".
        scope: what this kind of candidate leaves out that others are judged by, in words.
        sizes: the sizes that the candidate takes; ``space`` has no others, ``whole_space`` has all.
    """

    source = LOSS_RECIPES
    makes_logits = False  # of tokens: then no case can choose them
    share = 1.0
    values_only = ""
    """Why the gradient cannot be read, in one sentence, where no law could judge it; then no verdict is CONFORMS."""
    scope: tuple[str, ...] = ()

    def __init__(
        self, candidate: Candidate, spec: LossSpec, binding: Binding, caller: Caller, *, dtype: str, device: str
    ) -> None:
        self.candidate = candidate
        self.spec = spec
        self.binding = binding
        self.caller = caller
        self.dtype = dtype
        self.device = device
        self.compute = Compute(candidate.precision or spec.compute)
        self.sizes = candidate.sizes
        self.whole_space: Space = space(spec, frozenset(binding.names), dtype)
        self.space: Space = self.sizes.narrow(self.whole_space)
        self.failed: set[str] = set()  # ids of the laws that failed so far
        self.unjudged: dict[str, str] = {}  # ids of the laws that could not be asked, and why
        self.tally = Tally(loss_cells(spec))
        self.calls = 0
        self.seconds_in_oracle = 0.0
        self._seen: dict[tuple[Recipe, float, str], Observation] = {}

    def case(self, recipe: Recipe) -> Case:
        """The case of a recipe under this trial's spec."""
        started = time.perf_counter()
        case = build_case(self.spec, recipe)
        self.seconds_in_oracle += time.perf_counter() - started
        return case

    @property
    def shifts_inputs(self) -> bool:
        """Whether the labels, shifted right, are a decoder's inputs."""
        return self.spec.terms[0].shifted_by is ShiftedBy.INPUTS

    def excuse(self, law: str) -> str | None:
        """Why a law, by its id, cannot be asked of this kind of candidate, or None."""
        return None

    def fit(self, recipe: Recipe) -> Recipe:
        """The recipe with what is the same in all cases of this trial, in sizes that the candidate takes."""
        return self.sizes.fit(recipe)

    def scored(self, recipe: Recipe) -> Case:
        """The case of a recipe with the logits that the candidate scores on it."""
        return self.case(recipe)

    def variation(self, case: Case, change: Callable[[Batch], Batch]) -> Case:
        """A case whose batch was changed by hand, with its right answer."""
        started = time.perf_counter()
        batch = change(case.batch)
        pairing = build_pairing(case.spec, batch)
        changed = replace(case, batch=batch, pairing=pairing, oracle=evaluate(pairing, batch))
        self.seconds_in_oracle += time.perf_counter() - started
        return changed

    def look(self, recipe: Recipe, upstream: float = 1.0, grad_mode: str = "enabled") -> Observation:
        """What the candidate does with a recipe; asked once, remembered while small."""
        key = (recipe, upstream, grad_mode)
        if key not in self._seen:
            observation = self.observe(self.case(recipe), upstream, grad_mode)
            if observation.problem is not None and observation.problem.verdict is Verdict.UNJUDGED:
                return observation  # the next process may answer
            if sum(map(math.prod, observation.case.pairing.shapes.values())) > 50_000:
                return observation
            if len(self._seen) > 2000:
                self._seen.clear()
            self._seen[key] = observation
        return self._seen[key]

    def observe(
        self, case: Case, upstream: float | Tensor = 1.0, grad_mode: str = "enabled", backwards: int = 1
    ) -> Observation:
        """Call the candidate on a case and read what it did, going ``backwards`` so many times. Never remembered.

        A case of sizes that it is declared not to take is not handed over.
        """
        if outside := self._outside(case):
            return Observation(case, outside)
        tensors, scalars = values_for(case, self.binding)
        names = LEAVES if self.is_linear else case.spec.logits
        differentiated = {name: self.binding.names[name] for name in names if self.binding.takes(name)}
        wanted = self.candidate.gradient and grad_mode == "enabled"
        call = Call(
            tensors=tensors,
            scalars=scalars,
            layouts={theirs: str(case.recipe.stride) for theirs in differentiated.values()},
            gradients=tuple(differentiated.values()) if wanted else (),
            upstream=upstream,
            grad_mode=grad_mode,
            backwards=backwards,
        )
        self.calls += 1
        return self._read(case, self.caller.call(call), differentiated)

    def _outside(self, case: Case) -> Problem | None:
        """Why the candidate is not declared to take a case of these sizes, or None."""
        if not self.sizes:
            return None
        labels = case.batch.tensor(case.spec.labels[0])
        sizes = {"rows": labels.shape[0], "length": labels.shape[1], "classes": case.recipe.classes}
        if self.sizes.admits(sizes):
            return None
        return Problem(Verdict.SKIP, "outside", f"not called outside the sizes that it requires: {self.sizes}")

    @property
    def is_linear(self) -> bool:
        """Whether the candidate is given hidden states and a weight in place of logits."""
        return self.binding.is_linear

    def linear(self, case: Case) -> Linear:
        """The factors that a case's logits are handed over as."""
        return linear_of(case, self.binding)

    def bounds(self, observation: Observation) -> Bounds:
        """How far a right candidate may be from the oracle here."""
        return derive_bounds(observation.case, self.compute, observation.dtype)

    def _read(self, case: Case, outcome: Outcome, differentiated: Mapping[str, str]) -> Observation:
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        back = {theirs: ours for ours, theirs in self.binding.names.items()}
        wrong = _wrong_shape(case, outcome)
        if wrong is not None:
            return Observation(case, wrong)
        given = {name: outcome.gradients.get(theirs) for name, theirs in differentiated.items()}
        gradients = leaves = None
        if any(gradient is not None for gradient in given.values()):
            if self.is_linear:
                linear = self.linear(case)
                leaves = {name: _at_leaf(linear, name, gradient) for name, gradient in given.items()}
                gradients = {"logits": read_logits(linear, leaves, case.pairing.shapes["logits"])}
            else:
                gradients = {name: _gradient(case, name, given.get(name)) for name in case.spec.logits}
        returned = outcome.value.double()
        return Observation(
            case=case,
            problem=None,
            value=float(returned.sum()),
            returned=returned,
            dtype=outcome.value.dtype if outcome.kind == "tensor" else torch.float64,
            gradients=gradients,
            leaves=leaves,
            mutated=tuple(back.get(name, name) for name in outcome.mutated),
        )


def _gradient(case: Case, name: str, gradient: Tensor | None) -> Tensor:
    shape = case.pairing.shapes[name]
    if gradient is None:
        return torch.zeros(shape, dtype=torch.float64)
    return lay_back(case.spec, name, gradient.double(), shape)


def _at_leaf(linear: Linear, name: str, gradient: Tensor | None) -> Tensor:
    """The gradient at a leaf, which rows that lie flat do not change the order of."""
    leaf = linear.leaf(name)
    return torch.zeros(leaf.shape, dtype=torch.float64) if gradient is None else gradient.double().reshape(leaf.shape)


def problem_of(outcome: Outcome) -> Problem:
    """Why an outcome that is no :class:`Returned` gives nothing to look at."""
    message = outcome.describe()
    match outcome:
        case NotAnswered():
            return Problem(Verdict.UNJUDGED, f"not answered by the {outcome.side}", message)
        case TimedOut():
            return Problem(Verdict.TIMEOUT, "no answer", message)
        case Died():
            return Problem(Verdict.CRASH, f"died {outcome.signal or outcome.exit_code}", message)
        case OutOfMemory():
            return Problem(Verdict.CRASH, "out of memory", message)
        case Raised(type="NotImplementedError"):
            return Problem(Verdict.REFUSED, "refused", message)
        case Raised():
            return Problem(Verdict.ERROR, f"raised {outcome.type}", message)
        case Unusable():
            return Problem(Verdict.ERROR, "unusable", message)
    raise TypeError(f"an outcome that nobody knows: {outcome!r}")


def answered(outcome: Outcome, name: str) -> Outcome:
    """The outcome of the call by which a trial learns what its candidate is like.

    Raises:
        LoadFailure: no answer came that could be judged: then nothing was learnt, and no law can be asked.
    """
    match outcome:
        case NotAnswered():
            raise LoadFailure("broken", f"{name} {outcome.describe()}")
        case TimedOut():
            raise LoadFailure("timed out", f"the first call of {name} {outcome.describe()}")
    return outcome


def _wrong_shape(case: Case, outcome: Returned) -> Problem | None:
    """Whether what came back is a loss at all: floating, and of the shape that the spec promises."""
    dtype = str(outcome.value.dtype).removeprefix("torch.")
    shape = list(outcome.value.shape)
    if not outcome.value.is_floating_point():
        return Problem(Verdict.ERROR, "not floating", f"returned {dtype} {shape}; expected a floating-point loss")
    expected = case.pairing.output_shape
    if case.spec.terms[0].reduction is Reduction.NONE:
        size = 1
        for extent in expected:
            size *= extent
        if outcome.value.numel() != size:
            return Problem(
                Verdict.ERROR,
                "wrong shape",
                f"returned {dtype} {shape}; expected one loss a label position, {list(expected)}",
            )
    elif outcome.value.numel() != 1:
        return Problem(
            Verdict.ERROR,
            "wrong shape",
            f"returned {dtype} {shape}; expected a scalar. If it is meant to return one loss a token, "
            "judge it under a spec with reduction none, such as per_token",
        )
    return None
