"""The kill table for people: in the terminal, and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..kill_table.table import KillTable, MutantOutcome, MutantResult, summarise

SCHEMA = Path(__file__).with_name("kill_table.schema.json")

LEGEND = (
    "Every variant of a bug is one mutant. *Law*: the MUST law that needs the fewest of its own cases to fail (if "
    "several do, the one asked first); *cases*: the number of its cases until then, including the one that fails "
    "(median and worst over variants and seeds; hand-made cases come first, and are the same under every seed). "
    "*Size*: B·S·V, times K, of the smallest failing case that shrinking found. *Easy*: the number of five easy inputs "
    "(one row or two; trained on all labels, on all but the first, or on all but the padding) with a right value and "
    "gradient. *Named*: the number of variants for which the diagnosis gives the bug's name. *Equivalent*: shown to "
    "be the same loss on all inputs of that spec; *needs*: impossible under that spec."
)


@dataclass(frozen=True)
class Line:
    """All variants of one bug under one spec."""

    spec: str
    mutant: str
    tried: tuple[MutantResult, ...]

    def count(self, fate: MutantOutcome) -> int:
        return sum(each.fate is fate for each in self.tried)

    @property
    def cells(self) -> tuple[str, ...]:
        """Mutant, fate, law, cases, size, easy, named."""
        firsts = [first for each in self.tried for first in each.firsts]
        sizes = [each.size for each in self.tried if each.size is not None]
        easy = [each.easy for each in self.tried if each.easy is not None]
        laws = dict.fromkeys(each.law for each in self.tried if each.law)
        killed, named = self.count(MutantOutcome.KILLED), sum(each.is_named for each in self.tried)
        named_cell = "yes" if named == killed else f"{named} of {killed}"
        return (
            self.mutant,
            self.fate,
            ", ".join(laws),
            f"{statistics.median(firsts):g}, {max(firsts)}" if firsts else "",
            str(min(sizes)) if sizes else "",
            "–".join(map(str, dict.fromkeys((min(easy), max(easy))))) if easy else "",
            named_cell if firsts else "",
        )

    @property
    def fate(self) -> str:
        if self.count(MutantOutcome.NOT_APPLICABLE) == len(self.tried):
            return f"needs {self.tried[0].reason}"
        parts = [
            (fate, self.count(fate))
            for fate in (MutantOutcome.KILLED, MutantOutcome.SURVIVED, MutantOutcome.EQUIVALENT)
            if self.count(fate)
        ]
        return ", ".join(str(fate) if len(self.tried) == 1 else f"{count} {fate}" for fate, count in parts)


COLUMNS = ("mutant", "fate", "law", "cases", "size", "easy", "named")


def lines_of(tried: Iterable[MutantResult]) -> Iterator[Line]:
    """Yield one line per bug and spec, in order."""
    by_bug: dict[tuple[str, str], list[MutantResult]] = {}
    for each in tried:
        by_bug.setdefault((each.spec, each.mutant), []).append(each)
    for (spec, mutant), ways in by_bug.items():
        yield Line(spec, mutant, tuple(ways))


def render(table: KillTable) -> RenderableType:
    """Render the whole table, one part per spec, then its summary."""
    parts: list[RenderableType] = []
    for spec, lines in groupby(lines_of(table.tried), key=lambda line: line.spec):
        part = Table(title=f"\n{spec}", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        for column in COLUMNS:
            part.add_column(column, justify="right" if column in ("cases", "size", "easy") else "left", overflow="fold")
        impossible = []
        for line in lines:
            if line.count(MutantOutcome.NOT_APPLICABLE) == len(line.tried):
                impossible.append(f"{line.mutant}: {line.fate}")
                continue
            survives = line.count(MutantOutcome.SURVIVED) > 0
            part.add_row(*map(escape, line.cells), style="bold red" if survives else "")
        parts.append(part)
        if impossible:
            parts.append(Text("\n".join(impossible), style="dim"))
    parts.append(Text(f"\n{LEGEND.replace('*', '')}", style="dim"))
    parts.append(Text(f"\n{in_words(table.tried)}; {table.seconds:.0f} s", style="bold"))
    return Group(*parts)


def in_words(tried: Iterable[MutantResult]) -> str:
    """Return the summary of the table in one line."""
    total = summarise(tried)
    score = "–" if total["score"] is None else f"{100 * total['score']:.4g}%"
    cases = "–" if total["median"] is None else f"{total['median']:g} in the median and {total['worst']} at worst"
    return (
        f"{total['mutants']} mutants: {total['killed']} killed, {total['survived']} survive, "
        f"{total['equivalent']} equivalent; kill score {score}; cases to first kill {cases}; "
        f"{total['wrongly_named']} wrongly named"
    )


def markdown(table: KillTable) -> str:
    """Return the table as a Markdown document."""
    run = f"shiftproof {table.version}, profile {table.profile}, {len(table.seeds)} seeds"
    run += "" if table.hand_made else ", without the hand-made cases"
    text = [
        "# Kill table\n",
        f"Written by `shiftproof mutants --markdown` ({run}).\n",
        LEGEND + "\n",
        _rows(
            ("spec", "mutants", "killed", "survive", "equivalent", "kill score", "median", "worst", "wrongly named"),
            [_total(spec, [each for each in table.tried if each.spec == spec]) for spec in table.specs]
            + ([_total("all", table.tried)] if len(table.specs) > 1 else []),
        ),
    ]
    for spec in table.specs:
        tried = [each for each in table.tried if each.spec == spec]
        lines = list(lines_of(tried))
        shown = [line for line in lines if line.count(MutantOutcome.NOT_APPLICABLE) < len(line.tried)]
        text += [f"\n## {spec}\n", _rows(COLUMNS, [line.cells for line in shown])]
        text += _notes("Survive", [(each, "") for each in tried if each.fate is MutantOutcome.SURVIVED])
        text += _notes("Equivalent", [(each, each.reason) for each in tried if each.fate is MutantOutcome.EQUIVALENT])
        wrong = [each for each in tried if each.fate is MutantOutcome.KILLED and not each.is_named]
        text += _notes("Wrongly named", [(each, ", ".join(each.named) or "no name") for each in wrong])
        impossible = [f"{line.mutant} ({line.fate})" for line in lines if line not in shown]
        if impossible:
            text.append("\nImpossible: " + "; ".join(impossible) + ".\n")
    return "\n".join(text)


def _total(name: str, tried: Sequence[MutantResult]) -> tuple[str, ...]:
    total = summarise(tried)
    score = "–" if total["score"] is None else f"{100 * total['score']:.4g}%"
    cases = "–" if total["median"] is None else f"{total['median']:g}"
    counts = (total[key] for key in ("mutants", "killed", "survived", "equivalent"))
    return (name, *map(str, counts), score, cases, str(total["worst"] or "–"), str(total["wrongly_named"]))


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _notes(title: str, noted: Sequence[tuple[MutantResult, str]]) -> list[str]:
    if not noted:
        return []
    by_reason: dict[str, list[str]] = {}
    for each, reason in noted:
        by_reason.setdefault(reason, []).append(each.mutant + (f" ({each.detail})" if each.detail else ""))
    return [
        f"\n{title}: "
        + "; ".join(", ".join(names) + (f": {reason}" if reason else "") for reason, names in by_reason.items())
        + ".\n"
    ]
