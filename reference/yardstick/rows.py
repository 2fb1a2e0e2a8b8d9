"""The target and weight of each row of logits under a term: :mod:`..pairing` on whole tensors, without a loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch, BatchError
from ..pairing import (
    check_fit,
    codebook_weights,
    document_ids,
    first_logit,
    heads_of,
    labels_of,
    positions,
    shift_of,
    token_id,
)
from ..spec import Axis, Combine, Denominator, Documents, Empty, Heads, LossTerm, ShiftedBy

NOT_SCORED = -1


@dataclass(frozen=True, eq=False)
class Rows:
    """One term of one batch, its logits flattened to n rows [n, V].

    Attributes:
        targets: [n] int64, the class that each row is scored on, or NOT_SCORED.
        weights: [n] float64, the weight of each row's score, divided by the denominator. 0 if it is not scored.
        empty: float64, the contribution of groups without pairs to the loss: 0, or NaN.
    """

    targets: Tensor
    weights: Tensor
    empty: Tensor


def rows_of(term: LossTerm, batch: Batch) -> Rows:
    """Find the targets and weights of the rows of ``term``'s logits. It never waits for the device.

    Raises:
        BatchError: as :func:`..pairing.build_pairing`.
    """
    check_fit(term, batch)
    labels = _trained(term, batch)
    weights = batch.tensor("token_weights").double() if term.token_weights else None
    shift = shift_of(term, batch)
    if term.heads is Heads.AHEAD:
        heads = range(shift, shift + heads_of(term, batch))
        targets = torch.stack([_aligned(term, batch, labels, steps) for steps in heads], -1)
        weighing = None if weights is None else torch.stack([_ahead(weights, steps, 0.0) for steps in heads], -1)
    elif term.axis is Axis.CODEBOOK:
        targets, weighing = _aligned(term, batch, labels[..., shift:], 0), weights
    else:
        targets = _aligned(term, batch, labels[..., 0] if term.heads is Heads.FIRST else labels, shift)
        weighing = None if weights is None else _ahead(weights, shift, 0.0)
    if term.stops_at_eos:
        inputs = batch.tensor("input_ids")
        inputs = inputs[..., : targets.shape[2]] if targets.dim() == 3 else inputs
        targets = targets.masked_fill(inputs == token_id(batch, "eos_token_id"), NOT_SCORED)
    counts = targets != NOT_SCORED
    weighed = counts.double()
    if weighing is not None:
        weighed = weighed * (weighing if weighing.dim() == weighed.dim() else weighing[..., None])
    weights, empty = _divided(term, batch, targets, counts, weighed)
    return Rows(
        _among_logits(term, batch, targets, NOT_SCORED).flatten(),
        _among_logits(term, batch, weights.masked_fill(~counts, 0.0), 0.0).flatten(),
        empty,
    )


def _trained(term: LossTerm, batch: Batch) -> Tensor:
    """The labels of a term: NOT_SCORED if they do not count, and V if they are neither ignored nor a class."""
    labels = labels_of(term, batch).long()
    classes = batch.tensor(term.logits).shape[-1]
    never = [*term.ignored_ids, *([] if term.ignore_index is None else [term.ignore_index])]
    if term.sentinel:
        never.append(classes)
    if term.ignores_bos:
        never.append(token_id(batch, "bos_token_id"))
    trained = labels.masked_fill((labels < 0) | (labels > classes), classes)
    for label in never:
        trained = trained.masked_fill(labels == label, NOT_SCORED)
    if term.loss_mask:
        kept = batch.tensor("loss_mask") != 0
        trained = trained.masked_fill(~(kept if labels.dim() == 2 else kept[..., None]), NOT_SCORED)
    return trained


def _aligned(term: LossTerm, batch: Batch, labels: Tensor, steps: int) -> Tensor:
    """The label ``steps`` positions later. NOT_SCORED past the end and in another document."""
    targets = _ahead(labels, steps, NOT_SCORED)
    if term.documents is Documents.NONE:
        return targets
    documents = document_ids(term, batch)
    # Labels shifted by the data hold the next token. Then the document of the token counts, not that of its column. The
    # token after the last column belongs to the last document.
    tokens = torch.arange(documents.shape[1], device=documents.device) + steps + (term.shifted_by is ShiftedBy.DATA)
    other = (documents != documents[:, tokens.clamp(max=documents.shape[1] - 1)]) | (documents == 0)
    return targets.masked_fill(other if targets.dim() == 2 else other[..., None], NOT_SCORED)


def _ahead(values: Tensor, steps: int, fill: float) -> Tensor:
    """Give position t the value of t + ``steps``, and ``fill`` past the end."""
    length = values.shape[1]
    if steps == 0:
        return values
    moved = torch.full_like(values, fill)
    if steps < length:
        moved[:, : length - steps] = values[:, steps:]
    return moved


def _divided(term: LossTerm, batch: Batch, targets: Tensor, counts: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weights divided by their denominators, and the contribution of groups without pairs."""
    weighing = codebook_weights(term, batch)
    books = None if weighing is None else torch.tensor(weighing, dtype=torch.float64, device=weights.device)
    share: Tensor | float = term.weight
    if term.combine is Combine.FLAT:
        weights = weights if books is None else weights * books
        number, denominator = counts.sum(), _denominator(term, batch, targets, counts, weights, None)
        present = torch.ones_like(number, dtype=torch.bool)
    else:
        number = counts.sum((0, 1))
        denominator = _denominator(term, batch, targets, counts, weights, (0, 1))
        present = torch.ones_like(number, dtype=torch.bool)
        if term.combine is Combine.MEAN_NONEMPTY:
            # If no codebook counts, the term is one empty group.
            present = (number > 0) | (number.sum() == 0)
        each = torch.ones_like(denominator) if books is None else books
        share = share * (each if term.combine is Combine.SUM else each / (each * present).sum())
    value = torch.nan if term.empty is not Empty.ZERO else 0.0
    empty = torch.where(present & (number == 0) & (denominator == 0), value, 0.0)
    return share * weights / denominator, empty.sum().double()


def _denominator(
    term: LossTerm, batch: Batch, targets: Tensor, counts: Tensor, weights: Tensor, over: tuple[int, int] | None
) -> Tensor:
    """The denominators of a term's groups, float64: of one group, or of each codebook if ``over`` names two axes."""
    each = weights.sum(over)
    match term.denominator:
        case Denominator.VALID:
            total = counts.sum(over).double()
        case Denominator.WEIGHTS:
            total = each
        case Denominator.CLASS_WEIGHTS:
            classes = batch.tensor("class_weights").double()
            total = (classes[targets.clamp(0, len(classes) - 1)] * counts).sum(over)
        case Denominator.POSITIONS:
            total = torch.full_like(each, positions(term, batch))
        case Denominator.ONE:
            total = torch.ones_like(each)
        case Denominator.NUM_ITEMS_OR_VALID if batch.num_items_in_batch is None:
            total = counts.sum(over).double()
        case Denominator.NUM_ITEMS | Denominator.NUM_ITEMS_OR_VALID:
            if batch.num_items_in_batch is None:
                raise BatchError("this spec divides by num_items_in_batch, but the batch has none; give it one")
            total = torch.full_like(each, batch.num_items_in_batch)
    if term.clamp is not None:
        total = total.clamp(min=term.clamp)
    return total + term.epsilon


def _among_logits(term: LossTerm, batch: Batch, values: Tensor, fill: float) -> Tensor:
    """Move values from label positions to logit positions. Logits may have more positions before or after."""
    before = first_logit(term, batch)
    after = batch.tensor(term.logits).shape[1] - values.shape[1] - before
    axes = (0, 0) * (values.dim() - 2)
    return F.pad(values, (*axes, before, after), value=fill)
