"""One trainer on trial: it gets micro-batches, and the gradient that its optimizer used is judged like a loss's."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import LossSpec

from ..cases.build import Case
from ..cases.recipe import Mask, Recipe
from ..cases.space import Space
from ..results import Verdict
from ..worker.exchange import Call, Outcome, Returned, Training, Window
from .arguments import Binding
from .declaration import Candidate, UsageError
from .loss import Caller, Observation, Problem, Trial, answered, problem_of
from .trainer_arguments import MICRO_BATCHES, MODEL, PARTS, scalars_for
from .variant import Asked

_ASKED = {
    *("CONTRACT-1", "CONTRACT-2", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "GRAD-2"),
    *("STEP-1", "STEP-2", "STEP-3", "STEP-4", "STEP-5", "TAIL-1", "STABLE-3", "PURE-2", "PURE-3", "INVAR-1", "EMPTY-2"),
}
_OF_VALUE = {"VALUE-1", "STABLE-3", "PURE-2", "PURE-3", "INVAR-1"}
"""The laws that do not apply to a trainer which returns no loss."""

_ROWS = (4, 7, 8)  # torch.chunk cuts each into four parts, of one or two rows
_LENGTHS = (2, 3, 4, 5, 6, 7, 8)
_CLASSES = 257  # at most: more classes test the model's loss, not the trainer


@dataclass(frozen=True, eq=False)
class TwoWindows:
    """The behaviour of a trainer in two windows.

    Each window has its own rows of a case, and the logits that the model had for them.

    Attributes:
        left: the gradient of the second step at the rows of the first window. The right value is 0. None if the second
            step had no gradient.
    """

    first: Observation
    second: Observation
    left: Tensor | None


class TrainerTrial(Trial):
    """A trainer, its spec and a worker that runs it.

    The logits of a case are the model's logits, and the rows of a case are the micro-batches of one optimizer step. The
    value is the loss that the trainer returns. The gradient is the one at the model's logits when the optimizer steps.
    If the trainer updates the model by hand, it is the one that its last backward left.

    Attributes:
        share: the part of each law's budget that a trainer gets. It is small because a step may take a tenth of a
            second.
        silent: whether it returns no loss.

    Raises:
        UsageError: the dtype is not float32.
        LoadFailure: the first call got no answer.
    """

    most_places = 0  # a step at another size than the ordinary ones would take seconds
    share = 0.25

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
        super().__init__(candidate, spec, binding, caller, dtypes=dtypes, device=device)
        if dtypes != ("float32",):
            raise UsageError(f"{candidate.name} is a trainer, judged in float32; drop --dtype {dtypes[0]}")
        self.space = self.sizes.restrict(_own(self.space))
        first = answered(self._call(self.case(Recipe(rows=PARTS, length=4, classes=11)), PARTS), candidate.name)
        self.silent = isinstance(first, Returned) and first.kind == "none"

    @property
    def scope(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("only its gradient: it returns no loss",) if self.silent else ()

    def skip_reason(self, law: str) -> str | None:
        if law not in _ASKED:
            return "it is a trainer, and this law tests its model's loss"
        return "it returns no loss, so only its gradient is judged" if self.silent and law in _OF_VALUE else None

    def fit(self, recipe: Recipe) -> Recipe:
        """Return the recipe in sizes for trainers, with padding on the right.

        Left padding becomes right padding, because rows that are packed lose their padding. With left padding they
        also lose the label that follows it.
        """
        own = replace(
            recipe,
            masks=tuple(Mask.PADDING if mask is Mask.LEFT else mask for mask in recipe.masks),
            rows=min((rows for rows in _ROWS if rows >= recipe.rows), default=max(_ROWS)),
            length=min(recipe.length, max(_LENGTHS)),
            classes=min(recipe.classes, _CLASSES),
        )
        return super().fit(own)

    def case(self, recipe: Recipe) -> Case:
        return super().case(self.fit(recipe))

    def case_of(self, recipe: Recipe, parts: int) -> Case:
        """Build the case of a recipe with rows for ``parts`` micro-batches.

        Each micro-batch has one row, or each has two rows and the last has one.
        """
        rows = parts if recipe.rows <= PARTS else 2 * parts - 1
        return super().case(replace(self.fit(recipe), rows=rows))

    def answer(self, asked: Asked) -> Observation:
        """Have the trainer take one step on the case in a full window. It sets its own incoming gradient and mode."""
        return self.in_window(asked.case, PARTS)

    def in_window(self, case: Case, window: int, parts: int = PARTS) -> Observation:
        """Have the trainer take one step on the rows of a case, cut into ``parts`` micro-batches.

        ``window`` is the number of micro-batches of a full window.
        """
        outcome = self._call(case, window, parts)
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        [taken] = outcome.windows
        return self._in_window(case, outcome, taken)

    def in_two_windows(self, case: Case) -> TwoWindows | Observation:
        """Have the trainer take two steps with one model, in two calls, each on one half of the rows of ``case``.

        Return an observation with a problem if a step gave no answer.
        """
        outcome = self._call(case, PARTS, windows=2)
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        middle = len(case.batch.tensor("logits")) // 2
        halves = (slice(None, middle), slice(middle, None))
        observations = []
        for taken, rows in zip(outcome.windows, halves, strict=True):
            own = _rows_of(taken, rows)
            observations.append(self._in_window(self._half(case, rows, own.before), outcome, own))
            if observations[-1].problem is not None:
                return observations[-1]
        last = outcome.windows[-1].gradient
        first, second = observations
        return TwoWindows(first, second, None if last is None else last[halves[0]].double())

    def case_of_two(self, recipe: Recipe) -> Case:
        """Build the case of a recipe with rows for two windows."""
        return super().case(replace(self.fit(recipe), rows=2 * PARTS))

    def _half(self, case: Case, rows: slice, logits: Tensor) -> Case:
        """Build the case of some rows of a case, with the logits that the model had for them."""

        def of_window(batch: Batch) -> Batch:
            given = {field.name: getattr(batch, field.name) for field in fields(batch)}
            own: dict[str, Any] = {
                name: value[rows] for name, value in given.items() if isinstance(value, Tensor) and value.dim() >= 2
            }
            return replace(batch, **{**own, "logits": logits, "cu_seqlens": None})  # trainers get no documents

        return self.variation(case, of_window)

    def _in_window(self, case: Case, outcome: Returned, taken: Window) -> Observation:
        """Read the trainer's answer in one window, whose tensors have the rows of ``case``."""
        gradients: dict[str, Tensor | None] = {"logits": taken.gradient if self.candidate.gradient else None}
        own = replace(outcome, value=taken.value, kind=taken.kind, gradients=gradients, mutated=())
        seen = self._read(case, own, {"logits": "logits"})
        if seen.problem is not None:
            return seen
        if (taken.kind == "none") != self.silent:
            here, elsewhere = ("a loss", "none") if self.silent else ("no loss", "one")
            message = f"returned {here} here, but {elsewhere} in its first call; return one always, or never"
            return Observation(case, Problem(Verdict.ERROR, "unusable", message))
        seen = replace(seen, window=taken)
        return replace(seen, value=None, returned=None) if self.silent else seen

    def _call(self, case: Case, window: int, parts: int = PARTS, windows: int = 1) -> Outcome:
        batch, term = case.batch, case.spec.terms[0]
        assert term.ignore_index is not None
        names = self.binding.names
        return self.send(
            Call(
                tensors={name: batch.tensor(name) for name in ("logits", "labels", "attention_mask")},
                scalars=scalars_for(case, self.binding, window),
                gradients=("logits",) if self.candidate.gradient else (),
                training=Training(
                    names[MODEL], names[MICRO_BATCHES], parts, term.shift, term.ignore_index, windows=windows
                ),
            )
        )


def steps_of(window: Window) -> int:
    """The number of a trainer's steps. If no optimizer stepped but the model changed, it is 1, a step by hand."""
    return window.steps or int(not torch.equal(window.before, window.after))


def _rows_of(taken: Window, rows: slice) -> Window:
    """Restrict a window to some rows of its case."""
    gradient = None if taken.gradient is None else taken.gradient[rows]
    return replace(taken, before=taken.before[rows], after=taken.after[rows], gradient=gradient)


def _own(space: Space) -> Space:
    """The part of a space that is for trainers."""
    left = {name: choices for name, choices in space.items() if name not in ("count", "shift_labels")}
    return left | {"rows": _ROWS, "length": _LENGTHS}
