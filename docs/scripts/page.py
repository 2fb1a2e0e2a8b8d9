"""Tables of a document, and their places in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill_in(path: Path, tables: Mapping[str, str]) -> None:
    """Put each table between its two marks in a document."""
    text = path.read_text(encoding="utf-8")
    for name, of_name in tables.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{path.name} has no marks for the table {name!r}")
        text = before + start + of_name + end + after
    path.write_text(text, encoding="utf-8")
