"""Laws that compare a candidate with itself: what must not change when what does not matter is changed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import Denominator

from ..compare import compare_tensors, same_value
from ..recipe import Recipe, ShiftLabels
from ..regimes import bell
from ..trial import Trial
from ..verdict import Verdict
from .base import NOT_MEANT, PASS, Judgement, failing, law, needs_gradient, not_answered, trained
from .numbers import judge_both

_PADDING = 3
_OFFSET = {"float32": 1000.0, "float64": 1000.0}  # in 16 bits, 1000 and 1001 are the same number
_OFFSET_16_BITS = 16.0


@law(
    "INVAR-1",
    "padding a batch with ignored columns changes nothing",
    source="the number of tokens in a batch must not depend on how it is padded",
    budget=30,
    presumes=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    excuse=lambda trial: (
        "the spec counts every position, padding too"
        if trial.spec.terms[0].denominator is Denominator.POSITIONS
        else "the spec has no marker for ignored labels"
        if trial.spec.terms[0].ignore_index is None and not trial.spec.terms[0].loss_mask
        else None
    ),
    focus=lambda recipe: replace(recipe, shift_labels=ShiftLabels.ABSENT),
)
def padding(trial: Trial, recipe: Recipe) -> Judgement:
    before = trained(trial, recipe)
    if isinstance(before, Judgement):
        return before
    case = trial.variation(before.case, lambda batch: pad(batch, trial.spec.terms[0].ignore_index, recipe.seed))
    after = trial.observe(case)
    if after.problem is not None:
        return not_answered(after)
    assert before.value is not None
    assert after.value is not None
    allowed = trial.bounds(before).value + trial.bounds(after).value
    if not same_value(after.value, before.value, allowed):
        return failing(
            f"{_PADDING} ignored columns move the loss from {before.value:.9g} to {after.value:.9g}; "
            f"no more than {allowed:.2g} is rounding",
            "padding",
        )
    return PASS


def pad(batch: Batch, ignore_index: int | None, seed: int) -> Batch:
    """The batch with ignored columns at its end, their logits ordinary numbers."""
    rows, length = batch.labels.shape
    noise = bell(seed, 5, (rows, _PADDING, batch.logits.shape[2])) * 3

    def widen(tensor: Tensor | None, fill: int) -> Tensor | None:
        return None if tensor is None else torch.nn.functional.pad(tensor, (0, _PADDING), value=fill)

    labels = widen(batch.labels, -100 if ignore_index is None else ignore_index)
    assert labels is not None
    if ignore_index is None:
        labels = labels.clamp_min(0)  # a mask says what is ignored, and the label under it is any legal id
    positions = batch.position_ids
    if positions is not None:
        last = positions[:, -1:] if length else positions.new_full((rows, 1), -1)
        positions = torch.cat([positions, last + torch.arange(1, _PADDING + 1)], dim=1)
    ends = batch.cu_seqlens
    if ends is not None and length:
        ends = ends + _PADDING * (ends // length)  # each row's last document takes the padding in
    return replace(
        batch,
        logits=torch.cat([batch.logits, noise.to(batch.logits.dtype)], dim=1),
        labels=labels,
        shift_labels=None,
        loss_mask=widen(batch.loss_mask, 0),
        token_weights=widen(batch.token_weights, 1),
        position_ids=positions,
        segment_ids=widen(batch.segment_ids, 0),
        cu_seqlens=ends,
        input_ids=widen(batch.input_ids, batch.pad_token_id or 0),
        attention_mask=widen(batch.attention_mask, 0),
    )


@law(
    "INVAR-2",
    "other logits in one row leave the other rows' gradients as they were",
    source="rows of a batch are independent given the labels",
    budget=30,
    focus=lambda recipe: replace(recipe, rows=max(recipe.rows, 2)),
    presumes=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
    excuse=needs_gradient,
)
def row_independence(trial: Trial, recipe: Recipe) -> Judgement:
    before = trained(trial, recipe)
    if isinstance(before, Judgement):
        return before
    moved = recipe.seed % recipe.rows

    def shake(batch: Batch) -> Batch:
        logits = batch.logits.clone()
        logits[moved] = (bell(recipe.seed, 6, tuple(logits[moved].shape)) * 3).to(logits.dtype)
        return replace(batch, logits=logits)

    after = trial.observe(trial.variation(before.case, shake))
    if after.problem is not None:
        return not_answered(after)
    if before.gradient is None or after.gradient is None:
        return failing("no gradient at the logits", "no gradient")
    others = [row for row in range(recipe.rows) if row != moved]
    allowed = (trial.bounds(before).gradient + trial.bounds(after).gradient)[others]
    mismatch = compare_tensors(after.gradient[others], before.gradient[others], allowed)
    if mismatch is None:
        return PASS
    return failing(f"row {moved} has other logits: {mismatch.describe('gradient of the other rows')}", "leak")


@law(
    "INVAR-3",
    "a constant added to all logits of a row changes neither value nor gradient",
    source="softmax does not see a constant; mlx#4188",
    budget=30,
    presumes=("CONTRACT-1", "ALIGN-1", "VALUE-1", "STABLE-1"),
    suggests=("offset-cancel",),
)
def additive_constant(trial: Trial, recipe: Recipe) -> Judgement:
    if not trial.case(recipe).pairing.pairs:
        return NOT_MEANT
    signs = torch.tensor([1.0, -1.0, 0.5])
    offset = _OFFSET.get(recipe.dtype, _OFFSET_16_BITS)

    def raise_rows(batch: Batch) -> Batch:
        rows, length, _ = batch.logits.shape
        steps = signs[torch.arange(rows * length) % 3].reshape(rows, length, 1) * offset
        return replace(batch, logits=(batch.logits.double() + steps).to(batch.logits.dtype))

    observation = trial.observe(trial.variation(trial.case(recipe), raise_rows))
    if observation.problem is not None:
        return not_answered(observation)
    judgement = judge_both(trial, observation)
    if judgement.verdict is Verdict.FAIL:
        return replace(judgement, message=f"with up to ±{offset:g} added to each row: {judgement.message}")
    return judgement
