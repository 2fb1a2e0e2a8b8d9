"""Whether a candidate is still loading while it is called: compiling what it calls, or importing something.

It is seen in the stacks of the process, so that it needs neither the candidate's word nor any version of torch's hooks.
"""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType

import torch

_TORCH = os.path.dirname(os.path.abspath(torch.__file__))
_COMPILERS = {
    os.path.join(_TORCH, *path)
    for path in (
        ("_dynamo", "convert_frame.py"),
        ("_inductor", "compile_fx.py"),  # a backward is compiled when it is first run, outside of dynamo
        ("utils", "cpp_extension.py"),
    )
}
_TRITON = os.sep + os.path.join("triton", "compiler", "")
_IMPORT = "<frozen importlib._bootstrap>"


def is_loading() -> bool:
    """Whether any thread but this one is within a compiler or an import."""
    own = threading.get_ident()
    return any(_within(frame) for thread, frame in sys._current_frames().items() if thread != own)


def _within(frame: FrameType | None) -> bool:
    while frame is not None:
        file = frame.f_code.co_filename
        if file in _COMPILERS or file == _IMPORT or _TRITON in file:
            return True
        frame = frame.f_back
    return False
