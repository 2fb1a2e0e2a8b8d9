"""Our own handling of tensors, out of reach of what a candidate has set for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import _disable_current_modes


@contextmanager
def shielded() -> Iterator[None]:
    """Within, no default device or dtype and no torch function or dispatch mode of a candidate's applies.

    A trainer may well set these for itself, and its loss is called under them; but `torch.set_default_device("meta")`
    must not turn the tensors into nothing that its loss is judged by. Costs some 2 µs.
    """
    dtype = torch.get_default_dtype()
    if dtype is not torch.float32:
        torch.set_default_dtype(torch.float32)
    # Putting dispatch modes aside takes ten times as long as asking whether there are any.
    modes = _disable_current_modes() if torch._C._len_torch_dispatch_stack() else nullcontext()
    try:
        with torch._C.DisableTorchFunction(), modes:
            yield
    finally:
        if dtype is not torch.float32:
            torch.set_default_dtype(dtype)
