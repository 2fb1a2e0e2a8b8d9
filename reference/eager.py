"""The common pattern in plain torch: slice, make contiguous, ``F.cross_entropy``, a loop over the codebooks.

Most trainers are written like this, so a faster loss is compared with it. It is not a yardstick: it copies the logits,
and keeps their log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import Batch
from .pairing import codebook_weights, document_ids, first_logit, labels_of, shift_of
from .spec import (
    Axis,
    Combine,
    Denominator,
    Documents,
    Empty,
    Heads,
    LossSpec,
    LossTerm,
    Reduction,
    Score,
    ShiftedBy,
    SpecError,
)

_IGNORED = -100


def eager(spec: LossSpec) -> Callable[..., Tensor]:
    """Return the loss of ``spec``, a function of a :class:`Batch`'s fields by name, in the reference's own layouts.

    The function returns a scalar with a graph.

    Raises:
        SpecError: the common pattern does not support the spec: a score other than smoothed cross-entropy, heads that
            predict ahead, a shift along the codebooks, weights of tokens, labels that stop at an input, a reduction
            other than the mean, or a denominator of all positions.
    """
    for term in spec.terms:
        _check(spec, term)

    def loss(**arguments: Any) -> Tensor:
        batch = Batch(**arguments)
        return torch.stack([term.weight * _of_term(term, batch) for term in spec.terms]).sum()

    return loss


def _check(spec: LossSpec, term: LossTerm) -> None:
    score = term.score
    unknown = {
        "a score other than cross-entropy": score
        != Score(label_smoothing=score.label_smoothing, smoothing_over=score.smoothing_over)
        or (score.label_smoothing and score.smoothing_over != Score().smoothing_over),
        "heads that predict ahead": term.heads is Heads.AHEAD,
        "a shift along the codebooks": term.axis is Axis.CODEBOOK,
        "weights of tokens": term.token_weights or term.denominator is Denominator.WEIGHTS,
        "labels that stop at an input": term.stops_at_eos,
        "a reduction other than the mean": term.reduction is not Reduction.MEAN,
        "a sum over all positions": term.denominator is Denominator.POSITIONS,
    }
    for what, found in unknown.items():
        if found:
            raise SpecError(f"{spec.name} has {what}, which the common pattern does not; use another baseline")


def _of_term(term: LossTerm, batch: Batch) -> Tensor:
    shift, first = shift_of(term, batch), first_logit(term, batch)
    labels = _ignored_marked(term, batch)
    if term.heads is Heads.FIRST:
        labels = labels[..., 0]
    length = labels.shape[1] - shift
    logits = batch.tensor(term.logits)[:, first : first + length].contiguous()
    labels = labels[:, shift:].contiguous()
    if term.heads is not Heads.CODEBOOKS or term.combine is Combine.FLAT:
        return _mean(term, batch, logits, labels)
    books = range(logits.shape[2])
    losses = [_mean(term, batch, logits[:, :, book], labels[:, :, book]) for book in books]
    if term.combine is Combine.MEAN_NONEMPTY:
        kept = [loss for loss, book in zip(losses, books, strict=True) if bool((labels[:, :, book] != _IGNORED).any())]
        return torch.stack(kept).mean() if kept else logits.sum() * 0.0
    weights = codebook_weights(term, batch) or [1.0] * len(losses)
    total = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
    return total if term.combine is Combine.SUM else total / sum(weights)


def _mean(term: LossTerm, batch: Batch, logits: Tensor, labels: Tensor) -> Tensor:
    total = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        labels.reshape(-1),
        ignore_index=_IGNORED,
        reduction="sum",
        label_smoothing=term.score.label_smoothing,
    )
    given = term.denominator in (Denominator.NUM_ITEMS, Denominator.NUM_ITEMS_OR_VALID)
    if given and batch.num_items_in_batch is not None:
        over: Tensor | float = float(batch.num_items_in_batch)
    else:
        over = 1.0 if term.denominator is Denominator.ONE else (labels != _IGNORED).sum()
    least = term.clamp or (1.0 if term.empty is Empty.ZERO else None)  # 0 / 1 is 0, and 0 / 0 is NaN
    if least is not None:
        over = over.clamp_min(least) if isinstance(over, Tensor) else max(over, least)
    return total / (over + term.epsilon)


def _ignored_marked(term: LossTerm, batch: Batch) -> Tensor:
    """The labels, with −100 wherever they do not count, whatever the spec's own marks are."""
    labels = labels_of(term, batch).clone()
    never = [*term.ignored_ids, *([] if term.ignore_index is None else [term.ignore_index])]
    if term.sentinel:
        never.append(batch.tensor(term.logits).shape[-1])
    if term.ignores_bos and batch.bos_token_id is not None:
        never.append(batch.bos_token_id)
    for marked in never:
        labels.masked_fill_(labels == marked, _IGNORED)
    hidden = torch.zeros(labels.shape[:2], dtype=torch.bool, device=labels.device)
    if term.loss_mask:
        hidden |= batch.tensor("loss_mask") == 0
    if term.documents is not Documents.NONE:
        hidden |= _crosses(term, document_ids(term, batch))
    return labels.masked_fill_(hidden if labels.dim() == 2 else hidden[..., None], _IGNORED)


def _crosses(term: LossTerm, documents: Tensor) -> Tensor:
    """The labels [B, S] whose token is in padding, or in another document than the logits that are scored on it."""
    step = 1 if term.shifted_by is ShiftedBy.DATA else term.shift
    crosses = documents == 0
    if not step:
        return crosses
    differs = documents[:, :-step] != documents[:, step:]
    if term.shifted_by is ShiftedBy.DATA:
        crosses[:, :-step] |= differs
    else:
        crosses[:, step:] |= differs
    return crosses
