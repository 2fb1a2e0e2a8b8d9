"""Where reports are printed."""

from __future__ import annotations

import shutil
from typing import NoReturn

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Rich would end the process with exit code 1, which is said of a candidate that is wrong."""
        raise BrokenPipeError("nobody reads what is printed")


def new_console() -> Console:
    """As wide as the terminal, and of 120 columns in a file or a pipe, where rich would cut numbers off for 80."""
    return _Console(highlight=False, width=shutil.get_terminal_size((120, 24)).columns)
