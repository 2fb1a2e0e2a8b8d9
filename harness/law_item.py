"""One law asked of one candidate, as an item of pytest."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .conclusion import without_result
from .docket import Entry
from .judge import planned
from .laws import Law
from .opened import STOPS, OpenHearing, said
from .report.events import CaseJudged
from .verdict import CandidateResult, LawResult, Level, Overall, Verdict, overall

if TYPE_CHECKING:
    from .run import Run

LAW, CANDIDATE = "shiftproof.law", "shiftproof.candidate"
"""The user properties of a report in which results travel, from other processes too."""


class LawBroken(Exception):
    """A candidate breaks a law, or could not be judged by it. It tells pytest so; the findings travel beside it."""


class LawItem(pytest.Item):
    """One law asked of one candidate."""

    def __init__(self, *, run: Run, entry: Entry, law: Law[Any, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run = run
        self.entry = entry
        self.law = law
        self.following: Entry | None = None  # the entry of the item after this one
        self.add_marker(pytest.mark.xdist_group(entry.name))

    def runtest(self) -> None:
        try:
            hearing = self.run.hear(self.entry)
        except STOPS:
            raise
        except BaseException as error:  # its worker cannot be had: that is what is found of every law
            unjudged = without_result(self.law, Verdict.UNJUDGED, said(error))
            self._send(unjudged)
            raise LawBroken(unjudged.message) from error
        last = self.following != self.entry
        if last:
            self.run.prepare(self.following)
        result = None if hearing.trial is None else self._ask(hearing)
        if result is not None:
            self._send(result)
        whole = self._conclude(hearing) if last else None
        if self.entry.candidate.expect == "fails" and (result is None or result.verdict is not Verdict.UNJUDGED):
            if whole is not None and not self._fails_as_declared(whole) and not self.run.is_xdist_worker:
                raise LawBroken(f"expected to fail{_named(whole)}; it does not")
            pytest.skip("a law may be broken here: the candidate is expected to fail")
        if result is None:
            raise LawBroken(hearing.failure)
        if result.verdict in (Verdict.SKIP, Verdict.ALLOWED):
            pytest.skip(result.message)
        if result.verdict is not Verdict.PASS:
            if result.level is Level.SHOULD and result.verdict is not Verdict.UNJUDGED:
                pytest.xfail(result.message)
            raise LawBroken(result.message)

    def _ask(self, hearing: OpenHearing) -> LawResult:
        return hearing.ask(self.law, lambda: self.run.reporter.tell(CaseJudged(self.entry.name)))

    def _send(self, result: LawResult) -> None:
        cases = planned(self.law, self.run.plan.profile)
        data = {"candidate": self.entry.name, "planned": cases, "result": asdict(result)}
        self.user_properties.append((LAW, json.dumps(data)))

    def _conclude(self, hearing: OpenHearing) -> CandidateResult:
        facts = hearing.facts()
        self.user_properties.append((CANDIDATE, json.dumps(facts.to_json())))
        return facts

    def _fails_as_declared(self, whole: CandidateResult) -> bool:
        return overall(whole.laws) is Overall.FAILS and whole.has_expected_name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        if isinstance(excinfo.value, LawBroken):
            return f"{self.law.id} ({self.law.level}) {self.law.title}\n{excinfo.value}"
        return str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int, str]:  # a line, which pytest wants of what is marked to be skipped
        return Path(self.entry.candidate.call), 0, f"{self.law.id}: {self.law.title}"


def _named(result: CandidateResult) -> str:
    return f" with the name {result.expected_diagnosis}" if result.expected_diagnosis else ""
