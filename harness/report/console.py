"""The console that reports are printed to."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from typing import NoReturn

from rich.console import Console

from .encoding import print_what_it_can

_IN_A_PIPE = 120  # columns; 80 would cut numbers


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Raise, because rich would end the process with exit code 1, which means that a candidate is wrong."""
        raise BrokenPipeError("nobody reads the output")


def new_console(stderr: bool = False) -> Console:
    """Return a console as wide as the terminal. In a file or pipe it has 120 columns."""
    print_what_it_can(sys.stderr if stderr else sys.stdout)
    return _Console(highlight=False, width=_columns(stderr), stderr=stderr)


def _columns(stderr: bool) -> int:
    if stderr and "COLUMNS" not in os.environ:
        with suppress(OSError, ValueError, AttributeError):  # no terminal, or no stderr
            return os.get_terminal_size(sys.stderr.fileno()).columns
        return _IN_A_PIPE
    return shutil.get_terminal_size((_IN_A_PIPE, 24)).columns
