"""Whether a candidate is still loading during a call: compiling, or importing something.

This is read from the stacks of the process. So it needs neither the candidate's help nor a version of torch's hooks.
faulthandler prints the stacks. It reads them without making frame objects, which another thread may be about to free.
"""

from __future__ import annotations

import faulthandler
import os
import re
import tempfile
from typing import IO

_COMPILES = tuple(
    os.path.join("torch", *path)
    for path in (
        ("_dynamo", "convert_frame.py"),
        ("_dynamo", "symbolic_convert.py"),
        ("_dynamo", "output_graph.py"),
        ("_inductor", "compile_fx.py"),  # a backward is compiled when it first runs, outside of dynamo
        ("_inductor", "graph.py"),
        ("_inductor", "scheduler.py"),
        ("_inductor", "lowering.py"),
        ("utils", "cpp_extension.py"),
    )
)
"""Files of torch, by the ends of their paths. Several, because only the innermost hundred frames are printed."""

_WITHIN = (os.path.join("torch", "_inductor", "codegen", ""), os.path.join("triton", "compiler", ""))
_IMPORT = "<frozen importlib._bootstrap>"
_FILE = re.compile(r'^  File "(.*)", line ', re.MULTILINE)


class Stacks:
    """The stacks of all threads of this process except the calling one."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as this does

    def is_loading(self) -> bool:
        """Whether any of these threads is inside a compiler or an import."""
        self._file.seek(0)
        self._file.truncate()
        faulthandler.dump_traceback(self._file, all_threads=True)
        self._file.seek(0)
        text = self._file.read().decode("utf-8", "replace")
        threads = re.split(r"^(?=(?:Current thread|Thread) 0x)", text, flags=re.MULTILINE)
        return any(
            any(map(_loads, _FILE.findall(thread))) for thread in threads if not thread.startswith("Current thread")
        )


def _loads(file: str) -> bool:
    return file == _IMPORT or file.endswith(_COMPILES) or any(part in file for part in _WITHIN)
