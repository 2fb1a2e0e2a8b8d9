"""Losses in numpy: each returns the loss, and its gradient at the logits. One is right, two are wrong."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Answer = tuple[Array, dict[str, Array]]


def causal_lm(logits: Array, labels: Array, num_items_in_batch: int | None = None) -> Answer:
    """Score the logits at t on the label at t + 1."""
    return _cross_entropy(logits, labels, 1, num_items_in_batch)


def double_shift(logits: Array, labels: Array, num_items_in_batch: int | None = None) -> Answer:
    """Shift labels that were shifted already."""
    return _cross_entropy(logits, labels, 2, num_items_in_batch)


def no_shift(logits: Array, labels: Array, num_items_in_batch: int | None = None) -> Answer:
    """Forget to shift."""
    return _cross_entropy(logits, labels, 0, num_items_in_batch)


def _cross_entropy(logits: Array, labels: Array, shift: int, count: int | None) -> Answer:
    targets = np.full(labels.shape, -100)
    targets[:, : max(labels.shape[1] - shift, 0)] = labels[:, shift:]
    row, position = np.nonzero(targets != -100)
    scores = logits[row, position].astype(np.result_type(logits.dtype, np.float32))
    target = targets[row, position][:, None]
    scores = scores - scores.max(axis=-1, keepdims=True, initial=-np.inf)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    # Where nothing counts, the mean over no label is NaN, as in torch.
    divisor = scores.dtype.type(len(row) if count is None else count)
    with np.errstate(invalid="ignore", divide="ignore"):
        loss = -np.take_along_axis(log_probabilities, target, axis=-1).sum() / divisor
        of_rows = np.exp(log_probabilities)
        np.put_along_axis(of_rows, target, np.take_along_axis(of_rows, target, axis=-1) - 1, axis=-1)
        of_rows = of_rows / divisor
    gradient = np.zeros(logits.shape, scores.dtype)
    gradient[row, position] = of_rows
    return loss, {"logits": gradient}
