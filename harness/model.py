"""One model on trial: tokens go in, and its loss is judged against the logits that it made itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.spec import LossSpec

from .arguments import Binding, values_for
from .candidate import Candidate, UsageError
from .cases import Case
from .compare import Bounds
from .head import moved_value, read_head
from .recipe import Ids, Mask, Recipe, Regime, Stride
from .strategies import Space
from .trial import Caller, Observation, Problem, Trial, answered, problem_of
from .verdict import Verdict
from .worker.exchange import Call, Outcome, Returned

_ASKED = {
    *("CONTRACT-1", "CONTRACT-2", "ALIGN-1", "ALIGN-2", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "GRAD-2"),
    *("GRAD-3", "PURE-1", "PURE-2", "MODE-1", "EMPTY-2", "MODEL-1", "MODEL-2", "MODEL-3", "MODEL-4"),
    *("MODEL-5", "MODEL-6"),
}
"""The laws that ask for no logits of their own choosing."""

_NOT_READ = (
    "its loss is made of no logits that it returns and of no hidden states and weight whose product they are, and they "
    "do not move with its parameters: where its gradient goes cannot be read"
)

_NUDGE = 0.01  # how far parameters are moved: enough for fp32 to show it, and too little for the loss to bend much

_ROWS = (1, 2, 3, 4)
_LENGTHS = (2, 3, 4, 5, 6, 7, 9, 12)


_OF_THE_LOGITS = {"CONTRACT-2", "ALIGN-1", "SELECT-1", "REDUCE-1", "GRAD-1", "GRAD-2", "GRAD-3", "EMPTY-2"}
"""The laws that ask for the gradient at the logits."""


class Route(StrEnum):
    """Where the gradient of a model's loss is read."""

    RETURNED = "returned"  # at the logits that it returns
    COPIED = "copied"  # at the tensor that these are a copy of
    HEAD = "head"  # at the hidden states and the weight whose product they are
    PARAMETERS = "parameters"  # at all that it has, as how the logits move with them
    NOWHERE = "nowhere"


@dataclass(frozen=True)
class Slopes:
    """How much a loss rises along a direction of a model's parameters.

    Attributes:
        claimed: as its gradient says.
        right: as its logits say, by differences of the reference's losses, extrapolated from two lengths.
        unsure: how far these two are apart.
    """

    claimed: float
    right: float
    unsure: float

    @property
    def tells(self) -> bool:
        """Whether it is steep enough for the difference to be no matter of rounding."""
        return self.unsure < 0.05 * abs(self.right) and abs(self.right) > 1e-3

    @property
    def agree(self) -> bool:
        return abs(self.claimed - self.right) <= 0.02 * abs(self.right) + self.unsure


class ModelTrial(Trial):
    """A model, its spec and a worker that runs it.

    A case gives it ``input_ids`` and ``labels``; the right answer is that to the logits that came back. Classes, extra
    logits and dtype of every recipe are the model's own, found by a first call.

    Attributes:
        classes: V of its logits.
        extra: how many rows of logits come before those of the labels.
        route: where the gradient is read.

    Raises:
        UsageError: where its logits have no such shape, or rows before the labels' that the spec does not speak of.
        LoadFailure: where the first call finds nothing out, since no answer came.
    """

    makes_logits = True

    def __init__(
        self, candidate: Candidate, spec: LossSpec, binding: Binding, caller: Caller, *, dtype: str, device: str
    ) -> None:
        super().__init__(candidate, spec, binding, caller, dtype=dtype, device=device)
        if dtype != "float32":
            raise UsageError(f"{candidate.name} is a model, judged in float32; drop --dtype {dtype}")
        self.classes, self.extra = 2, 0
        self.route = Route.RETURNED
        first = self._measure()
        if first is not None:
            _, length, self.classes = first.outputs["logits"].shape
            self.extra = length - _first_recipe(self.classes).length
            if candidate.gradient and first.requires_grad and not _is_given(first.output_gradients.get("logits")):
                self.route = self._find_route()
            if self.route is Route.NOWHERE:
                self.values_only = _NOT_READ
            if self.route not in (Route.RETURNED, Route.COPIED):
                self.candidate = replace(candidate, gradient=False)
        if self.extra and "extra" not in self.space:
            raise UsageError(
                f"{candidate.name} returns {self.extra} rows of logits more than there are labels, and {spec.name} "
                "speaks of none; judge it under a spec with a prefix, such as hf.prefix_lm"
            )
        self.space = self._own(self.space)

    def _find_route(self) -> Route:
        """Where the gradient is read of a loss that does not flow through the logits which come with it."""
        outcome = self._call(super().case(_first_recipe(self.classes)), "enabled", 1.0, 1, watch=True)
        watched = outcome.watched if isinstance(outcome, Returned) else {}
        if _is_given(watched.get("logits_gradient")):
            return Route.COPIED
        if _is_given(watched.get("hidden_gradient")) or _is_given(watched.get("weight_gradient")):
            return Route.HEAD
        moves = self.nudge(super().case(_first_recipe(self.classes)))
        return Route.PARAMETERS if isinstance(moves, Slopes) and moves.tells else Route.NOWHERE

    def _measure(self) -> Returned | None:
        """What the model returns for a small case, where that is logits of the shape of any."""
        recipe = _first_recipe(self.classes)
        outcome = answered(self._call(super().case(recipe), "enabled", 1.0, 1), self.candidate.name)
        if not isinstance(outcome, Returned):
            return None
        shape = outcome.outputs["logits"].shape
        return outcome if len(shape) == 3 and shape[0] == recipe.rows and shape[1] >= recipe.length else None

    def _own(self, space: Space) -> Space:
        """What of a space is left for a model."""
        left = {name: choices for name, choices in space.items() if name not in ("shift_labels", "regime")}
        own = {**self.sizes.narrow({"rows": _ROWS, "length": _LENGTHS}), "classes": (self.classes,)}
        return left | own | ({"extra": (self.extra,)} if "extra" in space else {})

    def excuse(self, law: str) -> str | None:
        if law not in _ASKED:
            return "it is a model, whose logits cannot be chosen"
        if law == "ALIGN-2" and self.shifts_inputs:
            return "its labels are its inputs too, and move its logits"
        if law in _OF_THE_LOGITS and self.route in (Route.HEAD, Route.PARAMETERS):
            where = (
                "MODEL-5 judges the gradient at its head" if self.route is Route.HEAD else "MODEL-6 judges the gradient"
            )
            return f"its loss is not made of the logits that it returns: {where}"
        if law in (*_OF_THE_LOGITS, "MODEL-5", "MODEL-6") and self.route is Route.NOWHERE:
            return _NOT_READ
        return None

    def fit(self, recipe: Recipe) -> Recipe:
        """The recipe with what is the model's own."""
        own = replace(
            recipe,
            extra=self.extra,
            regime=Regime.NORMAL,
            stride=Stride.CONTIGUOUS,
            dtype=self.dtype,
            rows=min(recipe.rows, max(_ROWS)),
            length=min(recipe.length, max(_LENGTHS)),
        )
        return replace(super().fit(own), classes=self.classes)

    def case(self, recipe: Recipe) -> Case:
        return super().case(self.fit(recipe))

    def look(self, recipe: Recipe, upstream: float = 1.0, grad_mode: str = "enabled") -> Observation:
        return super().look(self.fit(recipe), upstream, grad_mode)

    def scored(self, recipe: Recipe) -> Case:
        return self.look(recipe).case

    def observe(
        self, case: Case, upstream: float | Tensor = 1.0, grad_mode: str = "enabled", backwards: int = 1
    ) -> Observation:
        """Give the model the case's tokens; the case of what is observed has the logits that it made of them."""
        enabled = grad_mode == "enabled"
        return self._observe(case, upstream, grad_mode, backwards, self.route in (Route.COPIED, Route.HEAD) and enabled)

    def watch(self, case: Case, upstream: float = 1.0) -> Observation:
        """As :meth:`observe`, with the head."""
        return self._observe(case, upstream, "enabled", 1, watch=True)

    def nudge(self, case: Case) -> Slopes | Observation:
        """How the loss moves along a direction of the model's parameters, as its gradient says and as its logits do."""
        outcome = self._call(case, "enabled", 1.0, 1, watch=True, nudge=_NUDGE)
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        nudged = outcome.watched.get("nudged")
        if nudged is None or "slope" not in outcome.watched or not bool(nudged.isfinite().all()):
            return Observation(case, None)
        values = []
        for logits in nudged:
            batch = replace(case.batch, logits=logits.float())
            values.append(evaluate(build_pairing(case.spec, batch), batch).value)
        ahead, behind, half_ahead, half_behind = (float("nan") if value is None else value for value in values)
        rough, fine = (ahead - behind) / (2 * _NUDGE), (half_ahead - half_behind) / _NUDGE
        return Slopes(float(outcome.watched["slope"]), fine + (fine - rough) / 3, abs(fine - rough))

    def bounds(self, observation: Observation) -> Bounds:
        bounds = super().bounds(observation)
        if observation.off is None:
            return bounds
        return replace(bounds, value=bounds.value + moved_value(observation.case, observation.off))

    def _observe(
        self, case: Case, upstream: float | Tensor, grad_mode: str, backwards: int, watch: bool
    ) -> Observation:
        outcome = self._call(case, grad_mode, upstream, backwards, watch)
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        logits, gradient = outcome.outputs["logits"], outcome.output_gradients.get("logits")
        off = None
        if self.route is Route.COPIED:
            logits = outcome.watched.get("logits", logits)
            gradient = outcome.watched.get("logits_gradient")
        if self.route in (Route.COPIED, Route.HEAD) and grad_mode != "enabled":  # nothing is found without a graph
            found = self._observe(case, 1.0, "enabled", 1, watch=True)
            off = found.off
            if self.route is Route.COPIED and found.problem is None:
                logits = found.case.batch.tensor("logits")
        if wrong := self._wrong_logits(case, logits):
            return Observation(case, wrong)
        batch = replace(case.batch, logits=logits.float())
        pairing = build_pairing(case.spec, batch)
        own = replace(case, batch=batch, pairing=pairing, oracle=evaluate(pairing, batch))
        seen = self._read(own, outcome, {})
        if seen.problem is not None:
            return seen
        head = read_head(outcome.watched, logits)
        if head is not None and self.route is Route.HEAD:
            off = head.rounding
        gradients = None if gradient is None or not self.candidate.gradient else {"logits": gradient.double()}
        return replace(seen, gradients=gradients, head=head, off=off)

    def _call(
        self,
        case: Case,
        grad_mode: str,
        upstream: float | Tensor,
        backwards: int,
        watch: bool = False,
        nudge: float = 0.0,
    ) -> Outcome:
        tensors, scalars = values_for(case, self.binding)
        self.calls += 1
        return self.caller.call(
            Call(
                tensors=tensors,
                scalars=scalars,
                upstream=upstream,
                grad_mode=grad_mode,
                backwards=backwards,
                outputs=("logits",),
                watch=watch,
                nudge=nudge,
            )
        )

    def _wrong_logits(self, case: Case, logits: Tensor) -> Problem | None:
        rows, length = case.batch.tensor("labels").shape
        expected = [rows, length + self.extra, self.classes]
        if list(logits.shape) == expected and logits.is_floating_point():
            return None
        dtype = str(logits.dtype).removeprefix("torch.")
        return Problem(
            Verdict.ERROR, "wrong shape", f"returned {dtype} logits {list(logits.shape)}; expected floating {expected}"
        )


def _is_given(gradient: Tensor | None) -> bool:
    """Whether a gradient came, and says anything."""
    return gradient is not None and bool(gradient.any())


def _first_recipe(classes: int) -> Recipe:
    return Recipe(rows=2, length=3, classes=classes, masks=(Mask.NONE,), ids=Ids.COUNTING)


def moved_rows(before: Observation, after: Observation) -> Tensor:
    """Which rows of logits [B, L] differ by more than rounding between two observations."""
    one, other = (seen.case.batch.tensor("logits").double() for seen in (before, after))
    scale = float(one[one.isfinite()].abs().amax()) if bool(one.isfinite().any()) else 1.0
    return torch.isclose(one, other, rtol=0.0, atol=_ROUNDING * max(scale, 1e-6), equal_nan=True).logical_not().any(-1)


_ROUNDING = 1e-3  # of the largest logit: what the same arithmetic in another order may come to
