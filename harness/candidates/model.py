"""One model on trial: it gets tokens, and its loss is judged against the logits that it made itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.spec import Heads, LossSpec

from ..bounds.compare import same_value
from ..bounds.derive import Bounds
from ..cases.build import Case
from ..cases.recipe import Ids, Mask, Recipe, Regime, Stride
from ..cases.space import Space
from ..results import Verdict
from ..worker.exchange import Outcome, Returned, Unusable
from .arguments import Binding
from .declaration import Candidate, UsageError
from .head import moved_value, read_head
from .loss import Caller, Observation, Problem, Trial, answered, problem_of
from .model_layout import MOST_CODEBOOKS, ModelLayout, find_layouts
from .variant import ORDINARY, PLAIN, Asked, Manner, Variant

_ASKED = {
    *("CONTRACT-1", "CONTRACT-2", "ALIGN-1", "ALIGN-2", "SELECT-1", "REDUCE-1", "VALUE-1", "GRAD-1", "GRAD-2"),
    *("GRAD-3", "PURE-1", "PURE-2", "MODE-1", "EMPTY-2", "MODEL-1", "MODEL-2", "MODEL-3", "MODEL-4"),
    *("MODEL-5", "MODEL-6", "MODEL-7", "MODEL-8", "MODEL-9", "MODEL-10", "PURE-4", "LAYOUT-3", "COUNT-1"),
    *("STATE-1", "STATE-3", "STATE-4", "STATE-5"),
}
"""The laws that do not need to choose the logits."""

_NOT_READ = (
    "its loss depends neither on the logits that it returns nor on hidden states and a weight whose product they are, "
    "and the logits do not move with its parameters: its gradient cannot be read"
)

_AS_IT_IS = ("float32",)  # the dtype in which a model is loaded

_NUDGE = 0.01  # the step of the parameters: large enough to show in fp32, and small enough that the loss bends little

_ROWS = (1, 2, 3, 4)
_FIRST_ROWS = 2
_LENGTHS = (2, 3, 4, 5, 6, 7, 9, 12)


_OF_LABELS = {"ALIGN-2", "EMPTY-2", "MODEL-3", "LAYOUT-3", "MODEL-4"}
"""The laws that hand other labels over."""

_OF_THE_LOGITS = {"CONTRACT-2", "ALIGN-1", "SELECT-1", "REDUCE-1", "GRAD-1", "GRAD-2", "GRAD-3", "EMPTY-2"}
"""The laws that need the gradient at the logits."""


class Route(StrEnum):
    """The place where the gradient of a model's loss is read."""

    RETURNED = "returned"  # at the returned logits
    COPIED = "copied"  # at the tensor of which the returned logits are a copy
    HEAD = "head"  # at the hidden states and the weight whose product is the logits
    PARAMETERS = "parameters"  # at all parameters, compared with how the logits move with them
    NOWHERE = "nowhere"


@dataclass(frozen=True)
class Slopes:
    """The slope of a loss along a direction of a model's parameters.

    Attributes:
        claimed: the slope by the model's gradient.
        right: the slope by the model's logits: differences of the reference's losses, extrapolated from two step
            lengths.
        unsure: how far the differences of the two step lengths are apart.
    """

    claimed: float
    right: float
    unsure: float

    @property
    def tells(self) -> bool:
        """Whether the right slope is steep enough that rounding cannot explain a difference."""
        return self.unsure < 0.05 * abs(self.right) and abs(self.right) > 1e-3

    @property
    def agree(self) -> bool:
        return abs(self.claimed - self.right) <= 0.02 * abs(self.right) + self.unsure


class ModelTrial(Trial):
    """A model, its spec and a worker that runs it.

    A case gives the model ``input_ids`` and ``labels``. The right answer is computed from the logits that the model
    returns. Every recipe has the model's own classes, codebooks, extra logits and dtype. First calls find them.

    A spec with codebooks whose inputs are shifted is for a decoder that sees at t the frames before t. If it does not
    make its inputs from the labels, it is given the labels shifted right.

    Attributes:
        layout: how a model with codebooks takes and gives its arrays. None for other models.
        classes: V of its logits.
        extra: the number of rows of logits before the rows of the labels.
        short: the number of rows of logits that are missing at the end of each sequence, where no label follows.
        route: where the gradient is read.
        answers: whether it gave a loss and logits of a fitting shape when it was first called.
        shows_loss_alone: whether it returns no logits in train mode, but only a loss. Then those of eval mode are read.

    Raises:
        UsageError: it is no module, and the dtype is not float32; or the model returns extra rows of logits and the
            spec has none.
        LoadFailure: the first call got no answer.
    """

    makes_logits = True
    most_places = 4100  # the time of attention grows with the square of S

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
        if len(dtypes) > 1:
            raise UsageError(f"{candidate.name} is a model, judged in one dtype at a time, but got {', '.join(dtypes)}")
        if dtypes != _AS_IT_IS and not binding.is_module:
            told = f"{candidate.name} is no torch.nn.Module, so it cannot be cast to {dtypes[0]}"
            raise UsageError(f"{told}; drop --dtype {dtypes[0]}, or name the module")
        self.classes, self.extra, self.short = 2, 0, 0
        if binding.makes_labels:
            self.scope = (*self.scope, "on labels that all count: it makes them itself, of the tokens that it is given")
        self.route = Route.RETURNED
        self.shows_loss_alone = False
        self.layout: ModelLayout | None = None
        if spec.terms[0].heads is Heads.CODEBOOKS:
            self._find_layout()
        first = self._measure()
        self.answers = first is not None
        if first is not None:
            if candidate.gradient and first.requires_grad:
                self.route = self._find_route(first)
            if self.route is Route.NOWHERE:
                self.values_only = self._not_read
            if self.route not in (Route.RETURNED, Route.COPIED):
                self.candidate = replace(candidate, gradient=False)
        self._check_extra()
        self.space = self._own(self.space)

    def _check_extra(self) -> None:
        if self.extra and "extra" not in self.space:
            raise UsageError(
                f"{self.candidate.name} returns {self.extra} more rows of logits than there are labels, but "
                f"{self.spec.name} allows none; judge it under a spec with a prefix, such as hf.prefix_lm"
            )

    @property
    def is_narrow(self) -> bool:
        """Whether it is cast to a narrow dtype: a gradient is rounded on its way to the head, and a small step lost."""
        return self.dtypes != _AS_IT_IS

    @property
    def _not_read(self) -> str:
        if self.is_narrow:
            return f"in {self.dtypes[0]}, its gradient is read at logits alone, and none reaches them"
        return _NOT_READ

    def _find_layout(self) -> None:
        """Find the layout of a model with codebooks, and judge it under the spec in that layout."""
        plain = self.spec
        refused: list[str] = []

        def ask(layout: ModelLayout, length: int) -> Tensor | None:
            self._take(layout, plain)
            case = super(ModelTrial, self).case(replace(self._first_recipe(), rows=1, length=length))
            outcome = answered(self._call(Asked(case)), self.candidate.name)
            if isinstance(outcome, Returned):
                return outcome.outputs["logits"]
            refused.append(f"for tokens of {layout.codebooks} codebooks as {layout.tokens} it {outcome.describe()}")
            return None

        found = find_layouts(plain, ask)
        if not found:
            raise UsageError(
                f"{self.candidate.name} gives no loss and logits for tokens and labels of 2 to {MOST_CODEBOOKS} "
                f"codebooks; {plain.name} is for models that do{': ' if refused else ''}{''.join(refused[:1])}"
            )
        for layout in (*found, found[0]):  # the first one, if the model is right in none
            self._take(layout, plain)
            if self._measure() is not None:
                self._check_extra()
                if self._is_right():
                    return

    def _is_right(self) -> bool:
        """Whether the loss is right on one case, and no earlier row of logits sees the last frame."""
        case = self.case(replace(self._first_recipe(), length=5, ids=Ids.SEEDED))
        seen = self.answer(Asked(case))
        if seen.problem is not None or seen.value is None or seen.case.oracle.value is None:
            return False
        if not same_value(seen.value, seen.case.oracle.value, self.bounds(seen).value):
            return False
        tokens, labels = (case.batch.tensor(name).clone() for name in ("input_ids", "labels"))
        for last in (tokens[:, -1], labels[:, -1]):
            last.copy_((last + 1) % self.classes)
        other = self.variation(case, lambda batch: replace(batch, input_ids=tokens, labels=labels))
        after = self.answer(Asked(other))
        return after.problem is None and not bool(moved_rows(seen, after)[:, :-1].any())

    def _take(self, layout: ModelLayout, spec: LossSpec) -> None:
        laid_out = [("labels", layout.labels), ("logits", layout.logits or "b s k v")]
        self.layout, self.spec = layout, replace(spec, layouts=tuple(laid_out))

    def _first_recipe(self) -> Recipe:
        codebooks = 1 if self.layout is None else self.layout.codebooks
        first = Recipe(rows=_FIRST_ROWS, length=3, classes=self.classes, masks=(Mask.NONE,), ids=Ids.COUNTING)
        return replace(first, codebooks=codebooks)

    def _canonical(self, logits: Tensor, rows: int) -> Tensor:
        """Bring logits of the model into [B, L, V] or [B, L, K, V]. Raises ValueError if that is not their layout."""
        if self.layout is not None:
            return self.layout.canonical_logits(logits, rows)
        if logits.dim() == 2 and rows and len(logits) % rows == 0:
            logits = logits.view(rows, -1, logits.shape[-1])
        return F.pad(logits, (0, 0, 0, self.short)) if logits.dim() == 3 else logits

    def _whole(self, watched: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What was found in a model, with the rows that its logits leave out."""
        rows = ("hidden", "hidden_gradient")
        return {name: F.pad(each, (0, 0, 0, self.short)) if name in rows else each for name, each in watched.items()}

    def _find_route(self, first: Returned) -> Route:
        """Find where to read the gradient of a loss that may not flow, or not wholly, through the returned logits."""
        outcome = self._call(Asked(super().case(self._first_recipe())), watch=True)
        # A model that cannot be watched is read as it showed itself without.
        shown = (outcome if isinstance(outcome, Returned) else first).output_gradients
        watched = outcome.watched if isinstance(outcome, Returned) else {}
        returned, original = shown.get("logits"), watched.get("logits_gradient")
        if is_given(returned) and not is_more(original, returned):
            return Route.RETURNED
        if is_given(original):
            return Route.COPIED
        if self.is_narrow:
            return Route.NOWHERE
        if is_given(watched.get("hidden_gradient")) or is_given(watched.get("weight_gradient")):
            return Route.HEAD
        moves = self.nudge(super().case(self._first_recipe()))
        return Route.PARAMETERS if isinstance(moves, Slopes) and moves.tells else Route.NOWHERE

    def _measure(self) -> Returned | None:
        """Call the model on a small case, and note its sizes. Return the outcome, or None without enough logits."""
        recipe = self._first_recipe()
        outcome = answered(self._call(Asked(super().case(recipe))), self.candidate.name)
        if not isinstance(outcome, Returned):
            return None
        try:
            shape = self._canonical(outcome.outputs["logits"], recipe.rows).shape
        except ValueError:
            return None
        if len(shape) != (3 if self.layout is None else 4) or shape[0] != recipe.rows:
            return None
        # A model that scores the token after each may leave out the last logits, which have none after them.
        missing = recipe.length - shape[1]
        if missing > 0 and (missing > 1 or self.layout is not None or not self.spec.terms[0].shift):
            return None
        self.classes, self.extra, self.short = shape[-1], max(-missing, 0), max(missing, 0)
        return outcome

    def _own(self, space: Space) -> Space:
        """The part of a space that is for models."""
        left = {name: choices for name, choices in space.items() if name not in ("shift_labels", "regime")}
        own = {**self.sizes.restrict({"rows": _ROWS, "length": _LENGTHS}), "classes": (self.classes,)}
        if self.layout is not None:
            own["codebooks"] = (self.layout.codebooks,)
        return left | own | ({"extra": (self.extra,)} if "extra" in space else {})

    def skip_reason(self, law: str) -> str | None:
        if law not in _ASKED:
            return "it is a model, whose logits cannot be chosen"
        if self.binding.makes_labels and law in _OF_LABELS:
            return "it makes its labels itself, of the tokens that it is given"
        if law == "ALIGN-2" and self.shifts_inputs:
            return "its labels are also its inputs, so they change its logits"
        if law in _OF_THE_LOGITS and self.route in (Route.HEAD, Route.PARAMETERS):
            where = (
                "MODEL-5 judges the gradient at its head" if self.route is Route.HEAD else "MODEL-6 judges the gradient"
            )
            return f"its loss is not computed from the logits that it returns: {where}"
        if law in (*_OF_THE_LOGITS, "MODEL-5", "MODEL-6") and self.route is Route.NOWHERE:
            return self._not_read
        return None

    def fit(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the model's own extra logits, dtype and classes, in sizes for models."""
        own = replace(
            recipe,
            extra=self.extra,
            regime=Regime.NORMAL,
            stride=Stride.CONTIGUOUS,
            dtype=self.dtypes[0],
            rows=min(recipe.rows, max(_ROWS)),
            length=min(recipe.length, max(_LENGTHS)),
        )
        own = replace(super().fit(own), classes=self.classes)
        if self.binding.makes_labels:
            own = replace(own, masks=(Mask.NONE,))
        return own if self.layout is None else replace(own, codebooks=self.layout.codebooks)

    @property
    def _reads_inputs(self) -> bool:
        """Whether the loss of a decoder depends on its inputs, so that a case must have them as they are."""
        return self.layout is not None and self.spec.terms[0].stops_at_eos

    def case(self, recipe: Recipe) -> Case:
        case = super().case(self.fit(recipe))
        return self.variation(case, lambda batch: batch) if self._reads_inputs else case

    def variation(self, case: Case, change: Callable[[Batch], Batch]) -> Case:
        changed = super().variation(case, change)
        if not self._reads_inputs:
            return changed
        return super().variation(changed, lambda batch: replace(batch, input_ids=self._taken(changed)))

    def observe_cached(self, recipe: Recipe, variant: Variant = PLAIN) -> Observation:
        return super().observe_cached(self.fit(recipe), variant)

    def scored(self, recipe: Recipe) -> Case:
        return self.observe_cached(recipe).case

    def answer(self, asked: Asked) -> Observation:
        """Give the model the case's tokens. The observation's case has the logits that the model made from them."""
        return self._answer(asked, watch=asked.records and self.route in (Route.COPIED, Route.HEAD))

    def logits_of(self, case: Case) -> Tensor | None:
        """The logits of one call, as the model returns them, of whatever shape. None if the call gives none."""
        outcome = self._call(Asked(case))
        return outcome.outputs["logits"] if isinstance(outcome, Returned) else None

    def watch(self, case: Case, grad_output: float = 1.0) -> Observation:
        """Observe the model on a case, and find its head too."""
        return self._answer(Asked(case, grad_output), watch=True)

    def nudge(self, case: Case, manner: Manner = ORDINARY) -> Slopes | Observation:
        """Measure the slope of the loss along a direction of the model's parameters, by its gradient and its logits.

        Return an observation if the slopes cannot be measured.
        """
        outcome = self._call(Asked(case, manner=manner), watch=True, nudge=_NUDGE)
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        nudged = outcome.watched.get("nudged")
        if nudged is None or "slope" not in outcome.watched or not bool(nudged.isfinite().all()):
            return Observation(case, None)
        values = []
        for logits in nudged:
            batch = replace(case.batch, logits=self._canonical(logits, case.recipe.rows).float())
            values.append(evaluate(build_pairing(case.spec, batch), batch).value)
        ahead, behind, half_ahead, half_behind = (float("nan") if value is None else value for value in values)
        rough, fine = (ahead - behind) / (2 * _NUDGE), (half_ahead - half_behind) / _NUDGE
        return Slopes(float(outcome.watched["slope"]), fine + (fine - rough) / 3, abs(fine - rough))

    def bounds(self, observation: Observation) -> Bounds:
        bounds = super().bounds(observation)
        if observation.off is None:
            return bounds
        return replace(bounds, value=bounds.value + moved_value(observation.case, observation.off))

    def _answer(self, asked: Asked, watch: bool) -> Observation:
        case = asked.case
        outcome = self._call(asked, watch)
        if asked.manner.train_mode and isinstance(outcome, Unusable) and not self.shows_loss_alone:
            self.shows_loss_alone = True
            again = self._call(asked)
            self.shows_loss_alone = isinstance(again, Returned)
            outcome = again if self.shows_loss_alone else outcome
        if not isinstance(outcome, Returned):
            return Observation(case, problem_of(outcome))
        logits, gradient = outcome.outputs["logits"], outcome.output_gradients.get("logits")
        off = None
        if self.route is Route.COPIED:
            logits = outcome.watched.get("logits", logits)
            gradient = outcome.watched.get("logits_gradient")
        if self.route in (Route.COPIED, Route.HEAD) and not asked.records:  # watching needs a graph
            found = self._answer(Asked(case), watch=True)
            off = found.off
            if self.route is Route.COPIED and found.problem is None:
                watched = found.case.batch.tensor("logits")
                logits = watched if self.layout is None else self.layout.lay_out_logits(watched)
        if wrong := self._wrong_logits(case, logits):
            return Observation(case, wrong)
        logits = self._canonical(logits, case.recipe.rows)
        batch = replace(case.batch, logits=as_judged(logits))
        pairing = build_pairing(case.spec, batch)
        own = replace(case, batch=batch, pairing=pairing, oracle=evaluate(pairing, batch))
        seen = self._read(own, outcome, {})
        if seen.problem is not None:
            return seen
        head = read_head(self._whole(outcome.watched), logits) if self.layout is None else None
        if head is not None and self.route is Route.HEAD:
            off = head.rounding
        gradients = None
        if gradient is not None and self.candidate.gradient:
            gradients = {"logits": self._canonical(gradient, case.recipe.rows).double()}
        return replace(seen, gradients=gradients, head=head, off=off)

    def _call(self, asked: Asked, watch: bool = False, nudge: float = 0.0) -> Outcome:
        call = self.call_of(asked, ())
        if self.layout is not None:
            name = self.binding.names["input_ids"]
            call = replace(call, tensors={**call.tensors, name: self._tokens(asked.case)})
            if asked.other is not None:
                call = replace(call, other={**call.other, name: self._tokens(asked.other)})
        apart = asked.manner.train_mode is True and self.shows_loss_alone
        call = replace(call, outputs=self.spec.logits, outputs_apart=apart, watch=watch, nudge=nudge)
        call = replace(call, model_dtype="" if self.dtypes == _AS_IT_IS else self.dtypes[0])
        return self.send(call, asked.case.recipe)

    def _tokens(self, case: Case) -> Tensor:
        """The tokens of a model with codebooks, in its own layout."""
        assert self.layout is not None
        return self.layout.lay_out_tokens(self._taken(case))

    def _taken(self, case: Case) -> Tensor:
        """The tokens that a model with codebooks takes. A decoder of shifted inputs sees its labels, shifted right."""
        tokens, labels = case.batch.tensor("input_ids"), case.batch.tensor("labels")
        if self.shifts_inputs:
            if self._reads_inputs:  # they are the inputs already: what stands beside a label is the input after it
                tokens = torch.cat((tokens[:, 1:], tokens[:, -1:]), 1)
            known = torch.where((labels >= 0) & (labels < self.classes), labels, tokens)
            first = torch.full_like(known[:, :1], case.batch.bos_token_id or 0)
            tokens = torch.cat((first, known[:, :-1]), 1)
        return tokens

    def _wrong_logits(self, case: Case, logits: Tensor) -> Problem | None:
        rows, length, *codebooks = case.batch.tensor("labels").shape
        expected = [rows, length + self.extra - self.short, *codebooks, self.classes]
        if self.layout is not None:
            expected = list(self.layout.lay_out_logits(torch.empty(expected, device="meta")).shape)
        flat = [rows * expected[1], *expected[2:]] if self.layout is None else expected
        if list(logits.shape) in (expected, flat) and logits.is_floating_point():
            return None
        dtype = str(logits.dtype).removeprefix("torch.")
        return Problem(
            Verdict.ERROR, "wrong shape", f"returned {dtype} logits {list(logits.shape)}; expected floating {expected}"
        )


def is_given(gradient: Tensor | None) -> bool:
    """Whether there is a gradient and it is not zero everywhere."""
    return gradient is not None and bool(gradient.any())


def is_more(original: Tensor | None, returned: Tensor | None) -> bool:
    """Whether the original of some logits got another gradient than they: a part of the loss is made of it directly."""
    if original is None or returned is None or original.shape != returned.shape:
        return False
    scale = float(original.double().abs().amax())
    off = _ROUNDING[str(returned.dtype).removeprefix("torch.")]
    return not torch.allclose(original.double(), returned.double(), rtol=0.0, atol=off * scale)


def as_judged(logits: Tensor) -> Tensor:
    """The logits that a loss is judged on: in their own dtype if that is a narrow one, else in float32."""
    return logits if logits.dtype in (torch.bfloat16, torch.float16) else logits.float()


def moved_rows(before: Observation, after: Observation, name: str = "logits") -> Tensor:
    """The rows of logits, bool [B, L] or [B, L, K], that differ between two observations by more than rounding."""
    one, other = (seen.case.batch.tensor(name).double() for seen in (before, after))
    scale = float(one[one.isfinite()].abs().amax()) if bool(one.isfinite().any()) else 1.0
    off = _ROUNDING[before.case.recipe.dtype] * max(scale, 1e-6)
    return torch.isclose(one, other, rtol=0.0, atol=off, equal_nan=True).logical_not().any(-1)


_ROUNDING = {"float64": 1e-3, "float32": 1e-3, "bfloat16": 3e-2, "float16": 8e-3}
"""Dtype -> how much the same arithmetic in another order may differ, of the largest logit."""
