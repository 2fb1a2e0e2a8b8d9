"""Laws that compare a candidate with itself: an irrelevant change of the input must not change the answer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import Denominator, LossSpec

from ..bounds.compare import compare_tensors, same_value
from ..candidates.loss import Observation, Trial
from ..candidates.variant import Variant
from ..cases.build import Case
from ..cases.logits import bell
from ..cases.recipe import ShiftLabels
from .base import PASS, Judgement, failing, law, needs_gradient, on, trained
from .numerics import judge_both

_PADDING = 3
_OFFSET = {"float32": 1000.0, "float64": 1000.0}  # in 16 bits, 1000 and 1001 are the same number
_OFFSET_16_BITS = 16.0


@law(
    "INVAR-1",
    "padding a batch with ignored columns changes nothing",
    source="the number of tokens in a batch must not depend on how it is padded",
    budget=36,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    skip_reason=lambda trial: (
        "the spec counts every position, padding too"
        if any(term.denominator is Denominator.POSITIONS for term in trial.spec.terms)
        else "the spec has no marker for ignored labels"
        if any(term.ignore_index is None and not term.loss_mask for term in trial.spec.terms)
        else None
    ),
    adapt=lambda recipe: replace(recipe, shift_labels=ShiftLabels.ABSENT),
)
@on(Variant("padded", change=lambda case: pad(case.batch, case.spec, case.recipe.seed)))
def padding(trial: Trial, after: Observation) -> Judgement:
    before = trained(trial, after.case.recipe)
    if isinstance(before, Judgement):
        return before
    assert before.value is not None
    assert after.value is not None
    allowed = trial.bounds(before).value + trial.bounds(after).value
    if not same_value(after.value, before.value, allowed):
        return failing(
            f"{_PADDING} ignored columns change the loss from {before.value:.9g} to {after.value:.9g}; "
            f"rounding explains at most {allowed:.2g}",
            "padding",
        )
    return PASS


def pad(batch: Batch, spec: LossSpec, seed: int) -> Batch:
    """Return the batch with ignored columns at the end of every array. Their logits are ordinary numbers."""
    rows, length = batch.tensor("labels").shape[:2]
    changed: dict[str, Any] = {}
    for index, name in enumerate(spec.logits):
        logits = batch.tensor(name)
        noise = bell(seed, 5 + 10 * index, (logits.shape[0], _PADDING, *logits.shape[2:])) * 3
        changed[name] = torch.cat([logits, noise.to(logits.dtype)], dim=1)
    for name in spec.labels:
        ignored = next(term.ignore_index for term in spec.terms if term.labels == name)
        # Where a mask marks what is ignored, the label under it can be any legal id.
        changed[name] = _widen(batch.tensor(name), 0 if ignored is None else ignored)
    for name, fill in (
        ("loss_mask", 0),
        ("token_weights", 1),
        ("segment_ids", 0),
        ("attention_mask", 0),
        ("input_ids", batch.pad_token_id or 0),
    ):
        value = getattr(batch, name)
        changed[name] = None if value is None else _widen(value, fill)
    positions = batch.position_ids
    if positions is not None:
        last = positions[:, -1:] if length else positions.new_full((rows, 1), -1)
        positions = torch.cat([positions, last + torch.arange(1, _PADDING + 1)], dim=1)
    ends = batch.cu_seqlens
    if ends is not None and length:
        ends = ends + _PADDING * (ends // length)  # the padding belongs to the last document of each row
    return replace(batch, shift_labels=None, position_ids=positions, cu_seqlens=ends, **changed)


def _widen(tensor: Tensor, fill: int) -> Tensor:
    """Return a tensor [B, S] or [B, S, K] with columns of ``fill`` at the end of S."""
    return torch.nn.functional.pad(tensor, (*(0, 0) * (tensor.dim() - 2), 0, _PADDING), value=fill)


def _moved_row(case: Case) -> int:
    return case.recipe.seed % case.recipe.rows


def _separate(case: Case) -> list[str]:
    """The logits that have one row for each row of the batch."""
    return [name for name, shape in case.pairing.shapes.items() if shape[0] == case.recipe.rows]


def _one_row_moved(case: Case) -> Batch:
    """The batch with other logits in one row."""
    row = _moved_row(case)
    moved: dict[str, Any] = {}
    for index, name in enumerate(_separate(case)):
        logits = case.batch.tensor(name).clone()
        logits[row] = (bell(case.recipe.seed, 6 + 10 * index, tuple(logits[row].shape)) * 3).to(logits.dtype)
        moved[name] = logits
    return replace(case.batch, **moved)


@law(
    "INVAR-2",
    "other logits in one row leave the other rows' gradients as they were",
    source="rows of a batch are independent given the labels",
    budget=38,
    adapt=lambda recipe: replace(recipe, rows=max(recipe.rows, 2)),
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
    skip_reason=needs_gradient,
)
@on(Variant("one row moved", change=_one_row_moved), gradient=True)
def row_independence(trial: Trial, after: Observation) -> Judgement:
    case = after.case
    before = trained(trial, case.recipe, gradient=True)
    if isinstance(before, Judgement):
        return before
    assert before.gradients is not None
    assert after.gradients is not None
    moved = _moved_row(case)
    others = [row for row in range(case.recipe.rows) if row != moved]
    bounds = trial.bounds(before).gradients, trial.bounds(after).gradients
    for name in _separate(case):
        allowed = (bounds[0][name] + bounds[1][name])[others]
        mismatch = compare_tensors(after.gradients[name][others], before.gradients[name][others], allowed)
        if mismatch is not None:
            what = mismatch.describe("gradient of the other rows")
            return failing(f"after the logits of row {moved} changed: {what}", "leak")
    return PASS


def _offset(case: Case) -> float:
    return _OFFSET.get(case.recipe.dtype, _OFFSET_16_BITS)


def _raised(case: Case) -> Batch:
    """The batch with a constant added to all logits of each row."""
    signs = torch.tensor([1.0, -1.0, 0.5])
    raised: dict[str, Any] = {}
    for name, shape in case.pairing.shapes.items():
        logits = case.batch.tensor(name)
        steps = signs[torch.arange(math.prod(shape[:-1])) % 3].reshape(*shape[:-1], 1) * _offset(case)
        raised[name] = (logits.double() + steps).to(logits.dtype)
    return replace(case.batch, **raised)


@law(
    "INVAR-3",
    "a constant added to all logits of a row changes neither value nor gradient",
    source="softmax does not see a constant; mlx#4188",
    budget=36,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1", "STABLE-1"),
    points_to=("offset-cancel",),
    skip_reason=lambda trial: (
        "a softcap or a z-loss depends on such a constant"
        if any(term.score.softcap or term.score.z_loss for term in trial.spec.terms)
        else None
    ),
)
@on(Variant("raised", change=_raised, words=lambda case: f"with up to ±{_offset(case):g} added to each row"))
def additive_constant(trial: Trial, observed: Observation) -> Judgement:
    return judge_both(trial, observed)
