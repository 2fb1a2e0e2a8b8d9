"""A sweep for people: on a console of fixed width, and as a page."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

from rich.console import Console

from shiftproof.harness.report.sweep import html, render
from shiftproof.harness.results import Counterexample
from shiftproof.harness.sweep.result import Documentation, Outcome, Row, not_judged
from shiftproof.harness.sweep.store import Footer, Header, counted

ODD = '<script>alert("&")</script> [red]'
HEADER = Header("0.1.0", "lib", {"lib": "5.18.0", "torch": "2.13.0"}, "", ("Git*",), 3, "quick", "cpu", "float32")
ROWS = (
    Row("lib:Right", Outcome.CONFORMS, alignment="k=1", prefix=4, seconds=12.34),
    Row("lib:Twice", Outcome.FAILS, ODD, laws=("ALIGN-1",), diagnosis=("double-shift",), alignment="k=2"),
    Row("lib:Odd", Outcome.FAILS, "off by 3%", laws=("VALUE-1",), counterexample=Counterexample("0123abcd", {})),
    Row("lib:Says", Outcome.UNSHIFTED, "k=0", documentation=Documentation.BY, sentence="shift them"),
    Row("lib:Lies", Outcome.UNSHIFTED, "k=0", documentation=Documentation.AGAINST, sentence=ODD),
    Row("lib:Mute", Outcome.UNSHIFTED, "scored on the label beside", alignment="k=0"),
    Row("lib:Sound", Outcome.NO_PAIRS, "8 rows of logits for any labels"),
    *(Row(f"lib:Vision{n}", Outcome.NOT_BUILT, "needs a vision tower") for n in range(8)),
    Row("lib:Huge", Outcome.NOT_BUILT, "no small configuration"),
    not_judged("lib:Crash", "its process was killed by SIGSEGV"),
)


def footer(rows: tuple[Row, ...] = ROWS) -> Footer:
    return Footer(counted(rows), 61.2, finished=True)


def shown(rows: tuple[Row, ...] = ROWS) -> list[str]:
    console = Console(record=True, width=120, file=io.StringIO(), highlight=False)
    console.print(render(HEADER, rows, footer(rows)))
    return [" ".join(line.split()) for line in console.export_text().splitlines() if line.strip()]


def test_in_the_terminal() -> None:
    assert shown() == [
        "lib 5.18.0, Git* · torch 2.13.0 · cpu float32 · seed 3",
        "1 conforms",
        "2 fails",
        "3 unshifted",
        "1 no-pairs",
        "9 not-built",
        "1 not-judged",
        "alarms",
        f"Twice double-shift {ODD}",
        "Odd VALUE-1 off by 3%; shiftproof replay 0123abcd",
        "unshifted, against their documentation",
        f"Lies – {ODD}",
        "unshifted, by their documentation",
        "Says – shift them",
        "unshifted, and not documented either way",
        "Mute k=0 scored on the label beside",
        "have no pairs of a logit and a label, so there is nothing to judge",
        "1 8 rows of logits for any labels Sound",
        "could not be built",
        "8 needs a vision tower Vision0, Vision1, Vision2, Vision3, Vision4, Vision5 and 2 more",
        "1 no small configuration Huge",
        "could not be judged",
        "1 its process was killed by SIGSEGV Crash",
        "3 of 6 classes judged are alarms; 61 s",
    ]


def test_where_there_is_no_alarm() -> None:
    assert shown(ROWS[:1])[-1] == "no alarm in 1 classes judged; 61 s"
    assert shown(ROWS[-1:])[-1] == "no alarm in 0 classes judged; 61 s"


class Page(HTMLParser):
    """What a browser makes of a page: the cells of its table, its scripts, and all that it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        self._in_cell = tag == "td"
        if self._in_cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def test_the_page_has_every_row_and_needs_nothing_else() -> None:
    text = html(HEADER, ROWS, footer())
    page = Page(text)
    cells = {row[0]: row[1:] for row in page.rows if row}
    assert list(cells) == [row.name for row in ROWS]
    assert cells["Right"] == ["conforms", "", "", "k=1", "", "4", "", "", "12.3"]
    assert cells["Odd"][2:8] == ["VALUE-1", "", "", "", "off by 3%", "shiftproof replay 0123abcd"]
    assert cells["Lies"][4] == f"against it: {ODD}"
    assert page.fetched == []
    assert not re.search(r"https?://|@import|url\(", text)


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    page = Page(html(replace(HEADER, patterns=(ODD,)), ROWS, footer()))
    assert page.tags.count("script") == 1
    assert {row[0]: row for row in page.rows if row}["Twice"][7] == ODD


def test_a_sweep_that_was_interrupted_says_so() -> None:
    assert "so rows are missing" not in html(HEADER, ROWS, footer())
    assert "so rows are missing" in html(HEADER, ROWS, replace(footer(), finished=False))
