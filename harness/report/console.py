"""The console that reports are printed to."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from typing import NoReturn, TextIO

from rich.console import Console

from .encoding import print_what_it_can

_IN_A_PIPE = 120  # columns; 80 would cut numbers


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Raise, because rich would end the process with exit code 1, which means that a candidate is wrong."""
        raise BrokenPipeError("nobody reads the output")


def new_console(stderr: bool = False) -> Console:
    """Return a console as wide as the terminal. In a file or pipe it has 120 columns.

    A terminal is written to whatever pytest captures meanwhile, so that a progress bar moves while a law is asked.
    """
    stream = sys.stderr if stderr else sys.stdout
    print_what_it_can(stream)
    return _Console(highlight=False, width=_columns(stderr), stderr=stderr, file=_own_copy(stream))


def _own_copy(stream: TextIO | None) -> TextIO | None:
    """Return a stream of its own to the same terminal, or None: pytest redirects the descriptor that it captures."""
    with suppress(OSError, ValueError, AttributeError):  # it is closed, or has no descriptor
        if stream is not None and stream.isatty():
            copy = os.dup(stream.fileno())
            return open(copy, "w", encoding=stream.encoding, errors=stream.errors, buffering=1)
    return None


def _columns(stderr: bool) -> int:
    if stderr and "COLUMNS" not in os.environ:
        with suppress(OSError, ValueError, AttributeError):  # no terminal, or no stderr
            return os.get_terminal_size(sys.stderr.fileno()).columns
        return _IN_A_PIPE
    return shutil.get_terminal_size((_IN_A_PIPE, 24)).columns
