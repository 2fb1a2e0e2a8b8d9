"""The console that reports are printed to."""

from __future__ import annotations

import shutil
from typing import NoReturn

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Raise, because rich would end the process with exit code 1, which means that a candidate is wrong."""
        raise BrokenPipeError("nobody reads the output")


def new_console() -> Console:
    """Return a console as wide as the terminal. In a file or pipe it has 120 columns, since 80 would cut numbers."""
    return _Console(highlight=False, width=shutil.get_terminal_size((120, 24)).columns)
