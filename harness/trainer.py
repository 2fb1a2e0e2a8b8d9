"""One trainer on trial: micro-batches go in, and the gradient that its optimizer used is judged as any loss's is."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import LossSpec

from .arguments import Binding
from .candidate import Candidate, UsageError
from .cases import Case
from .recipe import Mask, Recipe
from .source import LOSS_RECIPES
from .strategies import Space
from .trainer_arguments import MICRO_BATCHES, MODEL, PARTS, scalars_for
from .trial import Caller, Observation, Problem, Trial, answered, problem_of
from .verdict import Verdict
from .worker.exchange import Call, Outcome, Returned, Training, Window

_ASKED = {
    *("CONTRACT-1", "CONTRACT-2", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "GRAD-2"),
    *("STEP-1", "STEP-2", "STEP-3", "STEP-4", "STEP-5", "TAIL-1", "STABLE-3", "PURE-2", "PURE-3", "INVAR-1", "EMPTY-2"),
}
_OF_VALUE = {"VALUE-1", "STABLE-3", "PURE-2", "PURE-3", "INVAR-1"}
"""The laws that say nothing of a trainer which returns no loss."""

_ROWS = (4, 7, 8)  # torch.chunk cuts each into four, of one row or two
_LENGTHS = (2, 3, 4, 5, 6, 7, 8)
_CLASSES = 257  # at most: what more of them come to is a matter of the model's loss


@dataclass(frozen=True, eq=False)
class TwoWindows:
    """What a trainer did in two windows, each with its own rows of a case, and the logits that the model had of them.

    Attributes:
        left: the gradient that the second step was given at the rows of the first window, whose right answer is 0; None
            where it was given none at all.
    """

    first: Observation
    second: Observation
    left: Tensor | None


class TrainerTrial(Trial):
    """A trainer, its spec and a worker that runs it.

    The logits of a case are those of the model, its rows the micro-batches of one optimizer step. What the trainer
    returns is its value; its gradient is the one at the model's logits as the optimizer steps, or, where it steps by
    hand, the one that its last backward left.

    Attributes:
        share: of each law's budget, what a trainer is asked: a step may take a tenth of a second.
        silent: whether it returns no loss.

    Raises:
        UsageError: where another dtype than float32 is asked for.
        LoadFailure: where the first call finds nothing out, since no answer came.
    """

    source = replace(LOSS_RECIPES, large=lambda space, seed: [])
    share = 0.25

    def __init__(
        self, candidate: Candidate, spec: LossSpec, binding: Binding, caller: Caller, *, dtype: str, device: str
    ) -> None:
        super().__init__(candidate, spec, binding, caller, dtype=dtype, device=device)
        if dtype != "float32":
            raise UsageError(f"{candidate.name} is a trainer, judged in float32; drop --dtype {dtype}")
        self.space = self.sizes.narrow(_own(self.space))
        first = answered(self._call(self.case(Recipe(rows=PARTS, length=4, classes=11)), PARTS), candidate.name)
        self.silent = isinstance(first, Returned) and first.kind == "none"

    @property
    def scope(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("its gradient alone: it returns no loss",) if self.silent else ()

    def excuse(self, law: str) -> str | None:
        if law not in _ASKED:
            return "it is a trainer, and this is a matter of its model's loss"
        return "it returns no loss, and is judged by its gradient alone" if self.silent and law in _OF_VALUE else None

    def fit(self, recipe: Recipe) -> Recipe:
        """The recipe in the sizes of a trainer, padded on the right: rows that are packed lose their padding, and where
        it comes first, the label that follows on it."""
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
        """The case of a recipe with rows for so many micro-batches, of one row each or, but for the last, of two."""
        rows = parts if recipe.rows <= PARTS else 2 * parts - 1
        return super().case(replace(self.fit(recipe), rows=rows))

    def observe(
        self, case: Case, upstream: float | Tensor = 1.0, grad_mode: str = "enabled", backwards: int = 1
    ) -> Observation:
        """Have it take one step on the case in a full window. Nothing comes in from behind it, and once is all."""
        return self.in_window(case, PARTS)

    def in_window(self, case: Case, window: int, parts: int = PARTS) -> Observation:
        """Have it take one step on the rows of a case, cut into ``parts`` micro-batches, in a window of so many."""
        outcome = self._call(case, window, parts)
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        [taken] = outcome.windows
        return self._in_window(case, outcome, taken)

    def in_two_windows(self, case: Case) -> TwoWindows | Observation:
        """Have it take two steps with one model, in two calls of it, each on a half of the rows of ``case``; or what it
        did where it gave no answer."""
        outcome = self._call(case, PARTS, windows=2)
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        middle = len(case.batch.tensor("logits")) // 2
        halves = (slice(None, middle), slice(middle, None))
        seen = []
        for taken, rows in zip(outcome.windows, halves, strict=True):
            own = _rows_of(taken, rows)
            seen.append(self._in_window(self._half(case, rows, own.before), outcome, own))
            if seen[-1].problem is not None:
                return seen[-1]
        last = outcome.windows[-1].gradient
        return TwoWindows(seen[0], seen[1], None if last is None else last[halves[0]].double())

    def case_of_two(self, recipe: Recipe) -> Case:
        """The case of a recipe with rows for two windows."""
        return super().case(replace(self.fit(recipe), rows=2 * PARTS))

    def _half(self, case: Case, rows: slice, logits: Tensor) -> Case:
        """The case of some rows, with the logits that the model had of them."""

        def of_window(batch: Batch) -> Batch:
            given = {field.name: getattr(batch, field.name) for field in fields(batch)}
            own: dict[str, Any] = {
                name: value[rows] for name, value in given.items() if isinstance(value, Tensor) and value.dim() >= 2
            }
            return replace(batch, **{**own, "logits": logits, "cu_seqlens": None})  # no trainer is given documents

        return self.variation(case, of_window)

    def _in_window(self, case: Case, outcome: Returned, taken: Window) -> Observation:
        """What it did in one window, whose tensors are of the rows of ``case``."""
        gradients: dict[str, Tensor | None] = {"logits": taken.gradient if self.candidate.gradient else None}
        own = replace(outcome, value=taken.value, kind=taken.kind, gradients=gradients, mutated=())
        seen = self._read(case, own, {"logits": "logits"})
        if seen.problem is not None:
            return seen
        if (taken.kind == "none") != self.silent:
            here, elsewhere = ("a loss", "none") if self.silent else ("no loss", "one")
            message = f"returned {here} where it returns {elsewhere} elsewhere; return one always, or never"
            return Observation(case, Problem(Verdict.ERROR, "unusable", message))
        seen = replace(seen, window=taken)
        return replace(seen, value=None, returned=None) if self.silent else seen

    def _call(self, case: Case, window: int, parts: int = PARTS, windows: int = 1) -> Outcome:
        batch, term = case.batch, case.spec.terms[0]
        assert term.ignore_index is not None
        self.calls += 1
        names = self.binding.names
        return self.caller.call(
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
    """How often a trainer stepped: its optimizer or, where none did and the model moved all the same, by hand."""
    return window.steps or int(not torch.equal(window.before, window.after))


def _rows_of(taken: Window, rows: slice) -> Window:
    """What a trainer did in a window with some rows of its case."""
    gradient = None if taken.gradient is None else taken.gradient[rows]
    return replace(taken, before=taken.before[rows], after=taken.after[rows], gradient=gradient)


def _own(space: Space) -> Space:
    """What of a space is left for a trainer."""
    left = {name: choices for name, choices in space.items() if name not in ("count", "shift_labels")}
    return left | {"rows": _ROWS, "length": _LENGTHS}
