"""Laws on the forms of the arguments besides the logits: memory layout of labels, kinds of counts, sentinels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import Denominator, LossSpec

from ..candidates.loss import Observation, Trial
from ..candidates.variant import Manner, Variant
from ..cases.build import Case
from ..cases.recipe import Count, Recipe
from .base import Judgement, law, needs, on
from .numerics import judge_shown, ordinary

_LAYOUTS = ("strided", "transposed", "sliced", "sequence_first", "offset")
_COUNT = "num_items_in_batch"


def _laid_out(layout: str) -> Variant:
    return Variant(
        f"labels {layout}",
        manner=lambda case: Manner(layout=layout),
        refusable=True,
        words=lambda case: f"with labels, masks and weights that are {layout.replace('_', ' ')} in memory",
    )


@law(
    "LAYOUT-3",
    "labels, masks and weights that are not contiguous give the right answer or are refused, never a wrong answer",
    source="labels are slices of longer buffers; kernels read them by address",
    budget=6,
    skip_reason=needs("layouts"),
    restrict=ordinary,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
)
@on(*map(_laid_out, _LAYOUTS))
def layout_of_labels(trial: Trial, observed: Observation) -> Judgement:
    return judge_shown(trial, observed)


def _counted(recipe: Recipe) -> Recipe:
    """The recipe with a count: that of the batch, more or less."""
    kinds = (Count.GLOBAL, Count.FEWER, Count.VALID)
    return recipe if recipe.count is not Count.ABSENT else replace(recipe, count=kinds[recipe.seed % len(kinds)])


def _needs_count(spec: LossSpec) -> str | None:
    by_count = Denominator.NUM_ITEMS, Denominator.NUM_ITEMS_OR_VALID
    return None if any(term.denominator in by_count for term in spec.terms) else f"the spec does not divide by {_COUNT}"


@law(
    "COUNT-1",
    "num_items_in_batch as a tensor of one number gives the right answer or is refused, never a wrong answer",
    source="transformers' Trainer gathers the count over processes, so it is a tensor",
    budget=14,
    restrict=ordinary,
    adapt=_counted,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    skip_reason=lambda trial: (
        _needs_count(trial.spec) or (None if trial.binding.takes(_COUNT) else f"the candidate does not take {_COUNT}")
    ),
)
@on(
    Variant(
        "tensor count",
        manner=lambda case: Manner(count="tensor"),
        refusable=True,
        words=lambda case: f"with {_COUNT} as a tensor of one number",
    )
)
def count_as_tensor(trial: Trial, observed: Observation) -> Judgement:
    return judge_shown(trial, observed)


@law(
    "COUNT-2",
    "num_items_in_batch through **kwargs is divided by, or refused, never ignored",
    source="transformers#34191: trainers pass the count to whatever takes **kwargs",
    budget=14,
    restrict=ordinary,
    adapt=_counted,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    skip_reason=lambda trial: (
        _needs_count(trial.spec)
        or (
            None
            if trial.binding.takes_any_keyword and not trial.binding.takes(_COUNT)
            else f"the candidate names {_COUNT}, or takes no **kwargs"
        )
    ),
)
@on(
    Variant(
        "count through **kwargs",
        manner=lambda case: Manner(count="keyword"),
        refusable=True,
        words=lambda case: f"with {_COUNT} through **kwargs",
    )
)
def count_through_kwargs(trial: Trial, observed: Observation) -> Judgement:
    return judge_shown(trial, observed)


def _marked_by(sentinel: Callable[[Case], int]) -> Variant:
    """Another ignore_index in the spec, and in the labels in place of the one before."""

    def spec(case: Case) -> LossSpec:
        terms = (replace(term, ignore_index=sentinel(case)) for term in case.spec.terms)
        return replace(case.spec, terms=tuple(terms))

    def marked(case: Case) -> Batch:
        was = case.spec.terms[0].ignore_index
        changed: dict[str, Any] = {}
        for name in (*case.spec.labels, "shift_labels"):
            labels = getattr(case.batch, name)
            if labels is not None:
                changed[name] = labels.masked_fill(labels == was, sentinel(case))
        return replace(case.batch, **changed)

    return Variant(
        sentinel.__name__,
        spec=spec,
        change=marked,
        words=lambda case: f"with ignore_index {case.spec.terms[0].ignore_index}",
    )


def _no_class(case: Case) -> int:
    return -7  # no sentinel in use


def _a_class(case: Case) -> int:
    """As when padding is ignored by its id."""
    return case.recipe.seed % case.recipe.classes


@law(
    "IGNORE-1",
    "another ignore_index, a class among them, marks the labels that are not trained on",
    source="F.cross_entropy(ignore_index=pad_token_id); losses that write -100 or labels >= 0",
    budget=10,
    restrict=ordinary,
    depends_on=("CONTRACT-1", "ALIGN-1", "SELECT-1", "VALUE-1"),
    skip_reason=lambda trial: (
        "the candidate does not take ignore_index"
        if not trial.binding.takes("ignore_index")
        else "the spec's terms have no ignore_index, or not the same"
        if len({term.ignore_index for term in trial.spec.terms}) > 1 or trial.spec.terms[0].ignore_index is None
        else None
    ),
)
@on(_marked_by(_no_class), _marked_by(_a_class))
def another_ignore_index(trial: Trial, observed: Observation) -> Judgement:
    return judge_shown(trial, observed)
