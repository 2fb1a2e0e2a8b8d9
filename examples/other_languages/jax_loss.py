"""Losses in JAX: each returns the loss, compiled by jit. One is right, two are wrong."""

import jax
import jax.numpy as jnp
from jax import Array


@jax.jit
def causal_lm(logits: Array, labels: Array, num_items_in_batch: int | None = None) -> Array:
    """Score the logits at t on the label at t + 1."""
    return _cross_entropy(logits, labels, 1, num_items_in_batch)


@jax.jit
def double_shift(logits: Array, labels: Array, num_items_in_batch: int | None = None) -> Array:
    """Shift labels that were shifted already."""
    return _cross_entropy(logits, labels, 2, num_items_in_batch)


@jax.jit
def no_shift(logits: Array, labels: Array, num_items_in_batch: int | None = None) -> Array:
    """Forget to shift."""
    return _cross_entropy(logits, labels, 0, num_items_in_batch)


def _cross_entropy(logits: Array, labels: Array, shift: int, count: int | None) -> Array:
    targets = jnp.pad(labels, ((0, 0), (0, shift)), constant_values=-100)[:, shift:]
    counts = targets != -100
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    scored = jnp.take_along_axis(log_probabilities, jnp.where(counts, targets, 0)[..., None], axis=-1)[..., 0]
    # Where nothing counts, the mean over no label is NaN, as in torch.
    return -jnp.where(counts, scored, 0.0).sum() / (counts.sum() if count is None else count)
