"""A sweep for people: in the terminal, and as one self-contained HTML file.

The schema of a line in the sweep's own file is ``sweep.schema.json`` beside this file. The page is ``sweep.html``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape as html_escape
from pathlib import Path
from string import Template

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..sweep.result import Documentation, Outcome, Row
from ..sweep.store import Footer, Header, counted

SCHEMA = Path(__file__).with_name("sweep.schema.json")
_PAGE = Path(__file__).with_name("sweep.html")

_COLOUR = {
    Outcome.CONFORMS: "green",
    Outcome.FAILS: "red",
    Outcome.UNSHIFTED: "yellow",
    Outcome.NO_PAIRS: "dim",
    Outcome.NOT_BUILT: "dim",
    Outcome.NOT_JUDGED: "dim",
}
_UNSHIFTED = {
    Documentation.AGAINST: "unshifted, against their documentation",
    Documentation.BY: "unshifted, by their documentation",
    Documentation.SILENT: "unshifted, and not documented either way",
}
_UNJUDGED = {
    Outcome.NO_PAIRS: "have no pairs of a logit and a label, so there is nothing to judge",
    Outcome.NOT_BUILT: "could not be built",
    Outcome.NOT_JUDGED: "could not be judged",
}
_NAMED = 6


def render(header: Header, rows: Sequence[Row], footer: Footer) -> RenderableType:
    """Render the counts, each alarm, the unshifted classes by their documentation, and the unjudged ones by reason."""
    parts: list[RenderableType] = [Text(f"\n{_title(header)}", style="bold"), _counts(rows)]
    parts += _listed("alarms", [row for row in rows if row.outcome is Outcome.FAILS], "red")
    for documentation, title in _UNSHIFTED.items():
        found = [row for row in rows if row.outcome is Outcome.UNSHIFTED and row.documentation is documentation]
        parts += _listed(title, found, "red" if documentation is Documentation.AGAINST else "yellow")
    for outcome, title in _UNJUDGED.items():
        parts += _by_reason(title, [row for row in rows if row.outcome is outcome])
    return Group(*parts, _said(rows, footer))


def _title(header: Header) -> str:
    own = f"{header.package} {header.versions.get(header.package, '')}".rstrip()
    patterns = f", {' '.join(header.patterns)}" if header.patterns else ""
    torch = header.versions.get("torch", "unknown")
    return f"{own}{patterns} · torch {torch} · {header.device} {header.dtype} · seed {header.seed}"


def _counts(rows: Sequence[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    table.add_column(justify="right")
    table.add_column()
    for outcome, count in counted(rows).items():
        if count:
            table.add_row(str(count), Text(outcome, style=_COLOUR[Outcome(outcome)]))
    return table


def _listed(title: str, rows: Sequence[Row], colour: str) -> list[RenderableType]:
    """Return one row per class: its name, the name of the bug or its alignment, and one line of text."""
    if not rows:
        return []
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(escape(row.name), escape(_in_short(row)), escape(_told(row)))
    return [Text(f"\n{title}", style=f"bold {colour}"), table]


def _in_short(row: Row) -> str:
    return ", ".join(row.diagnosis or row.laws) or row.alignment or "–"


def _told(row: Row) -> str:
    again = (
        f"; shiftproof replay {row.counterexample.replay}" if row.counterexample and row.counterexample.replay else ""
    )
    return (row.sentence or row.reason) + again


def _by_reason(title: str, rows: Iterable[Row]) -> list[RenderableType]:
    """Return one row per reason, the most common first, with the number of its classes."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        by_reason.setdefault(row.reason, []).append(row.name)
    if not by_reason:
        return []
    table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        table.add_row(str(len(names)), escape(reason), escape(", ".join(names[:_NAMED]) + more))
    return [Text(f"\n{title}", style="bold"), table]


def _said(rows: Sequence[Row], footer: Footer) -> Text:
    alarms = sum(row.is_alarm for row in rows)
    judged = sum(row.is_verdict for row in rows)
    summary = f"{alarms} of {judged} classes judged are alarms" if alarms else f"no alarm in {judged} classes judged"
    style = "bold red" if alarms else "bold green" if judged else "bold yellow"
    return Text.assemble("\n", (summary, style), (f"; {footer.seconds:.0f} s", "dim"))


# --- HTML -------------------------------------------------------------------------------------------------------------

_COLUMNS = ("class", "outcome", "bug", "laws", "alignment", "documentation", "extra logits", "why", "again", "seconds")


def html(header: Header, rows: Sequence[Row], footer: Footer) -> str:
    """Return the page: a table that can be sorted and filtered."""
    counts = [
        f'<button type="button" class="{outcome}" data-outcome="{outcome}">{count} {outcome}</button>'
        for outcome, count in counted(rows).items()
        if count
    ]
    unfinished = "" if footer.finished else " · interrupted, so rows are missing"
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(
        title=html_escape(f"shiftproof sweep: {_title(header)}"),
        said=html_escape(_said(rows, footer).plain.strip() + unfinished),
        facts=html_escape(", ".join(f"{name} {version}" for name, version in header.versions.items())),
        counts="\n".join(counts),
        columns="".join(f'<th><button type="button">{column}</button></th>' for column in _COLUMNS),
        rows="\n".join(map(_html_row, rows)),
    )


def _html_row(row: Row) -> str:
    replay = row.counterexample.replay if row.counterexample else ""
    cells = (
        row.name,
        str(row.outcome),
        ", ".join(row.diagnosis),
        ", ".join(row.laws),
        row.alignment,
        ": ".join(filter(None, (str(row.documentation), row.sentence))),
        str(row.prefix or ""),
        row.reason,
        f"shiftproof replay {replay}" if replay else "",
        f"{row.seconds:.1f}",
    )
    alarm = " alarm" if row.is_alarm else ""
    tds = "".join(f"<td>{html_escape(cell)}</td>" for cell in cells)
    return f'<tr class="{row.outcome}{alarm}" data-outcome="{row.outcome}">{tds}</tr>'
