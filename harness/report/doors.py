"""The table of mutants behind doors, in the terminal and as Markdown."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..kill_table.door_table import DoorOutcome, DoorResult, DoorTable

_COLUMNS = ("profile", "mutant", "wrong only where", "outcome", "law", "smallest case", "s")
_SIZES = (("rows", "B"), ("length", "S"), ("classes", "V"), ("codebooks", "K"))

LEGEND = (
    "Each row is the source of a loss that is right, except where the condition holds. There it is the mutant. Mutant, "
    "condition and constant are drawn from the seed, and the file is judged through a worker, as a user's. *killed*: a "
    "MUST law fails. *named*: no case opened the door, and the verdict says so. *survived*: neither."
)


def render(table: DoorTable) -> RenderableType:
    """Render one row per pair, then the summary."""
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in _COLUMNS:
        shown.add_column(column, overflow="fold", justify="right" if column == "s" else "left")
    for each in table.tried:
        style = "bold red" if each.outcome is DoorOutcome.SURVIVED else ""
        shown.add_row(*map(escape, _cells(each)), style=style)
    return Group(shown, Text(f"\n{in_words(table)}", style="bold"))


def in_words(table: DoorTable) -> str:
    """The summary in one line."""
    counts = ", ".join(f"{len(table.of(outcome))} {outcome}" for outcome in DoorOutcome)
    return f"{len(table.tried)} mutants behind doors: {counts}; seed {table.seed}, {table.seconds:.0f} s"


def markdown(table: DoorTable) -> str:
    """Return the table as a Markdown document."""
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *map(_cells, table.tried)]
    rows = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return (
        "# Mutants behind doors\n\n"
        f"Written by `shiftproof mutants --doors {len(table.tried)} --markdown` (shiftproof {table.version}).\n\n"
        f"{LEGEND}\n\n{in_words(table)}.\n\n{rows}\n"
    )


def _cells(each: DoorResult) -> tuple[str, ...]:
    recipe = each.counterexample or {}
    sizes = ", ".join(f"{letter}={recipe[axis]}" for axis, letter in _SIZES if axis in recipe)
    name = f"{each.mutant} ({each.detail})" if each.detail else each.mutant
    return (
        each.spec,
        name,
        each.door.condition,
        str(each.outcome),
        each.law or "–",
        sizes or "–",
        f"{each.seconds:.0f}",
    )
