"""Candidates that a harness must survive, and candidates that try to get past it.

Some end, hang or flood their process: NEVER call those outside a process of their own, with a deadline and a memory
limit. The rest return, and are wrong in one way each, mostly one that a check of the value alone would miss.
"""

import ctypes
import os
import sys
import time
from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    scores = logits[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


# --- ends, hangs, floods ----------------------------------------------------------------------------------------------


def exits(logits: Tensor, labels: Tensor) -> Tensor:
    """Leaves at once with status 3; nothing is flushed or cleaned up."""
    os._exit(3)


def exits_politely(logits: Tensor, labels: Tensor) -> Tensor:
    """SystemExit, which `except Exception` does not catch."""
    sys.exit(2)


def segfaults(logits: Tensor, labels: Tensor) -> Tensor:
    """Reads address 0."""
    ctypes.string_at(0)
    return _right(logits, labels)


def hangs(logits: Tensor, labels: Tensor) -> Tensor:
    """Never returns."""
    while True:
        time.sleep(60)


def hangs_sometimes(logits: Tensor, labels: Tensor) -> Tensor:
    """Right, but never returns when V > 64."""
    while logits.shape[-1] > 64:
        time.sleep(60)
    return _right(logits, labels)


def floods_stdout(logits: Tensor, labels: Tensor) -> Tensor:
    """Right, after 200 MB on standard output."""
    line = "x" * 999_999
    for _ in range(200):
        print(line)
    return _right(logits, labels)


def floods_forever(logits: Tensor, labels: Tensor) -> Tensor:
    """Prints and never stops."""
    while True:
        print("x" * 999_999)


def eats_memory(logits: Tensor, labels: Tensor) -> Tensor:
    """Takes 64 MB of touched memory after another, until something stops it."""
    hoard = []
    while True:
        hoard.append(torch.ones(16 << 20))


def raises_always(logits: Tensor, labels: Tensor) -> Tensor:
    """Raises on every batch."""
    raise RuntimeError("this loss always fails")


def raises_sometimes(logits: Tensor, labels: Tensor) -> Tensor:
    """Right, but raises on a batch of exactly three rows."""
    if logits.shape[0] == 3:
        raise ValueError("three rows are one too many")
    return _right(logits, labels)


def raises_in_no_grad(logits: Tensor, labels: Tensor) -> Tensor:
    """Right, but needs a graph: raises under torch.no_grad()."""
    loss = _right(logits, labels)
    if not torch.is_grad_enabled():
        raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
    return loss


# --- returns something else -------------------------------------------------------------------------------------------


def returns_none(logits: Tensor, labels: Tensor) -> None:
    """Computes the loss and forgets to return it."""
    _right(logits, labels)


def returns_float(logits: Tensor, labels: Tensor) -> float:
    """The right value as a Python float, so without a gradient."""
    return float(_right(logits, labels).item())


def returns_vector(logits: Tensor, labels: Tensor) -> Tensor:
    """The losses of the tokens, [B, S−1], where a scalar is promised."""
    return F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")


def returns_int_tensor(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss, cut to an integer."""
    return _right(logits, labels).detach().long()


def returns_float16(logits: Tensor, labels: Tensor) -> Tensor:
    """Scored in float32, returned in float16."""
    return _right(logits, labels).half()


def returns_string(logits: Tensor, labels: Tensor) -> str:
    """The loss as text."""
    return f"{float(_right(logits, labels).detach()):.4f}"


# --- touches its inputs -----------------------------------------------------------------------------------------------


def mutates_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Right value and gradient, but the logits are zeroed after use, as kernels do that reuse the buffer."""
    loss = _right(logits.clone(), labels)
    with torch.no_grad():
        logits.zero_()
    return loss


def mutates_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """Right value and gradient, but the caller's ignored labels become 0."""
    valid = labels[:, 1:] != -100
    labels.masked_fill_(labels == -100, 0)
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), labels[:, 1:], reduction="none")
    return losses[valid].mean()


# --- remembers --------------------------------------------------------------------------------------------------------


class _Remembered(torch.autograd.Function):
    """A value and a gradient from earlier, attached to today's logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream).to(gradient.dtype), None, None


_answers: dict[Hashable, tuple[Tensor, Tensor]] = {}


def _cached(key: Hashable, logits: Tensor, labels: Tensor) -> Tensor:
    if key not in _answers:
        with torch.enable_grad():
            leaf = logits.detach().clone().requires_grad_()
            loss = _right(leaf, labels)
            (gradient,) = torch.autograd.grad(loss, leaf)
        _answers[key] = (loss.detach(), gradient)
    answer: Tensor = _Remembered.apply(logits, *_answers[key])
    return answer


def caches_by_shape(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the first answer it ever computed for this shape, gradient included."""
    return _cached(("shape", logits.shape, logits.dtype), logits, labels)


def caches_by_address(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the first answer for this address: wrong when a buffer is filled anew, or its memory handed out again."""
    return _cached(("address", logits.data_ptr(), logits.shape, logits.dtype), logits, labels)


def caches_by_identity_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the first answer for this shape and first logit: wrong when only the labels or later logits change."""
    first = float(logits.detach().flatten()[:1].sum())
    return _cached(("first", logits.shape, logits.dtype, first), logits, labels)


# --- wrong gradient, right value --------------------------------------------------------------------------------------


class _UpstreamForgotten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            loss = _right(leaf, labels)
            (gradient,) = torch.autograd.grad(loss, leaf)
        ctx.save_for_backward(gradient)
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient, None


def ignores_upstream(logits: Tensor, labels: Tensor) -> Tensor:
    """The backward returns its gradient without multiplying by the incoming one."""
    loss: Tensor = _UpstreamForgotten.apply(logits, labels)
    return loss


def detached(logits: Tensor, labels: Tensor) -> Tensor:
    """No gradient at all: the result does not require one."""
    return _right(logits.detach(), labels)


def detached_row(logits: Tensor, labels: Tensor) -> Tensor:
    """The batch's first row has no gradient."""
    return _right(torch.cat([logits[:1].detach(), logits[1:]]), labels)


def zero_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """The result requires a gradient, and it is zero everywhere."""
    return _right(logits.detach(), labels) + 0.0 * logits[..., :0].float().sum()


def nonzero_gradient_on_ignored(logits: Tensor, labels: Tensor) -> Tensor:
    """Right value; the rows whose label is ignored, the last column too, get a gradient of 0.01."""
    ignored = F.pad(labels[:, 1:], (0, 1), value=-100) == -100
    rows = logits[ignored].float()
    leak = torch.nan_to_num(rows - rows.detach()).sum()  # 0, with gradient 1
    return _right(logits, labels) + 0.01 * leak


# --- wrong now and then -----------------------------------------------------------------------------------------------


def hides_nan(logits: Tensor, labels: Tensor) -> Tensor:
    """NaN becomes 0, so that training "goes on"."""
    return torch.nan_to_num(_right(logits, labels))


def randomised(logits: Tensor, labels: Tensor) -> Tensor:
    """Up to 1% of noise, different on each call."""
    return _right(logits, labels) * (1 + 0.01 * torch.rand((), device=logits.device))


def wrong_in_no_grad(logits: Tensor, labels: Tensor) -> Tensor:
    """Right in training; 0 under torch.no_grad(), where evaluation happens."""
    if not torch.is_grad_enabled():
        return torch.zeros((), device=logits.device)
    return _right(logits, labels)


def detects_contiguity(logits: Tensor, labels: Tensor) -> Tensor:
    """Reads the storage as if the logits were contiguous, like a kernel that forgets the strides."""
    if logits.is_contiguous():
        return _right(logits, labels)
    start = logits.storage_offset()
    room = logits.untyped_storage().nbytes() // logits.element_size() - start
    memory = logits.as_strided((room,), (1,), start)
    place = torch.arange(logits.numel(), device=logits.device) % max(room, 1)  # stays inside an expanded tensor
    return _right(memory[place].view(logits.shape), labels)


# --- wrong numbers ----------------------------------------------------------------------------------------------------


def no_upcast(logits: Tensor, labels: Tensor) -> Tensor:
    """Scored in the logits' own dtype: right in float32, not in bfloat16 or float16."""
    scores = logits[:, :-1]
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, 1:].reshape(-1))


def exp_overflow(logits: Tensor, labels: Tensor) -> Tensor:
    """log Σ exp without subtracting the maximum: infinite from about 89 on."""
    valid = labels[:, 1:] != -100
    scores, targets = logits[:, :-1][valid].float(), labels[:, 1:][valid]
    own = scores.gather(1, targets.unsqueeze(1)).squeeze(1)
    return (scores.exp().sum(1).log() - own).mean()


def offset_cancel(logits: Tensor, labels: Tensor) -> Tensor:
    """logsumexp(z) − z_y in float32: right near zero; at 1e4 the difference is known to 1e-3, at 1e8 not at all."""
    valid = labels[:, 1:] != -100
    scores, targets = logits[:, :-1][valid].float(), labels[:, 1:][valid]
    return (scores.logsumexp(1) - scores.gather(1, targets.unsqueeze(1)).squeeze(1)).mean()


def log_eps(logits: Tensor, labels: Tensor) -> Tensor:
    """log(softmax + 1e-8): no loss is ever above 18.4."""
    valid = labels[:, 1:] != -100
    probability = logits[:, :-1][valid].float().softmax(-1)
    return F.nll_loss(torch.log(probability + 1e-8), labels[:, 1:][valid])


def clamps_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits are clamped to ±50 first."""
    return _right(logits.clamp(-50, 50), labels)


def one_percent_off(logits: Tensor, labels: Tensor) -> Tensor:
    """Value and gradient 1% too large, everywhere."""
    return _right(logits, labels) * 1.01


def a_little_warm(logits: Tensor, labels: Tensor) -> Tensor:
    """z · 1.0125, in the dtype of the logits: in bfloat16 no element of the gradient shows it."""
    return F.cross_entropy((logits[:, :-1] * 1.0125).flatten(0, 1), labels[:, 1:].flatten())
