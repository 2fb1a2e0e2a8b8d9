"""The report for people: a progress bar during the run, then the findings."""

from __future__ import annotations

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ..judge.environments import comparisons
from .comparison import comparison
from .console import new_console
from .events import (
    CandidateJudged,
    CandidateStarted,
    CaseJudged,
    Entry,
    Event,
    LawJudged,
    LawStarted,
    RunFinished,
    RunStarted,
)
from .findings import details, findings
from .rows import Rows, ending, totals


class TerminalReport:
    """Prints the seed first, shows progress if there is a terminal, and prints each candidate as soon as it is judged.

    Several candidates are rows of one table. A candidate that is not as expected has its findings under its row.

    Attributes:
        verbosity: −1 prints the last line only, 1 and 2 print the findings of each candidate in place of its row.
    """

    def __init__(self, console: Console | None = None, verbosity: int = 0) -> None:
        self.console = console or new_console()
        self.verbosity = verbosity
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("cases"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task: TaskID | None = None
        self.done_before = 0
        self._rows: Rows | None = None  # None while there is one candidate, or no plan yet
        self._law = ""

    def tell(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._begin(event)
            case CandidateStarted() if self.task is not None:
                self._describe(event.candidate)
            case LawStarted() if self.task is not None:
                self._law = event.law
                self._describe(event.candidate, event.law)
            case CaseJudged() if self.task is not None:
                self.progress.advance(self.task)
                self.done_before += 1
                self._describe(event.candidate, self._law, f"case {self.done_before}")
            case LawJudged() if self.task is not None:
                # A law may need fewer cases than planned. Its share of the bar counts as done all the same.
                self.progress.advance(self.task, max(event.planned - self.done_before, 0))
                self.done_before = 0
                (task,) = self.progress.tasks
                if task.total is not None and task.completed > task.total:  # the plan counts cases roughly
                    self.progress.update(self.task, total=task.completed)
            case CandidateJudged():
                self._judged(event)
            case RunFinished():
                self.progress.stop()
                self._finish(event)
            case _:
                pass

    def tell_all(self, run: RunFinished) -> None:
        """Print the whole report of a run that is over, without the line of the seed."""
        self._plan(_entries(run))
        for result in run.results:
            self.tell(CandidateJudged(result))
        self.tell(run)

    def _begin(self, event: RunStarted) -> None:
        many = f"{len(event.candidates)} candidates, " if len(event.candidates) > 1 else ""
        if self.verbosity >= 0:
            seed = f"shiftproof {event.version} · seed {event.seed} · {many}profile {event.profile}"
            self._print(Text(seed, style="bold"))
        self._plan(event.candidates)
        self.progress.start()
        self.task = self.progress.add_task("loading", total=event.planned or None)

    def _plan(self, entries: tuple[Entry, ...]) -> None:
        if len(entries) > 1:
            self._rows = self._table(entries)
            if self.verbosity == 0:
                self._print(self._rows.heading())

    def _table(self, entries: tuple[Entry, ...]) -> Rows:
        return Rows(entries, self.console.width)

    def _describe(self, *words: str) -> None:
        if self.task is not None and not self.progress.disable:
            self.progress.update(self.task, description=escape("  ".join(words)))

    def _judged(self, event: CandidateJudged) -> None:
        if self.verbosity < 0:
            return
        if self._rows is None or self.verbosity > 0:
            self._print(findings(event.result, self.verbosity))
            if self._rows is not None:
                self._print(Text())
            return
        self._print(self._rows.row(event.result))
        if not event.result.as_expected:
            self._print(details(event.result))
            self._print(Text())

    def _finish(self, run: RunFinished) -> None:
        if self.verbosity >= 0:
            if len(run.results) > 1:
                for line in ending(run, self._rows or self._table(_entries(run))):
                    self._print(line)
            for compared in comparisons(run.results):
                self._print(comparison(compared))
        for result in run.results:
            for declared in result.stale:
                text = f"{result.candidate} has a declaration that matches nothing; remove it: {declared}"
                self._print(Text(text, style="bold red"))
        if len(run.results) > 1:
            self._print(totals(run))
        elif self.verbosity < 0:
            for result in run.results:
                self._print(findings(result, self.verbosity))

    def _print(self, what: RenderableType) -> None:
        """Print without breaking or cropping lines: what is to fit is made to fit by who wrote it."""
        self.console.print(what, soft_wrap=True)


def _entries(run: RunFinished) -> tuple[Entry, ...]:
    return tuple(Entry(each.candidate, each.spec, each.device, each.dtypes) for each in run.results)
