"""Tables of a document, and their places in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def check_marks(path: Path, names: Iterable[str]) -> None:
    """Refuse a document without the marks of a table, before hours of work."""
    text = path.read_text(encoding="utf-8")
    for name in names:
        _, start, rest = text.partition(f"<!-- {name} -->\n")
        if not start or f"\n<!-- end of {name} -->" not in rest:
            raise SystemExit(f"{path.name} has no marks for the table {name!r}")


def fill_in(path: Path, tables: Mapping[str, str]) -> None:
    """Put each table between its two marks in a document."""
    check_marks(path, tables)
    text = path.read_text(encoding="utf-8")
    for name, of_name in tables.items():
        start, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = before + start + of_name + end + after
    path.write_text(text, encoding="utf-8")
