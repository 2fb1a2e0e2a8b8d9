"""Protect our own tensor code from settings that a candidate made for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import _disable_current_modes


@contextmanager
def shielded() -> Iterator[None]:
    """Within it, no default device or dtype and no torch function or dispatch mode of a candidate applies.

    A trainer may set these for itself, and its loss is called under them. But `torch.set_default_device("meta")` must
    not empty the tensors that the judge needs. Costs about 2 µs.
    """
    dtype = torch.get_default_dtype()
    if dtype is not torch.float32:
        torch.set_default_dtype(torch.float32)
    # Disabling dispatch modes takes ten times as long as checking whether there are any.
    modes = _disable_current_modes() if torch._C._len_torch_dispatch_stack() else nullcontext()
    try:
        with torch._C.DisableTorchFunction(), modes:
            yield
    finally:
        if dtype is not torch.float32:
            torch.set_default_dtype(dtype)
