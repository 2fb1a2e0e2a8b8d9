"""One model of several arrays of logits on trial: what those with two streams and with a depth decoder share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing

from ..cases.build import Case, label_ids
from ..cases.kept import Kept, of_pairs
from ..cases.recipe import Ids, Recipe
from ..results import Verdict
from ..worker.exchange import Returned
from .loss import Observation, Problem, problem_of
from .model import ModelTrial, Route, as_judged, is_given, is_more
from .model_gaps import Gap, close, with_array
from .variant import Asked

_MOST = 4_000_000  # elements of logits of the cases that are kept


class SeveralTrial(ModelTrial):
    """A model of several arrays of logits.

    Attributes:
        gaps: the labels that may be ignored.
        untaken: those without which the model gives no answer. No case is without them, and MODEL-10 tells.

    Raises:
        UsageError, LoadFailure: as :class:`ModelTrial`.
    """

    gaps: tuple[Gap, ...] = ()
    untaken: tuple[Gap, ...] = ()

    def _measure(self) -> Returned | None:
        self._own_cases: Kept[Recipe, Case] = Kept(_MOST)
        first = self._find_sizes()
        self._own_cases.clear()
        recipe = replace(self._first_recipe(), ids=Ids.SEEDED)
        self.untaken = tuple(gap for gap in self.gaps if self.without(recipe, gap).problem is not None)
        self._own_cases.clear()
        return first

    def _find_sizes(self) -> Returned:
        """Call the model until it answers, and note its sizes. Raises UsageError if it never does."""
        raise NotImplementedError

    def _own_batch(self, recipe: Recipe, batch: Batch) -> Batch:
        """Make of the batch of a recipe one that such a model takes."""
        raise NotImplementedError

    def _laid_back(self, case: Case, arrays: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Bring the logits, or their gradients, into the shapes of the batch. None if they do not fit."""
        raise NotImplementedError

    def _find_route(self, first: Returned) -> Route:
        """Where the gradient is read. A part of the loss that has none anywhere fails, if another part has one."""
        outcome = self._call(Asked(self.case(self._first_recipe())), watch=True)
        shown = (outcome if isinstance(outcome, Returned) else first).output_gradients
        watched = outcome.watched if isinstance(outcome, Returned) else {}
        originals = {name: watched.get(f"{name}_gradient") for name in self.spec.logits}
        missing = [name for name in originals if not is_given(shown.get(name))]
        if any(
            is_given(originals[name]) if name in missing else is_more(originals[name], shown[name])
            for name in originals
        ):
            return Route.COPIED
        return Route.RETURNED if len(missing) < len(self.spec.logits) else Route.NOWHERE

    def case(self, recipe: Recipe) -> Case:
        fitted = self.fit(recipe)
        case = self._own_cases.get(fitted)
        if case is None:
            case = self.variation(
                super().case(fitted), lambda batch: self._own_batch(fitted, self._unpadded(batch, fitted))
            )
            elements = sum(tensor.numel() for tensor in case.oracle.gradients.values())
            self._own_cases.put(fitted, case, elements + of_pairs(fitted.rows * fitted.length * fitted.codebooks))
        return case

    def _unpadded(self, batch: Batch, recipe: Recipe) -> Batch:
        """The batch with a token everywhere, if an ignored label may have to count: each place has its own token."""
        return with_array(batch, "input_ids", label_ids(self.spec, "labels", recipe)) if self.untaken else batch

    def variation(self, case: Case, change: Callable[[Batch], Batch]) -> Case:
        return super().variation(case, lambda batch: close(change(batch), self.untaken))

    def without(self, recipe: Recipe, gap: Gap) -> Observation:
        """Observe the model on a recipe without the labels of a gap, whether it takes that or not."""
        return self.answer(Asked(super().variation(self.case(recipe), gap.opened)))

    def _answer(self, asked: Asked, watch: bool) -> Observation:
        case = asked.case
        outcome = self._call(asked, watch)
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        original = outcome if watch or self.route is not Route.COPIED else self._call(Asked(case), watch=True)
        watched = original.watched if isinstance(original, Returned) else {}
        outputs = {name: watched.get(name, of).reshape(of.shape) for name, of in outcome.outputs.items()}
        found = self._laid_back(case, outputs)
        if found is None:
            shapes = " and ".join(f"{name} {list(of.shape)}" for name, of in outputs.items())
            expected = " and ".join(f"{name} {list(shape)}" for name, shape in case.pairing.shapes.items())
            return Observation(case, Problem(Verdict.ERROR, "wrong shape", f"returned {shapes}; expected {expected}"))
        logits: dict[str, Any] = {name: as_judged(of) for name, of in found.items()}
        batch = replace(case.batch, **logits)
        pairing = build_pairing(case.spec, batch)
        own = replace(case, batch=batch, pairing=pairing, oracle=evaluate(pairing, batch))
        seen = self._read(own, outcome, {})
        if seen.problem is not None or not self.candidate.gradient:
            return seen
        given = dict(outcome.output_gradients)
        for name in outputs if self.route is Route.COPIED else ():
            if f"{name}_gradient" in watched and watch:
                given[name] = watched[f"{name}_gradient"]
        if not given:
            return seen
        zeros = {name: torch.zeros_like(of) for name, of in outputs.items()}
        gradients = self._laid_back(case, {**zeros, **given})
        assert gradients is not None, "gradients have the shapes of their tensors"
        return replace(seen, gradients={name: of.double() for name, of in gradients.items()})
