"""The right loss, compiled by torch: on a cold start that takes longer than a call may."""

import importlib
import shutil
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def right(logits: Tensor, labels: Tensor) -> Tensor:
    scores = logits[:, :-1].float()
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=-100)


def _slowly(module: Any, inputs: Any) -> Any:
    """A backend that compiles for seven seconds."""
    time.sleep(7)
    return module.forward


def _for_ever(module: Any, inputs: Any) -> Any:
    while True:
        time.sleep(1)


eager = torch.compile(right, backend="eager")
aot_eager = torch.compile(right, backend="aot_eager")
slowly = torch.compile(right, backend=_slowly, dynamic=True)
for_ever = torch.compile(right, backend=_for_ever)
if shutil.which("g++") or shutil.which("clang"):
    inductor = torch.compile(right)


def when_called(logits: Tensor, labels: Tensor) -> Tensor:
    """Compiled at its first call, as trainers do that wait for the device."""
    global _compiled
    if _compiled is None:
        _compiled = torch.compile(right, backend=_slowly, dynamic=True)
    return _compiled(logits, labels)  # type: ignore[no-any-return]


_compiled: Any = None


def imports_late(logits: Tensor, labels: Tensor) -> Tensor:
    """Imports what it needs when it is first called, which takes a while."""
    importlib.import_module("slow_to_import")
    return right(logits, labels)


def hangs_once_compiled(logits: Tensor, labels: Tensor) -> Tensor:
    """Compiles, and never returns."""
    eager(logits, labels)
    while True:
        time.sleep(60)
