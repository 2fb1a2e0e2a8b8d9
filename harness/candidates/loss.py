"""One loss on trial: call it on a case, and read its answer in the reference's terms."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.spec import Compute, LossSpec, Reduction, ShiftedBy

from ..bounds.derive import Bounds, derive_bounds
from ..cases.build import Case, build_case
from ..cases.cells import CellCounts, loss_cells
from ..cases.generators import LOSS_RECIPES
from ..cases.kept import Kept, of_pairs
from ..cases.linear import DENSE_HIDDEN_SIZES, DENSE_PLACES, LEAVES, Linear, read_logits, width_of
from ..cases.recipe import Ids, Recipe
from ..cases.sizes import cost, sizes_of
from ..cases.space import Space, space
from ..results import Verdict
from ..worker.exchange import (
    OTHER_AFTER,
    Call,
    Died,
    NotAnswered,
    Outcome,
    OutOfMemory,
    Raised,
    Returned,
    TimedOut,
    Unusable,
    Window,
)
from ..worker.target import LoadFailure
from .arguments import Binding, lay_back, linear_of, values_for
from .declaration import Candidate
from .head import Head
from .variant import PLAIN, Asked, Variant, weighted_by

_MOST_PRODUCTS = 20_000_000  # of a matrix product; a CPU without a unit for bf16 takes a tenth of a second for them
_MOST_PRODUCTS_ONCE = 300_000_000  # in a law that makes one call
_PATIENCE = 0.5  # seconds for a case at a size that nothing in the candidate's code asks for
_COUNT, _MASK = "num_items_in_batch", "attention_mask"
_MOST = 16_000_000  # elements of logits, about 30 bytes each with their gradient and its bounds


class Caller(Protocol):
    """An object that runs a candidate: the worker in another process, or the one in this process."""

    @property
    def seconds_in_candidate(self) -> float: ...

    def call(self, call: Call, meanwhile: Callable[[], None] = ...) -> Outcome:
        """Call the candidate once. Run ``meanwhile`` while it computes."""


@dataclass(frozen=True)
class Problem:
    """The reason why an outcome is not an answer.

    ``kind`` stays the same while a case shrinks. ``message`` may change.
    """

    verdict: Verdict
    kind: str
    message: str


@dataclass(frozen=True, eq=False)
class Observation:
    """The behaviour of a candidate on one case.

    Attributes:
        problem: the reason why there is no loss to judge. Then the fields below keep their defaults.
        value: the loss. Under reduction none, the sum of the returned losses.
        returned: the loss as returned, but in float64, any shape.
        dtype: the dtype in which the loss was returned.
        gradients: float64, at each of the spec's logits, in the batch's shapes. Logits that no gradient reached have
            0. None if no gradient reached any of them.
        leaves: float64, at the hidden states, the weight and the bias of a candidate that takes these. 0 and None as
            for ``gradients``, which are then computed from the leaves.
        mutated: our names of the arguments that the candidate wrote to.
        head: the head of a model, if it was asked for and found.
        off: float64 [B, L]. If the model computes its loss from other logits than it returns, how far the two may
            differ.
        window: the behaviour of a trainer in one window.
        state: the settings of the process that the call left changed.
        random: generator of random numbers -> a digest of its state, for those that the call moved.
        factor: the factor of a right candidate's gradients on the oracle's: the incoming gradient, if it is one number,
            times the number of backward passes. Incoming gradients of single tokens are in the case's weights.
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
    state: tuple[str, ...] = ()
    random: Mapping[str, str] = field(default_factory=dict)
    factor: float = 1.0


class Trial:
    """A candidate, its spec and a worker that runs it. Laws ask it for observations.

    Attributes:
        dtypes: of the logits, simplest first. Each case has one of them.
        share: the part of each law's budget that this kind of candidate gets.
        most_places: the most B·S of a case at a size beyond the ordinary ones.
        compiles: returns whether it is judged under torch.compile with a backend too. That costs seconds.
        values_only: the reason why the gradient cannot be read although the candidate is declared to have one, or "".
        scope: the parts of the judgement that this kind of candidate leaves out, in words.
        ahead: the recipe that is asked about next, if known. Its case is built while the candidate computes.
        regions: cases for every law at sizes at which the candidate's own code takes another way.
        near_regions: more cases there, if the candidate is not slow.
        sizes: the sizes that the candidate takes. ``space`` has only these; ``whole_space`` has all sizes.
    """

    generators = LOSS_RECIPES
    makes_logits = False  # True: it makes logits from tokens, and no case can choose them
    share = 1.0
    most_places = 100_000
    values_only = ""
    """If no law can judge the gradient, the reason, in one sentence. Then the verdict is never CONFORMS."""
    scope: tuple[str, ...] = ()

    def __init__(
        self,
        candidate: Candidate,
        spec: LossSpec,
        binding: Binding,
        caller: Caller,
        *,
        dtypes: tuple[str, ...],
        device: str,
    ) -> None:
        self.candidate = candidate
        self.spec = spec
        self.binding = binding
        self.caller = caller
        self.dtypes = dtypes
        self.device = device
        self.compute = Compute(candidate.precision or spec.compute)
        if binding.stands_in:
            self.scope = ("without its model, which is stood in for: a loss that the model computes is not judged",)
        self.sizes = candidate.sizes
        self.whole_space: Space = space(replace(spec, compute=self.compute), frozenset(binding.names), dtypes)
        self.space: Space = self.sizes.restrict(self.whole_space)
        self.failed: set[str] = set()  # ids of the laws that failed so far
        self.unjudged: dict[str, str] = {}  # ids of the laws that could not be asked, and why
        self.ahead: Recipe | None = None
        self.compiles: Callable[[str], bool] = lambda backend: False
        self.regions: tuple[Recipe, ...] = ()
        self.near_regions: tuple[Recipe, ...] = ()
        self.cell_counts = CellCounts(loss_cells(spec))
        self.calls = 0
        self.seconds_in_oracle = 0.0
        self._pace = 1, 0.0  # the cost of the largest case so far, and the seconds that the candidate took for it
        self._seen: Kept[tuple[Recipe, Variant], Observation] = Kept(_MOST)
        self._bounds: WeakKeyDictionary[Observation, Bounds] = WeakKeyDictionary()

    def in_dtype(self, dtype: str) -> Trial:
        """This trial, with cases in one of its dtypes only. It shares all that was observed."""
        own = copy.copy(self)
        own.dtypes = (dtype,)
        own.whole_space = {**self.whole_space, "dtype": own.dtypes}
        own.space = {**self.space, "dtype": own.dtypes}
        return own

    def case(self, recipe: Recipe) -> Case:
        """Build the case of a recipe under this trial's spec."""
        started = time.perf_counter()
        case = build_case(self.spec, recipe)
        self.seconds_in_oracle += time.perf_counter() - started
        return case

    @property
    def shifts_inputs(self) -> bool:
        """Whether a decoder's inputs are the labels, shifted right."""
        return self.spec.terms[0].shifted_by is ShiftedBy.INPUTS

    def skip_reason(self, law: str) -> str | None:
        """The reason why the law with this id does not apply to this kind of candidate, or None."""
        return None

    def fit(self, recipe: Recipe) -> Recipe:
        """Return the recipe in sizes that the candidate takes, with the fields that all cases of this trial share."""
        return self.sizes.fit(recipe)

    def affords(self, recipe: Recipe) -> bool:
        """Whether the case of a region, as a law wants it, is small enough to be called again and again.

        With hidden states, H is at least the number of classes, or of rows if that is smaller; a law that wants an id
        for each place makes both large. Dense factors are for one law, which chooses most sizes itself.
        """
        if not self.is_linear:
            return True
        if recipe.dense:
            of_weight, places = recipe.classes * recipe.hidden_size, recipe.rows * recipe.length
            is_chosen = recipe.hidden_size <= DENSE_HIDDEN_SIZES[-1] and places <= DENSE_PLACES
            return not is_chosen and of_weight <= _MOST_PRODUCTS and of_weight * places <= _MOST_PRODUCTS_ONCE
        width = width_of(recipe.classes, recipe.rows * recipe.length, recipe.hidden_size)
        return recipe.size * width <= _MOST_PRODUCTS

    def takes_long(self, recipe: Recipe) -> bool:
        """Whether a call on this case would take seconds, by the largest case so far.

        A loss may be right and loop over rows in Python. Laws call it many times.
        """
        cost_of_largest, seconds = self._pace
        return seconds * cost(sizes_of(recipe)) > _PATIENCE * cost_of_largest

    def scored(self, recipe: Recipe) -> Case:
        """Return the case of a recipe, with the logits that the candidate scores."""
        return self.case(recipe)

    def variation(self, case: Case, change: Callable[[Batch], Batch]) -> Case:
        """Change the batch of a case. Return the new case, with its right answer."""
        started = time.perf_counter()
        batch = change(case.batch)
        pairing = build_pairing(case.spec, batch)
        changed = replace(case, batch=batch, pairing=pairing, oracle=evaluate(pairing, batch))
        self.seconds_in_oracle += time.perf_counter() - started
        return changed

    def observe_cached(self, recipe: Recipe, variant: Variant = PLAIN) -> Observation:
        """Observe the candidate on a recipe, once, as long as there is room to keep what was observed."""
        key = (recipe, variant)
        seen = self._seen.get(key)
        if seen is not None:
            return seen
        observation = self.observe(self.case(recipe), variant)
        if observation.problem is not None and observation.problem.verdict is Verdict.UNJUDGED:
            return observation  # the next process may answer
        shapes = observation.case.pairing.shapes.values()
        elements = sum(map(math.prod, shapes))
        self._seen.put(key, observation, elements + of_pairs(sum(math.prod(shape[:-1]) for shape in shapes)))
        return observation

    def observe(self, case: Case, variant: Variant = PLAIN) -> Observation:
        """Call the candidate on a case as a variant says. Never cached.

        The observation's case is the one that the variant made, with the right answer to it.
        """
        asked = self._ask(case, variant)
        seen = self.answer(asked)
        if seen.problem is not None:
            return seen
        if isinstance(asked.grad_output, Tensor):
            return replace(seen, case=weighted_by(asked.grad_output, seen.case), factor=float(asked.n_backward))
        return replace(seen, factor=asked.grad_output * asked.n_backward)

    def _ask(self, case: Case, variant: Variant) -> Asked:
        own, change = case, variant.change
        if variant.spec is not None:
            own = replace(case, spec=variant.spec(case))
        if own is not case or change is not None:
            own = self.variation(own, lambda batch: batch if change is None else change(case))
        manner = variant.manner(own)
        # With counting ids, labels and tokens would be the same.
        other = replace(case.recipe, seed=case.recipe.seed + 1, ids=Ids.SEEDED) if manner.order else None
        return Asked(own, variant.grad_output(own), manner, None if other is None else self.case(other))

    def answer(self, asked: Asked) -> Observation:
        """Call the candidate, and read its answer.

        If the candidate is declared not to take these sizes, it is not called.
        """
        case = asked.case
        if outside := self._outside(case):
            return Observation(case, outside)
        names = LEAVES if self.is_linear else case.spec.logits
        differentiated = {name: self.binding.names[name] for name in names if self.binding.takes(name)}
        call = self.call_of(asked, tuple(differentiated))
        call = replace(
            call,
            layouts={**call.layouts, **dict.fromkeys(differentiated.values(), str(case.recipe.stride))},
        )
        wanted = {name: theirs for name, theirs in differentiated.items() if theirs in call.gradients}
        return self._read(case, self.send(call, case.recipe), wanted)

    def call_of(self, asked: Asked, leaves: tuple[str, ...]) -> Call:
        """Make the call. ``leaves`` are our names of the arguments that can have a gradient."""
        manner = asked.manner
        tensors, scalars = values_for(asked.case, self.binding)
        count = self.binding.names.get(_COUNT, _COUNT)
        if manner.count == "tensor" and count in scalars:
            tensors[count] = torch.tensor(scalars.pop(count), dtype=torch.int64)
        elif manner.count == "keyword":
            scalars[count] = asked.case.batch.num_items_in_batch
        if manner.mask:
            tensors[self.binding.withheld[_MASK]] = asked.case.batch.tensor(_MASK).to(getattr(torch, manner.mask))
        wanted = leaves if manner.leaves is None else manner.leaves
        records = self.candidate.gradient and asked.records
        return Call(
            tensors=tensors,
            scalars=scalars,
            layouts=dict.fromkeys(tensors, manner.layout) if manner.layout else {},
            gradients=tuple(self.binding.names[name] for name in wanted) if records else (),
            grad_output=asked.grad_output,
            grad_mode=manner.grad_mode,
            n_backward=manner.n_backward,
            autocast=manner.autocast,
            backend=manner.backend,
            train_mode=manner.train_mode,
            other={} if asked.other is None else values_for(asked.other, self.binding)[0],
            order=manner.order or OTHER_AFTER,
        )

    def send(self, call: Call, recipe: Recipe | None = None) -> Outcome:
        """Make a call on the case of ``recipe``, and build the case that comes next while the candidate computes."""
        self.calls += 1
        before = self.caller.seconds_in_candidate
        outcome = self.caller.call(call, self._build_ahead)
        if recipe is not None and (needed := cost(sizes_of(recipe))) > self._pace[0]:
            self._pace = needed, self.caller.seconds_in_candidate - before
        return outcome

    def _build_ahead(self) -> None:
        if self.ahead is not None:
            with suppress(Exception):  # it is raised again when the law asks about that case
                self.case(self.ahead)

    def _outside(self, case: Case) -> Problem | None:
        """The problem if the declared sizes of the candidate exclude this case, or None."""
        if not self.sizes:
            return None
        labels = case.batch.tensor(case.spec.labels[0])
        sizes = {"rows": labels.shape[0], "length": labels.shape[1], "classes": case.recipe.classes}
        if self.sizes.admits(sizes):
            return None
        return Problem(Verdict.SKIP, "outside", f"not called outside the sizes that it requires: {self.sizes}")

    @property
    def is_linear(self) -> bool:
        """Whether the candidate takes hidden states and a weight in place of logits."""
        return self.binding.is_linear

    def linear(self, case: Case) -> Linear:
        """The factors of a case's logits, as the candidate receives them."""
        return linear_of(case, self.binding)

    def bounds(self, observation: Observation) -> Bounds:
        """How far a right candidate may be from the oracle in this observation."""
        if observation not in self._bounds:
            self._bounds[observation] = derive_bounds(observation.case, self.compute, observation.dtype)
        return self._bounds[observation]

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
                gradients = {}  # dense factors do not show that of the logits
                if not linear.is_dense and linear.carrier in leaves:
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
            state=outcome.state,
            random=outcome.random,
        )


def _gradient(case: Case, name: str, gradient: Tensor | None) -> Tensor:
    shape = case.pairing.shapes[name]
    if gradient is None:
        return torch.zeros(shape, dtype=torch.float64)
    return lay_back(case.spec, name, gradient.double(), shape)


def _at_leaf(linear: Linear, name: str, gradient: Tensor | None) -> Tensor:
    """The gradient at a leaf, in the leaf's shape. Flattened rows are in the same order."""
    leaf = linear.leaf(name)
    return torch.zeros(leaf.shape, dtype=torch.float64) if gradient is None else gradient.double().reshape(leaf.shape)


def problem_of(outcome: Outcome) -> Problem:
    """The problem of an outcome that is not a :class:`Returned`."""
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
    raise TypeError(f"unknown kind of outcome: {outcome!r}")


def answered(outcome: Outcome, name: str) -> Outcome:
    """Return the outcome of the first call, from which a trial learns the properties of its candidate.

    Raises:
        LoadFailure: the call got no answer that can be judged. Then nothing is known, and no law can be asked.
    """
    match outcome:
        case NotAnswered():
            raise LoadFailure("broken", f"{name} {outcome.describe()}")
        case TimedOut():
            raise LoadFailure("timed out", f"the first call of {name} {outcome.describe()}")
    return outcome


def _wrong_shape(case: Case, outcome: Returned) -> Problem | None:
    """The problem if the returned tensor is not floating point or does not have the shape of the spec, or None."""
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
                f"returned {dtype} {shape}; expected one loss per label position, {list(expected)}",
            )
    elif outcome.value.numel() != 1:
        return Problem(
            Verdict.ERROR,
            "wrong shape",
            f"returned {dtype} {shape}; expected a scalar. If it is meant to return one loss per token, "
            "judge it under a spec with reduction none, such as per_token",
        )
    return None
