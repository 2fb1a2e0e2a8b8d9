"""The first file of the candidate's process: `python -u …/bootstrap.py`, under any interpreter.

It moves the protocol's streams out of the candidate's reach. It makes this folder importable under a private name, so
that the candidate cannot import our harness, load or call by accident. Then it runs `runner.py`.

With the number of a socket as its argument, the process becomes a nursery (`nursery.py`). Its forks run `runner.py`.
"""

from __future__ import annotations

import os
import sys

_FOLDER = os.path.dirname(os.path.abspath(__file__))
# Python puts a script's own folder first on sys.path, where our files would shadow the candidate's modules.
if sys.path and os.path.realpath(sys.path[0] or ".") == os.path.realpath(_FOLDER):
    del sys.path[0]

import contextlib  # noqa: E402
import fcntl  # noqa: E402
import importlib  # noqa: E402
import platform  # noqa: E402
import socket  # noqa: E402
import types  # noqa: E402
from typing import Any  # noqa: E402

PACKAGE = "_shiftproof_worker"
_NEEDED = ("torch", "safetensors.torch")
_BY_THE_FIRST_BACKWARD = "torch.fx.experimental.symbolic_shapes"  # is imported, with sympy: 0.3 s

_FIRST_PRIVATE_FD = 200
"""A high number, so that a candidate that closes or reopens the usual low numbers does not hit ours."""


def main() -> None:
    """Say hello, then serve until the harness closes our standard input."""
    if len(sys.argv) > 1:
        become_nursery(socket.socket(fileno=int(sys.argv.pop())))
    serve()


def become_nursery(requests: socket.socket) -> None:
    """Import all that a worker needs, and fork workers on demand. Return in each worker.

    What cannot be imported ends the nursery. The harness then starts a worker in the other way, which says what is
    missing.
    """
    _name_package()
    for name in _NEEDED:
        importlib.import_module(name)
    with contextlib.suppress(ImportError):
        importlib.import_module(_BY_THE_FIRST_BACKWARD)
    importlib.import_module(PACKAGE + ".runner")
    importlib.import_module(PACKAGE + ".nursery").serve(requests)


def serve() -> None:
    """Be a worker: say hello, then answer the questions that come from our standard input."""
    requests, replies = _take_streams()
    _name_package()
    protocol = importlib.import_module(PACKAGE + ".protocol")

    # Before any candidate's folder is on sys.path: it may hold a torch.py.
    hello: dict[str, Any] = {protocol.HELLO: protocol.PROTOCOL_VERSION, "python": platform.python_version()}
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken torch may raise OSError, RuntimeError or anything else
            hello["missing"] = name.partition(".")[0]
            hello["problem"] = f"{type(error).__name__}: {error}"
            break
    else:
        hello["torch"] = str(sys.modules["torch"].__version__)
        hello["safetensors"] = str(getattr(sys.modules["safetensors"], "__version__", "unknown"))
    os.write(replies, protocol.encode_line(hello))
    if "missing" in hello:
        return
    importlib.import_module(PACKAGE + ".runner").serve(requests, replies)


def _name_package() -> None:
    """Make this folder a package. Its files are imported by no other name."""
    if PACKAGE not in sys.modules:
        package = types.ModuleType(PACKAGE)
        package.__path__ = [_FOLDER]
        sys.modules[PACKAGE] = package


def _take_streams() -> tuple[int, int]:
    """Make private copies of standard input and output. The public ones become /dev/null and standard error."""
    requests = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _FIRST_PRIVATE_FD)
    replies = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _FIRST_PRIVATE_FD)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        # A candidate's output is not used. A locale that cannot encode it must not raise.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    return requests, replies


if __name__ == "__main__":
    main()
