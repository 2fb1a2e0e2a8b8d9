"""Laws on models: what can affect the logits of a row, and what must not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import Axis, LossSpec, LossTerm, ShiftedBy

from ..bounds.compare import compare_tensors
from ..candidates.arguments import OF_STREAMS
from ..candidates.head import head_gradients
from ..candidates.loss import Observation, Trial
from ..candidates.model import ModelTrial, Route, Slopes, moved_rows
from ..candidates.model_gaps import with_array
from ..candidates.model_several import SeveralTrial
from ..candidates.variant import Manner, Variant
from ..cases.build import Case, classes_of
from ..cases.linear import HIDDEN, WEIGHT
from ..cases.recipe import Count, Mask, Recipe, ShiftLabels
from ..cases.space import Space
from ..results import Level
from .base import (
    NOT_APPLICABLE,
    PASS,
    Judgement,
    failing,
    law,
    needs_gradient,
    not_answered,
    on,
    trained,
    trains,
    vacuous,
)
from .numerics import factor_of, judge_both, judge_shown, ordinary

_SEVERAL = 3


def needs_model(trial: Trial) -> str | None:
    return None if trial.makes_logits else "it takes logits as input"


def unmasked(recipe: Recipe) -> Recipe:
    """Return a recipe of at least two rows of some length, with every label kept."""
    return replace(
        recipe, rows=max(recipe.rows, 2), length=max(recipe.length, _SEVERAL), masks=(Mask.NONE,), count=Count.ABSENT
    )


def _positions(case: Case) -> Tensor:
    """The position of each label [B, S]."""
    rows, length = case.batch.tensor("labels").shape[:2]
    return torch.arange(length).expand(rows, length)


def _first_row(case: Case) -> Tensor:
    """Where the first sequence stands, bool [B, S]."""
    positions = _positions(case)
    return (torch.arange(len(positions)) == 0)[:, None].expand_as(positions)


def _at(places: Tensor, like: Tensor) -> Tensor:
    """``places`` [B, S] for each codebook, if the array ``like`` has any."""
    return places.view(*places.shape, *[1] * (like.dim() - 2)).expand_as(like)


def _tokens_of(case: Case) -> tuple[str, ...]:
    """The arrays of tokens that a model sees."""
    return ("input_ids", *OF_STREAMS[1:]) if "audio_labels" in case.spec.labels else ("input_ids",)


def _other_tokens(case: Case, of: Iterable[str], where: Tensor) -> Batch:
    """The batch with other tokens in the arrays ``of`` at ``where``, bool [B, S]."""
    other: dict[str, Any] = {}
    for name in of:
        tokens = case.batch.tensor(name)
        classes = classes_of(case.spec, "audio_labels" if name in OF_STREAMS else "labels", case.recipe)
        other[name] = torch.where(_at(where, tokens) & (tokens >= 0), (tokens + 1) % classes, tokens)
    return replace(case.batch, **other)


def _judge_moved(
    trial: Trial, after: Observation, still: Tensor, what: str, names: Iterable[str] | None = None
) -> Judgement:
    """Judge that the logits of the labels did not move where they should be ``still``, bool [B, S] or [B, S, K]."""
    before = trained(trial, after.case.recipe)
    if isinstance(before, Judgement):
        return before
    for name in after.case.spec.logits if names is None else names:
        extra = before.case.batch.tensor(name).shape[1] - still.shape[1]
        moved = moved_rows(before, after, name)[:, extra:]
        found = moved & (_at(still, moved) if still.dim() == 2 else still)
        if bool(found.any()):
            of = name.removesuffix("logits").replace("_", " ")
            first = found.nonzero()[0].tolist()
            return failing(f"{what} {int(found.sum())} rows of {of}logits that must not move; the first is {first}")
    return PASS


def _of_depth(spec: LossSpec) -> LossTerm | None:
    """The term of a depth decoder, which predicts the codebooks of a frame one after the other. None if there is none.

    It takes the codebooks before from the labels: those of the same array as the backbone's, or those of a stream whose
    frames in the inputs are the ones before.
    """
    several = spec.terms if len(spec.logits) > 1 else ()
    return next((of for of in several if of.axis is Axis.CODEBOOK or of.shifted_by is ShiftedBy.INPUTS), None)


def _needs_depth(trial: Trial) -> str | None:
    return needs_model(trial) or (None if _of_depth(trial.spec) else "the spec has no depth decoder")


def _from(case: Case) -> int:
    return 1 + case.recipe.seed % (case.recipe.length - 1)


def _later_changed(case: Case) -> Batch:
    # The row of a decoder that shifts its labels sees at t the labels before t.
    of = ("labels",) if case.spec.terms[0].shifted_by is ShiftedBy.INPUTS else _tokens_of(case)
    if _of_depth(case.spec) is not None:  # its decoder sees the labels of a frame
        of = (*of, *case.spec.labels)
    return _other_tokens(case, of, _positions(case) >= _from(case))


@law(
    "MODEL-1",
    "a later token does not move an earlier row of logits",
    source="a row that sees the token it is scored on learns to copy; causal attention in every decoder",
    budget=30,
    adapt=unmasked,
    skip_reason=needs_model,
    points_to=("sees-its-target",),
)
@on(Variant("later tokens changed", change=_later_changed))
def causal(trial: Trial, after: Observation) -> Judgement:
    case, at = after.case, _from(after.case)
    what, last = ("labels", at) if trial.shifts_inputs else ("tokens", at - 1)
    return _judge_moved(trial, after, _positions(case) <= last, f"other {what} from position {at} on move")


@law(
    "MODEL-2",
    "what one sequence holds does not move the logits of another",
    source="rows of a batch are independent; padding-free batches without a mask of documents",
    budget=20,
    adapt=unmasked,
    skip_reason=needs_model,
    points_to=("sees-other-rows",),
)
@on(
    Variant(
        "first sequence changed",
        change=lambda case: _other_tokens(case, (*_tokens_of(case), *case.spec.labels), _first_row(case)),
    )
)
def rows_apart(trial: Trial, after: Observation) -> Judgement:
    return _judge_moved(trial, after, ~_first_row(after.case), "other tokens in the first sequence move")


LABELS_CHANGED = Variant(
    "labels changed", change=lambda case: _other_tokens(case, case.spec.labels, _positions(case) >= 0)
)


@law(
    "MODEL-3",
    "labels do not move the logits",
    source="what is scored must not depend on what it is scored on",
    budget=20,
    adapt=unmasked,
    skip_reason=lambda trial: needs_model(trial) or ("its labels are its inputs too" if trial.shifts_inputs else None),
)
@on(LABELS_CHANGED)
def labels_apart(trial: Trial, after: Observation) -> Judgement:
    # A depth decoder takes its inputs from the labels: MODEL-8 says which.
    names = [term.logits for term in trial.spec.terms if term != _of_depth(trial.spec)]
    return _judge_moved(trial, after, _positions(after.case) >= 0, "other labels move", names)


def _from_codebook(case: Case) -> int:
    return 1 + case.recipe.seed % (case.recipe.codebooks - 1)


def _later_codebooks_changed(case: Case) -> Batch:
    """Other labels in the codebooks from one on, in every frame."""
    term = _of_depth(case.spec)
    assert term is not None, "the law is for a depth decoder"
    labels, classes = case.batch.tensor(term.labels).clone(), classes_of(case.spec, term.labels, case.recipe)
    later = labels[..., _from_codebook(case) :]
    later.copy_(torch.where((later >= 0) & (later < classes), (later + 1) % classes, later))
    return with_array(case.batch, term.labels, labels)


def _later_codebooks_of_the_last_changed(case: Case) -> Batch:
    """Other tokens in the codebooks from one on, in the last frame, which no later frame sees."""
    tokens = case.batch.tensor("input_ids").clone()
    later = tokens[:, -1, _from_codebook(case) :]
    later.copy_((later + 1) % case.recipe.classes)
    return replace(case.batch, input_ids=tokens)


_OF_THE_LAST = Variant(
    "later codebooks of the last frame changed",
    change=_later_codebooks_of_the_last_changed,
    wanted=lambda trial: any(term.axis is Axis.CODEBOOK for term in trial.spec.terms),
)


@law(
    "MODEL-8",
    "within a frame, a codebook's logits depend on earlier codebooks alone",
    source="a depth decoder that sees the code that it predicts copies it; CSM, Moshi and others feed it from labels",
    budget=20,
    adapt=unmasked,
    skip_reason=_needs_depth,
    points_to=("sees-its-target",),
)
@on(Variant("later codebooks changed", change=_later_codebooks_changed), _OF_THE_LAST)
def causal_in_a_frame(trial: Trial, after: Observation) -> Judgement:
    case, term = after.case, _of_depth(trial.spec)
    assert term is not None, "the law is for a depth decoder"
    at, shift = _from_codebook(case), term.shift if term.axis is Axis.CODEBOOK else 0
    # Head j predicts codebook j + shift, and sees those before it.
    still = (torch.arange(case.recipe.codebooks - shift) + shift <= at).expand(*_positions(case).shape, -1)
    if not torch.equal(case.batch.tensor("input_ids"), trial.case(case.recipe).batch.tensor("input_ids")):
        still = still & (_positions(case) == case.recipe.length - 1)[..., None]
    return _judge_moved(trial, after, still, f"other codebooks from {at} on move", (term.logits,))


def _one_label_ignored(case: Case) -> Batch:
    """The label of one codebook ignored, in one frame of each sequence whose labels are all there."""
    labels = case.batch.tensor("labels").clone()
    book = case.recipe.seed % case.recipe.codebooks
    for row in range(len(labels)):
        whole = (labels[row] >= 0).all(-1).nonzero()
        if len(whole):
            labels[row, int(whole[-1]), book] = -100
    return replace(case.batch, labels=labels)


@law(
    "MODEL-9",
    "a frame of which some codebooks are ignored is scored on the others",
    source="a depth decoder that is fed from labels gets the ignored ones as tokens (CSM raises IndexError)",
    budget=10,
    level=Level.SHOULD,
    adapt=unmasked,
    depends_on=("CONTRACT-1", "VALUE-1"),
    skip_reason=lambda trial: (
        _needs_depth(trial)
        or (None if any(term.axis is Axis.CODEBOOK for term in trial.spec.terms) else "MODEL-10 asks about its streams")
    ),
)
@on(Variant("one label of a frame ignored", change=_one_label_ignored))
def frame_with_a_hole(trial: Trial, observed: Observation) -> Judgement:
    return judge_shown(trial, observed)


@law(
    "MODEL-10",
    "the model answers where the labels of one stream are ignored, and where all are",
    source="a depth decoder embeds labels (Moshi: IndexError for −100 in text_labels), or has no frame (CSM)",
    budget=10,
    calls_again=True,
    adapt=unmasked,
    skip_reason=lambda trial: None if isinstance(trial, SeveralTrial) else "it is no model of several arrays of logits",
)
def answers_without(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, SeveralTrial)
    for gap in trial.gaps:
        seen = trial.without(recipe, gap)
        if seen.problem is not None:
            refused = not_answered(seen)
            return replace(refused, message=f"with {gap.name} ignored it {refused.message}")
    if trial.untaken:  # no other case is without these labels, so an answer now must not hide that
        names = ", ".join(gap.name for gap in trial.untaken)
        return failing(f"the first time that it was called with {names} ignored, it gave no answer")
    return PASS


def shifted(space: Space) -> Space:
    return {**space, "shift_labels": (ShiftLabels.PADDED, ShiftLabels.SHARDED)}


@law(
    "MODEL-4",
    "shift_labels, where given, are scored in place of the labels",
    source="transformers ForCausalLMLoss; sequence parallelism passes them, and many models silently drop them",
    budget=20,
    calls_again=True,
    level=Level.SHOULD,
    restrict=shifted,
    depends_on=("CONTRACT-1", "VALUE-1"),
    skip_reason=lambda trial: (
        needs_model(trial)
        or (None if trial.spec.terms[0].accepts_shift_labels else "its spec does not support shift_labels")
        or (None if trial.binding.takes("shift_labels") else "it does not take shift_labels")
    ),
)
def takes_shift_labels(trial: Trial, recipe: Recipe) -> Judgement:
    if recipe.shift_labels is ShiftLabels.ABSENT:
        return NOT_APPLICABLE
    observed = trained(trial, recipe)
    return observed if isinstance(observed, Judgement) else judge_both(trial, observed)


def _masked_in(dtype: str) -> Variant:
    return Variant(
        f"attention mask, {dtype}",
        manner=lambda case: Manner(mask=dtype),
        refusable=True,
        words=lambda case: f"with an attention_mask of {dtype}",
    )


def _padded(recipe: Recipe) -> Recipe:
    """The recipe with rows that are padded on the left and on the right."""
    rows, length = max(recipe.rows, 3), max(recipe.length, _SEVERAL)
    return replace(recipe, rows=rows, length=length, masks=(Mask.LEFT, Mask.PADDING, Mask.NONE))


@law(
    "MODEL-7",
    "with an attention mask, of integers or bools, the loss is right or refused, never wrong",
    source="collators pass int64 masks, attention kernels want bools; models that also mask their loss by it",
    budget=10,
    adapt=_padded,
    depends_on=("CONTRACT-1", "VALUE-1"),
    skip_reason=lambda trial: (
        needs_model(trial) or (None if "attention_mask" in trial.binding.withheld else "it takes no attention_mask")
    ),
)
@on(_masked_in("int64"), _masked_in("bool"))
def with_attention_mask(trial: Trial, observed: Observation) -> Judgement:
    return judge_shown(trial, observed)


def several(recipe: Recipe) -> Recipe:
    """Return a recipe of at least two rows of some length."""
    return replace(recipe, rows=max(recipe.rows, 2), length=max(recipe.length, _SEVERAL))


@law(
    "MODEL-5",
    "the gradients at the head's hidden states and weight are those that the logits' comes to",
    source="any fused loss, or a loss on logits that are not returned: ∂L/∂h = G·W, ∂L/∂W = Gᵀ·h, with G = ∂L/∂logits",
    budget=30,
    calls_again=True,
    restrict=ordinary,
    adapt=several,
    depends_on=("CONTRACT-1", "ALIGN-1", "ALIGN-2", "VALUE-1", "GRAD-1"),
    skip_reason=lambda trial: needs_model(trial) or _needs_its_gradient(trial),
)
def at_its_head(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, ModelTrial)
    case = trial.case(recipe)
    if not trains(case):
        return NOT_APPLICABLE
    grad_output = factor_of(case) if recipe.seed % 2 else 1.0
    observed = trial.watch(case, grad_output)
    if observed.problem is not None:
        return not_answered(observed)
    if observed.head is None:
        return NOT_APPLICABLE  # its logits are not the product of two of its tensors
    right, allowed = head_gradients(observed.case, observed.head, trial.bounds(observed))
    given = {HIDDEN: observed.head.hidden_gradient, WEIGHT: observed.head.weight_gradient}
    if not any(gradient is not None for gradient in given.values()):
        return failing("the loss has no gradient at the head, so nothing can be learned from it", "no gradient")
    for name, gradient in given.items():
        if gradient is None:
            if name == WEIGHT:
                continue  # the weight is frozen
            gradient = torch.zeros_like(right[name])
        coming = "" if grad_output == 1 else f"with an incoming gradient of {grad_output:g}: "
        found = gradient.double().reshape(right[name].shape)
        mismatch = compare_tensors(found, right[name] * grad_output, allowed[name] * max(abs(grad_output), 1.0))
        if mismatch is not None:
            return failing(f"{coming}{mismatch.describe(f'gradient at the {_CALLED[name]}')}", name)
        if compare_tensors(torch.zeros_like(found), right[name], allowed[name]) is None:
            return vacuous(f"no gradient at the {_CALLED[name]}")
    return PASS


_CALLED = {HIDDEN: "head's input", WEIGHT: "head's weight"}


def _needs_its_gradient(trial: Trial) -> str | None:
    if isinstance(trial, ModelTrial) and trial.is_narrow:
        return f"in {trial.dtypes[0]}, its gradient is rounded once more on the way to the head"
    if not isinstance(trial, ModelTrial) or trial.route is Route.RETURNED:
        return needs_gradient(trial)
    return "no hidden states and weight were found that make its logits" if trial.route is Route.PARAMETERS else None


@law(
    "MODEL-6",
    "the loss moves with the model's parameters as its gradient says",
    source="any loss that is computed out of sight: differences of its values approximate its derivative",
    budget=30,
    calls_again=True,
    restrict=ordinary,
    adapt=several,
    depends_on=("CONTRACT-1", "ALIGN-2", "VALUE-1"),
    skip_reason=lambda trial: (
        needs_model(trial)
        or (
            None
            if isinstance(trial, ModelTrial) and trial.route is Route.PARAMETERS
            else "its gradient is read elsewhere"
        )
    ),
)
def along_its_parameters(trial: Trial, recipe: Recipe) -> Judgement:
    assert isinstance(trial, ModelTrial)
    case = trial.case(recipe)
    if not trains(case):
        return NOT_APPLICABLE
    return judge_slopes(trial.nudge(case))


def judge_slopes(found: Slopes | Observation) -> Judgement:
    """Compare the slope of a loss by its gradient with that by the model's logits."""
    if not isinstance(found, Slopes):
        return not_answered(found) if found.problem is not None else NOT_APPLICABLE
    if not found.tells:
        return vacuous("any gradient, since the loss hardly moves with the parameters")
    if found.agree:
        return PASS
    message = f"the gradient predicts a rise of {found.claimed:.4g} per step, but the loss rises by {found.right:.4g}"
    return failing(f"along a direction of the model's parameters, {message}", "slope")
