"""The report while it is written: the seed, the progress bar, and one candidate after the other."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from shiftproof.harness.report.events import (
    CandidateJudged,
    CandidateStarted,
    CaseJudged,
    Event,
    LawJudged,
    LawStarted,
    RunStarted,
)
from shiftproof.harness.report.terminal import TerminalReport
from shiftproof.harness.results import CandidateResult

from .made_up import BAD, GOOD, entry, finished, shown, started, whole


def test_the_seed_comes_first() -> None:
    one = RunStarted("0.1.0", 7, "ci", (entry(GOOD),), 10)
    assert shown(one) == "shiftproof 0.1.0 · seed 7 · profile ci\n"
    many = shown(replace(one, candidates=(entry(GOOD), entry(BAD))))
    assert many.splitlines()[0] == "shiftproof 0.1.0 · seed 7 · 2 candidates, profile ci"


def test_each_candidate_is_printed_when_it_is_judged() -> None:
    first = shown(started(GOOD, BAD), CandidateJudged(GOOD)).splitlines()
    assert len(first) == 3
    assert first[2].startswith("good.py:loss ")


def test_one_candidate_needs_no_summary() -> None:
    assert shown(finished(GOOD)) == ""


def test_quiet_prints_the_last_line_only() -> None:
    (line,) = whole(GOOD, verbosity=-1)
    assert line == "good.py:loss against hf.causal_lm: CONFORMS · cpu · float32 · 144 cases · 2.0 s"
    (line,) = whole(BAD, verbosity=-1)
    assert "DOES NOT CONFORM (double-shift)" in line


def test_a_declaration_that_matches_nothing_is_always_told() -> None:
    for verbosity in (-1, 0, 1):
        told = "\n".join(whole(replace(GOOD, stale=("GRAD-5 (why)",)), verbosity=verbosity))
        assert "good.py:loss has a declaration that matches nothing; remove it: GRAD-5 (why)" in told


def test_a_run_that_is_over_is_told_at_once() -> None:
    def told(*results: CandidateResult) -> list[str]:
        console = Console(record=True, width=120, file=io.StringIO(), highlight=False)
        TerminalReport(console).tell_all(finished(*results))
        return console.export_text().splitlines()

    assert told(GOOD) == whole(GOOD)[1:]
    assert told(GOOD, BAD) == whole(GOOD, BAD)[1:]


EVENTS: tuple[Event, ...] = (
    RunStarted("0.1.0", 7, "quick", (entry(GOOD),), 4),
    CandidateStarted("a[0]", 4),
    LawStarted("a[0]", "ALIGN-1"),
    CaseJudged("a[0]"),
    LawJudged("a[0]", GOOD.laws[0], 2),
    LawStarted("a[0]", "VALUE-1"),
    CaseJudged("a[0]"),
)


def test_progress_says_what_is_tried_now() -> None:
    console = Console(width=120, file=io.StringIO(), force_terminal=True)
    report = TerminalReport(console)
    for event in EVENTS:
        report.tell(event)
    assert report.task is not None
    (task,) = report.progress.tasks
    assert (task.completed, task.total, task.description) == (3, 4, "a[0]  VALUE-1  case 1")
    report.tell(finished())
    assert "VALUE-1  case 1" in console.file.getvalue()  # type: ignore[attr-defined]


def test_progress_only_where_there_is_a_terminal() -> None:
    assert shown(*EVENTS, finished()) == "shiftproof 0.1.0 · seed 7 · profile quick\n"


def test_a_law_with_fewer_cases_than_planned_still_fills_its_share() -> None:
    console = Console(width=80, file=io.StringIO())
    report = TerminalReport(console)
    report.tell(RunStarted("0.1.0", 7, "quick", (entry(GOOD),), 12))
    for cases in (1, 7):
        for _ in range(cases):
            report.tell(CaseJudged("a"))
        report.tell(LawJudged("a", GOOD.laws[0], 5))
    (task,) = report.progress.tasks
    assert task.completed == 5 + 7
    for _ in range(9):
        report.tell(CaseJudged("a"))
    report.tell(LawJudged("a", GOOD.laws[0], 5))
    assert task.completed == task.total == 21  # the plan counts cases roughly
    report.tell(finished())
