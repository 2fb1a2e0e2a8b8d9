"""All that is found of one candidate, as text or HTML. More of it the higher the verbosity."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from ..results import CandidateResult, Overall
from .failure import Line, failure
from .fitting import wrapped
from .laws import judged_space, laws_table
from .verdict import INDENT, count_of_limits, covered, facts_follow, facts_of, headline, in_one_line, open_laws

SCREEN = 40  # lines that the report of one failing candidate may take, with the line of the seed
_MESSAGE, _DUE = 3, 20  # lines
_UNCUT = 10**6  # columns


def findings(result: CandidateResult, verbosity: int = 0) -> RenderableType:
    """Render what is found of one candidate.

    −1 is one line; 0 is the verdict and what explains it; 1 adds the laws, and cuts nothing; 2 adds skips, cells,
    sizes, branches and the effort.
    """
    return _Findings(result, verbosity, has_headline=True)


def details(result: CandidateResult, verbosity: int = 0) -> RenderableType:
    """Render the same without the line of the verdict."""
    return _Findings(result, verbosity, has_headline=False)


def as_text(result: CandidateResult, verbosity: int = 0, width: int = 120) -> str:
    """Return the findings as plain text of ``width`` columns."""
    plain: dict[str, Any] = {"file": io.StringIO(), "width": width, "highlight": False, "force_jupyter": False}
    console = Console(**plain, color_system=None, force_terminal=False)
    with console.capture() as caught:
        console.print(findings(result, verbosity), soft_wrap=True)
    return "\n".join(line.rstrip() for line in caught.get().splitlines()) + "\n"


def as_html(result: CandidateResult, verbosity: int = 0, width: int = 120) -> str:
    """Return the findings as one HTML element with its colours, such as for a notebook."""
    plain: dict[str, Any] = {"file": io.StringIO(), "width": width, "highlight": False, "force_jupyter": False}
    console = Console(**plain, record=True, force_terminal=True)
    console.print(findings(result, verbosity), soft_wrap=True)
    return console.export_html(inline_styles=True, code_format=_HTML)


_HTML = '<pre style="font-family:Menlo,Consolas,monospace;line-height:1.2;overflow-x:auto">{code}</pre>'


@dataclass(frozen=True)
class _Findings:
    """Lays its lines out for the width of the console that prints it."""

    result: CandidateResult
    verbosity: int
    has_headline: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        result, width = self.result, options.max_width
        if self.verbosity < 0:
            yield in_one_line(result, width)
            return
        if self.has_headline:
            yield headline(result, width if self._is_cut else _UNCUT)
        for text, style in self._lines(width):
            yield Text(text, style=style, no_wrap=True, overflow="ignore")
        if self.verbosity >= 1 and result.asked:
            yield laws_table(result.laws, with_skips=self.verbosity > 1)
        if self.verbosity > 1 and result.asked:
            yield from judged_space(result)

    @property
    def _is_cut(self) -> bool:
        return self.verbosity == 0

    def _lines(self, width: int) -> list[Line]:
        """Return the lines between that of the verdict and the laws."""
        result = self.result
        lines: list[Line] = []
        has_covered = result.asked and result.verdict is not Overall.FAILS
        if self.has_headline and self._is_cut and not has_covered and facts_follow(result, width):
            lines.append((" " * INDENT + facts_of(result), ""))
        if self._is_cut and result.expect == "fails" and result.as_expected:
            return lines
        if result.message:
            most = _MESSAGE if self._is_cut and result.verdict is Overall.FAILS else None
            lines += [(line, "") for line in wrapped(result.message, width, INDENT, most)]
        if result.verdict is not Overall.FAILS:
            return lines + self._open(width)
        if result.scope:
            most = 1 if self._is_cut else None
            lines += [(line, "yellow") for line in wrapped("; ".join(result.scope), width, INDENT, most)]
        lines.append(("", ""))
        room = SCREEN - 2 - len(result.stale) - len(lines)  # beside the lines of the seed and of the verdict
        return lines + failure(result, width, room if self._is_cut else None)

    def _open(self, width: int) -> list[Line]:
        """Return why the verdict is no failure and not CONFORMS, and what it covers."""
        result = self.result
        found: list[Line] = [(line, "") for said in open_laws(result) for line in wrapped(said, width, INDENT)]
        if result.gaps:
            due = f"the judgement is not complete; there was no case of: {'; '.join(result.gaps)}"
            most = _DUE if self._is_cut else None
            found += [(line, "yellow") for line in wrapped(due, width, INDENT, most)]
        if not result.asked:
            return found
        if self._is_cut:
            said = covered(result, width)
            if result.scope and count_of_limits(result) in said.split("; "):  # a limit is never only counted
                found += [(line, "yellow") for line in wrapped(f"only {'; '.join(result.scope)}", width, INDENT, 1)]
                said = covered(result, width, has_limits=False)
            return [*found, (" " * INDENT + said, "dim")] if said else found
        said = covered(result, _UNCUT)
        return found + [(line, "") for line in wrapped(said, width, INDENT)] if said else found
