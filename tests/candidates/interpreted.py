"""The yardsticks with their Triton kernels, interpreted on a CPU, under the names that yardsticks.py gives them.

Call them in a process of their own only: Triton asks once, when it is imported, whether it is to interpret.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import importlib.util
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from shiftproof.reference.yardstick import kernel, passes

# Blocks so short that rows of few classes have several; the shorter ones lie in one block, as on a GPU.
kernel._LONGEST_BLOCK, kernel._SWEPT_BLOCK = 8, 8
passes.in_triton = lambda rows: True

_spec = importlib.util.spec_from_file_location("yardsticks", Path(__file__).with_name("yardsticks.py"))
assert _spec is not None
assert _spec.loader is not None
_yardsticks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_yardsticks)


def __getattr__(name: str) -> Callable[..., Tensor]:
    found: Callable[..., Tensor] = getattr(_yardsticks, name)
    return found
