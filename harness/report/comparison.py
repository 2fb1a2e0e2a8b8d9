"""One candidate under several interpreters: their names, and a row for everything that differs."""

from __future__ import annotations

from collections import Counter

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..judge.environments import Comparison
from .fitting import in_words
from .verdict import COLOUR


def comparison(compared: Comparison) -> RenderableType:
    """Render one column for each interpreter, and below what an upgrade from one to the other changes."""
    first = compared.results[0]
    where = f"{first.device} {in_words(first.dtypes)}, in {len(compared.results)} environments"
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for result in compared.results:
        table.add_column(escape(result.environment_name or result.candidate), overflow="fold")
    table.add_row("verdict", *(Text(str(each.verdict), style=COLOUR[each.verdict]) for each in compared.results))
    table.add_row("diagnosis", *(escape(", ".join(names)) or "–" for names in compared.diagnoses))
    follow = {law.id for result in compared.results for law in result.laws if law.follows}
    laws = {id: cells for id, cells in compared.laws.items() if id not in follow}
    for name, cells in (*compared.versions.items(), *laws.items()):
        table.add_row(escape(name), *(escape(cell) if cell else "–" for cell in cells))
    more = Counter(cells for id, cells in compared.laws.items() if id in follow)
    for cells, count in more.items():
        table.add_row(f"{count} more", *(cell or "–" for cell in cells))
    changed = compared.changed
    text = Text(f"what changed: {', '.join(changed) or 'nothing'}", style="bold yellow" if changed else "bold green")
    return Group(Text(f"\n{first.call} against {first.spec}, {where}", style="bold"), table, text)
