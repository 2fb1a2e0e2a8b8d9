"""Where reports are printed."""

from __future__ import annotations

import shutil

from rich.console import Console


def new_console() -> Console:
    """As wide as the terminal, and of 120 columns in a file or a pipe, where rich would cut numbers off for 80."""
    return Console(highlight=False, width=shutil.get_terminal_size((120, 24)).columns)
