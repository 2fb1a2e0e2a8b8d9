"""One model on trial: tokens go in, and its loss is judged against the logits that it made itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.spec import LossSpec

from .arguments import Binding, values_for
from .candidate import Candidate, UsageError
from .cases import Case
from .recipe import Ids, Mask, Recipe, Regime, Stride
from .strategies import Space
from .trial import Caller, Observation, Problem, Trial, answered, problem_of
from .verdict import Verdict
from .worker.exchange import Call, Outcome, Returned

_ASKED = {
    *("CONTRACT-1", "CONTRACT-2", "ALIGN-1", "ALIGN-2", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "GRAD-2"),
    *("GRAD-3", "PURE-1", "PURE-2", "MODE-1", "EMPTY-2", "MODEL-1", "MODEL-2", "MODEL-3", "MODEL-4"),
}
"""The laws that ask for no logits of their own choosing."""

_ROWS = (1, 2, 3, 4)
_LENGTHS = (2, 3, 4, 5, 6, 7, 9, 12)


class ModelTrial(Trial):
    """A model, its spec and a worker that runs it.

    A case gives it ``input_ids`` and ``labels``; the right answer is that to the logits that came back. Classes, extra
    logits and dtype of every recipe are the model's own, found by a first call.

    Attributes:
        classes: V of its logits.
        extra: how many rows of logits come before those of the labels.

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
        first = self._measure()
        if first is not None:
            _, length, self.classes = first.outputs["logits"].shape
            self.extra = length - _first_recipe(self.classes).length
            if first.requires_grad and "logits" not in first.output_gradients and candidate.gradient:
                # The loss does not flow through the logits that it returns: they are a copy.
                self.candidate = replace(candidate, gradient=False)
        if self.extra and "extra" not in self.space:
            raise UsageError(
                f"{candidate.name} returns {self.extra} rows of logits more than there are labels, and {spec.name} "
                "speaks of none; judge it under a spec with a prefix, such as hf.prefix_lm"
            )
        self.space = self._own(self.space)

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
        outcome = self._call(case, grad_mode, upstream, backwards)
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        logits = outcome.outputs["logits"]
        if wrong := self._wrong_logits(case, logits):
            return Observation(case, wrong)
        batch = replace(case.batch, logits=logits.float())
        pairing = build_pairing(case.spec, batch)
        own = replace(case, batch=batch, pairing=pairing, oracle=evaluate(pairing, batch))
        seen = self._read(own, outcome, {})
        if seen.problem is not None or "logits" not in outcome.output_gradients:
            return seen
        return replace(seen, gradients={"logits": outcome.output_gradients["logits"].double()})

    def _call(self, case: Case, grad_mode: str, upstream: float | Tensor, backwards: int) -> Outcome:
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


def _first_recipe(classes: int) -> Recipe:
    return Recipe(rows=2, length=3, classes=classes, masks=(Mask.NONE,), ids=Ids.COUNTING)


def moved_rows(before: Observation, after: Observation) -> Tensor:
    """Which rows of logits [B, L] differ by more than rounding between two observations."""
    one, other = (seen.case.batch.tensor("logits").double() for seen in (before, after))
    scale = float(one[one.isfinite()].abs().amax()) if bool(one.isfinite().any()) else 1.0
    return torch.isclose(one, other, rtol=0.0, atol=_ROUNDING * max(scale, 1e-6), equal_nan=True).logical_not().any(-1)


_ROUNDING = 1e-3  # of the largest logit: what the same arithmetic in another order may come to
