"""The common pattern itself, and the same with 5% more work, to see whether the gate tells them apart."""

import functools
import importlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SLOWER = 0.05

_THREAD_TIME = time.thread_time


def same(logits: Tensor, labels: Tensor) -> Tensor:
    """What the rival does, by the same code: the one that is on the bench already."""
    loss: Tensor = _rival()(logits=logits, labels=labels)
    return loss


@functools.cache
def _rival() -> Callable[..., Tensor]:
    eager = importlib.import_module("_shiftproof_reference.eager").eager
    made: Callable[..., Tensor] = eager(
        importlib.import_module("_shiftproof_reference.profiles").PROFILES["hf.causal_lm"]
    )
    return made


def slower(logits: Tensor, labels: Tensor) -> Tensor:
    """The same, then idle work for 5% of the time that it took; so too in the backward."""
    started = _THREAD_TIME()
    clock: dict[str, float] = {}
    loss = _First.apply(same(_Last.apply(logits, clock), labels), clock)
    _spin(SLOWER * (_THREAD_TIME() - started))
    return loss


def _spin(seconds: float) -> None:
    until = _THREAD_TIME() + seconds
    while _THREAD_TIME() < until:
        pass


class _First(torch.autograd.Function):
    """At the loss: the first whose backward runs."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, clock: dict[str, float]) -> Tensor:
        ctx.clock = clock
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        ctx.clock["started"] = _THREAD_TIME()
        return upstream[0], None


class _Last(torch.autograd.Function):
    """At the logits: the last."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, clock: dict[str, float]) -> Tensor:
        ctx.clock = clock
        return logits.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        _spin(SLOWER * (_THREAD_TIME() - ctx.clock["started"]))
        return upstream[0], None
