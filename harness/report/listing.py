"""Tables for ``shiftproof list``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table


def table_of(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a plain table whose first column is never broken."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
