"""The settings of a process that a candidate can change for all later code. Runs in the candidate's process."""

from __future__ import annotations

import ctypes
import hashlib
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

_FORWARD = torch.nn.modules.module
_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks")


def _has_saved_tensor_hooks() -> bool:
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def _default_device() -> str:
    # torch.get_default_device makes a tensor there. Without that device it raises, and with it, it starts CUDA.
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return "cpu" if context is None else str(context.device)


_READ: dict[str, Callable[[], Any]] = {
    "the default dtype": torch.get_default_dtype,
    "the default device": _default_device,
    "grad mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "autocast": lambda: [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
    "the number of threads": torch.get_num_threads,
    "deterministic algorithms": torch.are_deterministic_algorithms_enabled,
    "anomaly detection": torch.is_anomaly_enabled,
    "the precision of float32 products": torch.get_float32_matmul_precision,
    "cuDNN's settings": lambda: (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
    "hooks on all modules": lambda: [len(getattr(_FORWARD, name, ())) for name in _HOOKS],
    "hooks on saved tensors": _has_saved_tensor_hooks,
    "torch function modes": torch._C._len_torch_function_stack,
}


OF_A_CALL = ("grad mode", "inference mode")
"""The settings that the worker makes for each call."""


def settings(names: Iterable[str] = tuple(_READ)) -> dict[str, Any]:
    """The settings of torch, by their ``names`` in messages. A setting that this torch does not have is left out."""
    found = {}
    for name in names:
        try:
            found[name] = _READ[name]()
        except (AttributeError, RuntimeError, TypeError):
            continue
    return found


def changed(before: Mapping[str, Any]) -> tuple[str, ...]:
    """The settings that differ from ``before``, each with both values."""
    now = settings()
    return tuple(f"{name} from {was} to {now.get(name)}" for name, was in before.items() if now.get(name) != was)


def random_states() -> dict[str, str]:
    """A digest of the state of each random number generator on the CPU."""
    state = torch.get_rng_state()
    raw = ctypes.string_at(state.data_ptr(), state.numel())  # numpy need not be installed
    states: dict[str, Any] = {"torch": raw, "random": random.getstate()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state()
        states["numpy.random"] = keys.tobytes() + repr((kind, *rest)).encode()
    return {name: _digest(state) for name, state in states.items()}


def _digest(state: Any) -> str:
    # The hash of a tuple of integers is the same in every process, and a tenth of the time that its repr takes.
    raw = state if isinstance(state, bytes) else str(hash(state)).encode()
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def step() -> None:
    """Move each generator on by one number.

    Two calls then begin in different states. If they end in the same state, the candidate has set the seed.
    """
    torch.empty(1).random_()
    random.random()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.random()
