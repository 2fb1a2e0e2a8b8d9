"""Losses that look fast without being so, one trick each; under hf.causal_lm. Each says by which name it is caught.

Call them in a process of their own only: some spoil what others in theirs measure.
"""

import os
import sys
import threading
import time
from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def honest(logits: Tensor, labels: Tensor) -> Tensor:
    """No trick at all: must not be caught."""
    scores = logits[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, 1:].reshape(-1))


def _evaluate(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The right value and gradient, in memory of their own."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        value = honest(leaf, labels)
        (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


class _Given(torch.autograd.Function):
    """A loss whose value and gradient somebody has at hand."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        return gradient, None, None


_known: dict[Hashable, tuple[Tensor, Tensor]] = {}
_calls = 0


def _count() -> int:
    global _calls
    _calls += 1
    return _calls


def caches_by_address(logits: Tensor, labels: Tensor) -> Tensor:
    """stale-answer: what it once computed for memory at this address."""
    key = (logits.data_ptr(), logits.shape)
    if key not in _known:
        _known[key] = _evaluate(logits, labels)
    return _Given.apply(logits, *_known[key])


def _content(logits: Tensor, labels: Tensor) -> Hashable:
    return labels.numpy().tobytes(), logits.detach().reshape(-1)[:16].numpy().tobytes()


def caches_by_content(logits: Tensor, labels: Tensor) -> Tensor:
    """remembers-inputs: right always, fast where it has seen the numbers before."""
    key = _content(logits, labels)
    if key not in _known:
        _known[key] = _evaluate(logits, labels)
    return _Given.apply(logits, *_known[key])


def learns_the_warm_up(logits: Tensor, labels: Tensor) -> Tensor:
    """remembers-warm-up: keeps what its first calls were about, and is fast on that alone."""
    key = _content(logits, labels)
    if key not in _known and _count() <= 3:
        _known[key] = _evaluate(logits, labels)
    return _Given.apply(logits, *(_known[key] if key in _known else _evaluate(logits, labels)))


def patches_the_clock(logits: Tensor, labels: Tensor) -> Tensor:
    """patched-clock: time goes by at a tenth of its speed."""
    if time.perf_counter is _perf_counter:
        time.perf_counter = lambda: _perf_counter() / 10
        time.process_time_ns = lambda: _process_time_ns() // 10
    return honest(logits, labels)


_perf_counter, _process_time_ns = time.perf_counter, time.process_time_ns


class _Late(torch.autograd.Function):
    """Hands out a gradient that a thread has yet to write."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        return honest(logits.detach(), labels)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        gradient = torch.zeros_like(logits)
        same_memory = gradient.detach()

        def work() -> None:
            time.sleep(0.001)
            same_memory.copy_(_evaluate(logits, labels)[1])

        threading.Thread(target=work).start()
        return gradient, None


def returns_early(logits: Tensor, labels: Tensor) -> Tensor:
    """unfinished: the backward is still at work when it has returned."""
    return _Late.apply(logits, labels)


def lets_a_child_work(logits: Tensor, labels: Tensor) -> Tensor:
    """works-elsewhere: a forked process computes, and this one waits without using the processor."""
    shared = torch.empty(logits.numel() + 1).share_memory_()
    child = os.fork()
    if not child:
        value, gradient = _evaluate(logits, labels)
        shared[0] = value
        shared[1:] = gradient.reshape(-1)
        os._exit(0)
    os.waitpid(child, 0)
    return _Given.apply(logits, shared[0].clone(), shared[1:].view(logits.shape))


def slows_its_rival(logits: Tensor, labels: Tensor) -> Tensor:
    """slows-its-rival: whatever of the reference is called in this process takes 20 ms longer."""
    batch = sys.modules["_shiftproof_reference.batch"].Batch
    if batch.__post_init__ is not _sluggish:
        batch.__post_init__ = _sluggish
    return honest(logits, labels)


def _sluggish(batch: object) -> None:
    until = time.process_time() + 0.02
    while time.process_time() < until:
        pass


def wrong_later(logits: Tensor, labels: Tensor) -> Tensor:
    """wrong-when-timed: right while it is looked at, then half of the rows are left out."""
    if _count() <= 5:
        return honest(logits, labels)
    half = logits.shape[1] // 2
    return honest(logits[:, :half], labels[:, :half])


def wrong_on_the_bench(logits: Tensor, labels: Tensor) -> Tensor:
    """wrong-when-timed: finds in the stack who calls, and works only for a judge of values."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.endswith("bench.py"):
            return logits.sum() * 0.0
        frame = frame.f_back
    return honest(logits, labels)


def leaves_a_stream(logits: Tensor, labels: Tensor) -> Tensor:
    """side-stream: on CUDA, the work is put where the current stream does not wait for it."""
    stream = torch.cuda.Stream()
    value = torch.zeros((), device=logits.device)
    gradient = torch.empty_like(logits)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        right, right_gradient = _evaluate(logits, labels)
        value.copy_(right)
        gradient.copy_(right_gradient)
    return _Given.apply(logits, value, gradient)


CAUGHT = {
    "caches_by_address": "stale-answer",
    "caches_by_content": "remembers-inputs",
    "learns_the_warm_up": "remembers-warm-up",
    "patches_the_clock": "patched-clock",
    "returns_early": "unfinished",
    "lets_a_child_work": "works-elsewhere",
    "slows_its_rival": "slows-its-rival",
    "wrong_later": "wrong-when-timed",
    "wrong_on_the_bench": "wrong-when-timed",
}
CAUGHT_ON_CUDA = {"leaves_a_stream": "side-stream"}
