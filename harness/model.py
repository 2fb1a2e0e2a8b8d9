"""One model on trial: tokens go in, and its loss is judged against the logits that it made itself."""

from __future__ import annotations

from dataclasses import replace
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
from .trial import Caller, Observation, Problem, Trial, problem_of
from .verdict import Verdict
from .worker.exchange import Call, Outcome, Returned

_ASKED = {
    *("CONTRACT-1", "CONTRACT-2", "ALIGN-1", "ALIGN-2", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "GRAD-2"),
    *("GRAD-3", "PURE-1", "PURE-2", "MODE-1", "EMPTY-2", "MODEL-1", "MODEL-2", "MODEL-3", "MODEL-4"),
    *("MODEL-5",),
}
"""The laws that ask for no logits of their own choosing."""

_NOT_READ = (
    "its loss is made of none of the logits that it returns, and of no hidden states and weight whose product they are: "
    "where its gradient goes cannot be read"
)

_ROWS = (1, 2, 3, 4)
_LENGTHS = (2, 3, 4, 5, 6, 7, 9, 12)


_OF_THE_LOGITS = {"CONTRACT-2", "ALIGN-1", "SELECT-1", "REDUCE-1", "GRAD-1", "GRAD-2", "GRAD-3", "EMPTY-2"}
"""The laws that ask for the gradient at the logits."""


class Route(StrEnum):
    """Where the gradient of a model's loss is read."""

    RETURNED = "returned"  # at the logits that it returns
    COPIED = "copied"  # at the tensor that these are a copy of
    HEAD = "head"  # at the hidden states and the weight whose product they are
    NOWHERE = "nowhere"


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
            if self.route in (Route.HEAD, Route.NOWHERE):
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
        # What was found and has no gradient is not trained by the loss, whatever else may be.
        return Route.RETURNED if {"logits", "hidden"} & set(watched) else Route.NOWHERE

    def _measure(self) -> Returned | None:
        """What the model returns for a small case, where that is logits of the shape of any."""
        recipe = _first_recipe(self.classes)
        outcome = self._call(super().case(recipe), "enabled", 1.0, 1)
        if not isinstance(outcome, Returned):
            return None
        shape = outcome.outputs["logits"].shape
        return outcome if len(shape) == 3 and shape[0] == recipe.rows and shape[1] >= recipe.length else None

    def _own(self, space: Space) -> Space:
        """What of a space is left for a model."""
        left = {name: choices for name, choices in space.items() if name not in ("shift_labels", "regime")}
        own = {"rows": _ROWS, "length": _LENGTHS, "classes": (self.classes,)}
        return left | own | ({"extra": (self.extra,)} if "extra" in space else {})

    def excuse(self, law: str) -> str | None:
        if law not in _ASKED:
            return "it is a model, whose logits cannot be chosen"
        if law == "ALIGN-2" and self.shifts_inputs:
            return "its labels are its inputs too, and move its logits"
        if law in _OF_THE_LOGITS and self.route is Route.HEAD:
            return "its loss is not made of the logits that it returns: MODEL-5 judges the gradient at its head"
        if law in (*_OF_THE_LOGITS, "MODEL-5") and self.route is Route.NOWHERE:
            return _NOT_READ
        return None

    def fit(self, recipe: Recipe) -> Recipe:
        """The recipe with what is the model's own."""
        return replace(
            recipe,
            classes=self.classes,
            extra=self.extra,
            regime=Regime.NORMAL,
            stride=Stride.CONTIGUOUS,
            dtype=self.dtype,
            rows=min(recipe.rows, max(_ROWS)),
            length=min(recipe.length, max(_LENGTHS)),
        )

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
        if self.route is Route.COPIED:
            logits = outcome.watched.get("logits", logits)
            gradient = outcome.watched.get("logits_gradient")
        if wrong := self._wrong_logits(case, logits):
            return Observation(case, wrong)
        batch = replace(case.batch, logits=logits.float())
        pairing = build_pairing(case.spec, batch)
        own = replace(case, batch=batch, pairing=pairing, oracle=evaluate(pairing, batch))
        seen = self._read(own, outcome, {})
        if seen.problem is not None:
            return seen
        head = read_head(outcome.watched, logits)
        return replace(
            seen,
            gradients=None if gradient is None or self.route is Route.HEAD else {"logits": gradient.double()},
            head=head,
            off=head.rounding if head is not None and self.route is Route.HEAD else None,
        )

    def _call(
        self, case: Case, grad_mode: str, upstream: float | Tensor, backwards: int, watch: bool = False
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
