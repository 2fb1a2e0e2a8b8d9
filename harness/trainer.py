"""One trainer on trial: micro-batches go in, and the gradient that its optimizer used is judged as any loss's is."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from shiftproof.reference.spec import LossSpec

from .arguments import Binding
from .candidate import Candidate, UsageError
from .cases import Case
from .recipe import Mask, Recipe
from .source import LOSS_RECIPES
from .strategies import Space
from .trainer_arguments import MICRO_BATCHES, MODEL, PARTS, scalars_for
from .trial import Caller, Observation, Problem, Trial, answered
from .verdict import Verdict
from .worker.exchange import Call, Outcome, Returned, Training

_ASKED = {
    *("CONTRACT-1", "CONTRACT-2", "STEP-1", "ALIGN-1", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "GRAD-2"),
    *("TAIL-1", "STABLE-3", "PURE-2", "PURE-3", "INVAR-1", "EMPTY-2"),
}
_OF_VALUE = {"VALUE-1", "STABLE-3", "PURE-2", "PURE-3", "INVAR-1"}
"""The laws that say nothing of a trainer which returns no loss."""

_ROWS = (4, 7, 8)  # torch.chunk cuts each into four, of one row or two
_LENGTHS = (2, 3, 4, 5, 6, 7, 8)
_CLASSES = 257  # at most: what more of them come to is a matter of the model's loss


class TrainerTrial(Trial):
    """A trainer, its spec and a worker that runs it.

    The logits of a case are those of the model, its rows the micro-batches of one optimizer step. What the trainer
    returns is its value; its gradient is the one at the model's logits as the optimizer steps, or, where none steps,
    the one that is left when it returns.

    Attributes:
        share: of each law's budget, what a trainer is asked: a step may take a tenth of a second.
        steps: how often the optimizer stepped in the first call; 0 where it could not be had.
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
        self.steps = first.steps if isinstance(first, Returned) else 0

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

    def observe(
        self, case: Case, upstream: float | Tensor = 1.0, grad_mode: str = "enabled", backwards: int = 1
    ) -> Observation:
        """Have it take one step on the case in a full window. Nothing comes in from behind it, and once is all."""
        return self.in_window(case, PARTS)

    def in_window(self, case: Case, window: int) -> Observation:
        """Have it take one step on the case, in a window of so many micro-batches, of which those of the case came."""
        outcome = self._call(case, window)
        seen = self._read(case, outcome, {"logits": "logits"})
        if not isinstance(outcome, Returned) or seen.problem is not None:
            return seen
        if (outcome.kind == "none") != self.silent:
            here, elsewhere = ("a loss", "none") if self.silent else ("no loss", "one")
            message = f"returned {here} where it returns {elsewhere} elsewhere; return one always, or never"
            return Observation(case, Problem(Verdict.ERROR, "unusable", message))
        seen = replace(seen, steps=outcome.steps, mutated=())
        return replace(seen, value=None, returned=None) if self.silent else seen

    def _call(self, case: Case, window: int) -> Outcome:
        batch, term = case.batch, case.spec.terms[0]
        assert term.ignore_index is not None
        self.calls += 1
        tensors = {name: batch.tensor(name) for name in ("logits", "labels", "attention_mask")}
        names = self.binding.names
        return self.caller.call(
            Call(
                tensors=tensors,
                scalars=scalars_for(case, self.binding, window),
                gradients=("logits",) if self.candidate.gradient else (),
                training=Training(names[MODEL], names[MICRO_BATCHES], PARTS, term.shift, term.ignore_index),
            )
        )


def _own(space: Space) -> Space:
    """What of a space is left for a trainer."""
    left = {name: choices for name, choices in space.items() if name not in ("count", "shift_labels")}
    return left | {"rows": _ROWS, "length": _LENGTHS}
