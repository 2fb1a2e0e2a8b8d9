"""One law asked of one candidate, as a pytest item."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..judge.ask import planned
from ..judge.conclusion import without_result
from ..judge.loading import Job
from ..laws import Law
from ..report.events import CaseJudged, LawStarted
from ..results import CandidateResult, LawResult, Level, Overall, Verdict, overall
from ..run.alone import one_thread
from ..run.open_candidate import STOPS, OpenCandidate, said

if TYPE_CHECKING:
    from .session import Run

LAW, CANDIDATE, KEY = "shiftproof.law", "shiftproof.candidate", "shiftproof.key"
"""The user properties of a pytest report that carry results, also from other processes."""


class LawBroken(Exception):
    """Tells pytest that a candidate breaks a law, or could not be judged by it. The findings travel beside it."""


class LawItem(pytest.Item):
    """One law asked of one candidate.

    Attributes:
        key: tells it from all other items of a run.
        file, line: where it is declared.
    """

    def __init__(
        self, *, run: Run, job: Job, law: Law[Any, Any], key: str = "", file: Path, line: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.run = run
        self.job = job
        self.law = law
        self.key = key or self.nodeid
        self.file = file
        self.line = line
        self.following: Job | None = None  # the entry of the item after this one
        self.user_properties.append((KEY, self.key))
        self.add_marker(pytest.mark.xdist_group(job.name))

    def runtest(self) -> None:
        with one_thread():
            self._judge()

    def _judge(self) -> None:
        try:
            loaded = self.run.hear(self.job)
        except STOPS:
            raise
        except BaseException as error:  # its worker cannot start; every law gets this result
            unjudged = without_result(self.law, Verdict.UNJUDGED, said(error))
            self._send(unjudged)
            raise LawBroken(unjudged.message) from error
        last = self.following != self.job
        if last:
            self.run.prepare(self.following)
        result = None if loaded.trial is None else self._ask(loaded)
        if result is not None:
            self._send(result)
        whole = self._conclude(loaded) if last else None
        if self.job.candidate.expect == "fails" and (result is None or result.verdict is not Verdict.UNJUDGED):
            if whole is not None and not self._fails_as_declared(whole) and not self.run.is_xdist_worker:
                raise LawBroken(f"the candidate is expected to fail{_named(whole)}, but it does not")
            pytest.skip("the candidate is expected to fail, so it may break this law")
        if result is None:
            raise LawBroken(loaded.failure)
        if result.verdict in (Verdict.SKIP, Verdict.ALLOWED):
            pytest.skip(result.message)
        if result.verdict is not Verdict.PASS:
            if result.level is Level.SHOULD and result.verdict is not Verdict.UNJUDGED:
                pytest.xfail(f"a SHOULD law, which does not decide: {result.message}")
            raise LawBroken(result.message)

    def _ask(self, loaded: OpenCandidate) -> LawResult:
        self.run.reporter.tell(LawStarted(self.job.name, self.law.id))
        return loaded.ask(self.law, lambda: self.run.reporter.tell(CaseJudged(self.job.name)))

    def _send(self, result: LawResult) -> None:
        cases = planned(self.law, self.run.plan.profile)
        expected = self.get_closest_marker("xfail")
        data = {
            "job": self.job.to_json(),
            "keys": self.run.keys[self.job.name],
            "planned": cases,
            "result": asdict(result),
            "xfail": "" if expected is None else str(expected.kwargs.get("reason") or "marked xfail"),
        }
        self.user_properties.append((LAW, json.dumps(data)))

    def _conclude(self, loaded: OpenCandidate) -> CandidateResult:
        facts = loaded.facts()
        data = {"job": self.job.to_json(), "keys": self.run.keys[self.job.name], "facts": facts.to_json()}
        self.user_properties.append((CANDIDATE, json.dumps(data)))
        return facts

    def _fails_as_declared(self, whole: CandidateResult) -> bool:
        return overall(whole.laws) is Overall.FAILS and whole.has_expected_name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        if isinstance(excinfo.value, LawBroken):
            return f"{self.law.id} ({self.law.level}) {self.law.title}\n{excinfo.value}"
        if isinstance(excinfo.value, pytest.xfail.Exception):
            return str(excinfo.value)  # pytest would read and parse the source of every frame, and show none of it
        return str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int, str]:  # pytest needs a line number for items that are marked to be skipped
        return self.file, self.line, f"{self.law.id}: {self.law.title}"


def _named(result: CandidateResult) -> str:
    return f" with the name {result.expected_diagnosis}" if result.expected_diagnosis else ""
