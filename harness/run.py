"""One run under pytest: every law of every candidate is a test item, and what they find becomes events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from .builder_diagnose import compare, name_builder_bugs
from .builder_trial import BuilderTrial
from .candidate import UsageError
from .coverage import coverage
from .diagnose import name_bugs, picture
from .difference import measure
from .docket import AnyTrial, Entry, Hearing
from .environments import tell_apart
from .evidence import gather
from .judge import ask, planned
from .laws import Law, laws_of
from .plan import Plan, from_options
from .recipe import Recipe
from .report.events import (
    CandidateJudged,
    CandidateStarted,
    CaseJudged,
    LawJudged,
    Reporter,
    RunFinished,
    RunStarted,
    together,
)
from .report.machine import JsonReport
from .report.terminal import TerminalReport
from .verdict import (
    CandidateResult,
    LawResult,
    Level,
    Overall,
    Verdict,
    law_from_json,
    merge,
    overall,
    why_unjudged,
)
from .worker.target import LoadFailure

_LAW, _CANDIDATE = "shiftproof.law", "shiftproof.candidate"
_KEPT_LOADED = 3  # candidates whose workers stay up between the check of their arguments and their trial


def begin(config: pytest.Config) -> Run:
    """The run that a pytest session's options ask for.

    Raises:
        pytest.UsageError: when they cannot be followed.
    """
    try:
        plan = from_options(vars(config.option))
        config.option.shiftproof_seed = plan.seed  # so that the processes of pytest-xdist draw the same cases
        return Run(config, plan)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


class Run:
    """Holds the hearings and hands out events; lives as long as the pytest session."""

    def __init__(self, config: pytest.Config, plan: Plan) -> None:
        torch.set_num_threads(1)  # small cases are faster so, and the judge shares its cores with the candidate
        self.plan = plan
        self.results: dict[str, CandidateResult] = {}
        self.started = time.perf_counter()
        self.is_xdist_worker = hasattr(config, "workerinput")
        self.own_display = config.getoption("--shiftproof-display") == "own"
        self.versions: dict[str, dict[str | None, Mapping[str, str]]] = {}  # candidate -> interpreter -> what it has
        for entry in plan.entries:
            self.versions.setdefault(entry.candidate.name, {})[entry.candidate.python] = {}
        self.reporter: Reporter = self._reporters(config)
        self._hearing: OpenHearing | None = None
        self._ready: dict[str, Hearing] = {}
        self._refused = False  # the candidates cannot be judged as asked, so there is nothing to report
        if self.own_display:
            standard = config.pluginmanager.getplugin("terminalreporter")
            config.pluginmanager.unregister(standard)

    def _reporters(self, config: pytest.Config) -> Reporter:
        if self.is_xdist_worker:
            return together(())
        path = config.getoption("--shiftproof-json")
        members: list[Reporter] = [JsonReport(Path(path))] if path else []
        return together([*members, TerminalReport()] if self.own_display else members)

    # Before anything is judged ------------------------------------------------------------------------------------

    def pytest_collection(self, session: pytest.Session) -> None:
        names = tuple(entry.name for entry in self.plan.entries)
        planned = sum(map(self.planned, self.plan.entries))
        self.reporter.tell(RunStarted(version("shiftproof"), self.plan.seed, self.plan.profile.name, names, planned))
        if self.is_xdist_worker:
            return
        try:
            self._check_all()
        except UsageError as error:
            self._refused = True
            raise pytest.UsageError(str(error)) from None

    def _check_all(self) -> None:
        """Load every candidate once, two at a time, so that a misspelt name is told before any work is done.

        Candidates that are there and cannot be loaded get their verdict later, beside the others; so do those that are
        not there under this interpreter and are under another.
        """
        distinct = {(entry.candidate.name, entry.candidate.python): entry for entry in reversed(self.plan.entries)}
        entries = list(reversed(distinct.values()))
        misnamed: dict[str, UsageError] = {}
        for index, entry in enumerate(entries):
            hearing = self._open(entry)
            if index + 1 < len(entries):
                self._open(entries[index + 1])
            try:
                hearing.trial()
                self.versions[entry.candidate.name][entry.candidate.python] = hearing.describe().versions
            except UsageError as error:
                misnamed.setdefault(entry.candidate.name, error)
            except LoadFailure:
                pass
            if len(entries) > _KEPT_LOADED:
                self._ready.pop(entry.name).close()
        for name, mistake in misnamed.items():
            if not any(self.versions[name].values()):
                raise mistake

    def _open(self, entry: Entry) -> Hearing:
        """The hearing of an entry, loading."""
        if entry.name not in self._ready:
            self._ready[entry.name] = Hearing(entry, self.plan.options)
            self._ready[entry.name].start()
        return self._ready[entry.name]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> Iterator[None]:
        items[:0] = [
            LawItem.from_parent(session, name=f"{law.id}[{entry.name}]", run=self, entry=entry, law=law)
            for entry in self.plan.entries
            for law in laws_of(entry.spec).values()
        ]
        yield

    # While judging ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if isinstance(item, LawItem):
            item.following = nextitem.entry if isinstance(nextitem, LawItem) else None

    def hear(self, entry: Entry) -> OpenHearing:
        """The open hearing of an entry; the one before it is closed."""
        if self._hearing is None or self._hearing.entry != entry:
            if self._hearing is not None:
                self._hearing.close()
            hearing = self._open(entry)
            del self._ready[entry.name]
            self._hearing = OpenHearing(entry, hearing, self.plan.profile.complete)
            self.reporter.tell(CandidateStarted(entry.name, self.planned(entry)))
        return self._hearing

    def prepare(self, entry: Entry | None) -> None:
        """Begin to load the next candidate while the last laws of this one are asked."""
        if entry is not None:
            self._open(entry)

    def planned(self, entry: Entry) -> int:
        """About how many cases will be judged of an entry."""
        return sum(planned(law, self.plan.profile) for law in laws_of(entry.spec).values())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.is_xdist_worker or report.when != "call":
            return
        for name, value in report.user_properties:
            if name == _LAW:
                data = json.loads(str(value))
                result = law_from_json(data["result"])
                self.reporter.tell(LawJudged(data["candidate"], result, data["planned"]))
            elif name == _CANDIDATE:
                self._add(CandidateResult.from_json(json.loads(str(value))))

    def _add(self, result: CandidateResult) -> None:
        name = result.candidate
        known = self.results.get(name)
        self.results[name] = merge(known, result) if known else result
        entry = self._entry(name)
        self.versions[entry.candidate.name][entry.candidate.python] = result.environment
        self.reporter.tell(CandidateJudged(self._named(name)))

    def _named(self, name: str) -> CandidateResult:
        """The result of an entry; where it is one of several environments, under a name that tells which.

        Where other processes judge, what tells them apart is known for certain only once all have reported.
        """
        entry = self._entry(name)
        if not entry.is_compared:
            return self.results[name]
        candidate = entry.candidate
        environment = tell_apart(candidate.call, self.versions[candidate.name])[candidate.python]
        return replace(self.results[name], candidate=entry.called(environment), environment_name=environment)

    def _entry(self, name: str) -> Entry:
        return next(entry for entry in self.plan.entries if entry.name == name)

    # After it -----------------------------------------------------------------------------------------------------

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        cut_short = self._hearing is not None and self._hearing.entry.name not in self.results  # as by -x
        if cut_short and self._hearing is not None and self._hearing.laws and not self.is_xdist_worker:
            self._add(self._hearing.cut_short())
        for hearing in self._ready.values():
            hearing.close()
        if self._hearing is not None:
            self._hearing.close()
        self._ready.clear()
        if self.is_xdist_worker or self._refused:
            return
        if session.exitstatus == pytest.ExitCode.OK and not all(map(_as_hoped, self.results.values())):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED  # told only once every process has reported
        self.reporter.tell(self.finished())

    def finished(self) -> RunFinished:
        return RunFinished(
            version=version("shiftproof"),
            seed=self.plan.seed,
            profile=self.plan.profile.name,
            seconds=time.perf_counter() - self.started,
            results=tuple(map(self._named, self.results)),
        )

    def pytest_report_header(self) -> str:
        return f"shiftproof: seed {self.plan.seed}, profile {self.plan.profile.name}"

    def pytest_terminal_summary(self) -> None:
        if not self.own_display and not self.is_xdist_worker:
            report = TerminalReport()
            finished = self.finished()
            for result in finished.results:
                report.tell(CandidateJudged(result))
            report.tell(finished)


class OpenHearing:
    """The candidate that is being heard: its trial, and what its laws have found so far."""

    def __init__(self, entry: Entry, hearing: Hearing, complete: bool) -> None:
        self.entry = entry
        self.hearing = hearing
        self.complete = complete
        self.laws: list[LawResult] = []
        self.failure: LoadFailure | UsageError | None = None
        self.trial: AnyTrial | None = None
        self.started = time.perf_counter()
        try:
            self.trial = hearing.trial()
        except (LoadFailure, UsageError) as failure:  # a misnamed one is there under another interpreter
            self.failure = failure

    def close(self) -> None:
        self.hearing.close()

    def result(self) -> CandidateResult:
        """What is known of the candidate now: called after its last law."""
        candidate = self.entry.candidate
        found = CandidateResult(
            candidate=self.entry.name,
            call=candidate.call,
            spec=candidate.spec,
            device=self.entry.device,
            dtype=self.entry.dtype,
            verdict=Overall.ERROR,
            python=candidate.python,
            expect=candidate.expect,
            expected_diagnosis=candidate.diagnosis,
        )
        if self.trial is None:
            assert self.failure is not None
            return replace(found, message=str(self.failure), seconds=self._seconds())
        laws = tuple(self.laws)
        covered = coverage([*laws_of(self.entry.spec).values()], self.trial, self.complete)
        verdict = overall(laws, covered)
        if verdict is Overall.FAILS:
            found = self._diagnosed(found, self.trial, laws)
        return replace(
            found,
            verdict=verdict,
            message=why_unjudged(laws) if verdict is Overall.ERROR else "",
            laws=laws,
            coverage=covered,
            calls=self.trial.calls,
            seconds=self._seconds(),
            seconds_in_candidate=round(self.trial.caller.seconds_in_candidate, 3),
            seconds_in_oracle=round(self.trial.seconds_in_oracle, 3),
            environment=dict(self.hearing.environment()),
        )

    def cut_short(self) -> CandidateResult:
        """What is known where not all laws were asked: that it fails, if it does, and never that it conforms."""
        found = self.result()
        if found.verdict is not Overall.CONFORMS:
            return found
        told = f"cut short: {len(self.laws)} of {len(laws_of(self.entry.spec))} laws were asked"
        return replace(found, verdict=Overall.INCONCLUSIVE, message=told)

    def _diagnosed(self, found: CandidateResult, trial: AnyTrial, laws: tuple[LawResult, ...]) -> CandidateResult:
        """``found`` with the bug's name, and a picture of it."""
        if any(law.verdict.is_costly for law in laws):
            return found  # each further question may cost a process or a deadline
        if isinstance(trial, BuilderTrial):
            return replace(found, diagnosis=name_builder_bugs(laws, trial), built=compare(laws, trial))
        evidence, silent = gather(trial)
        names = name_bugs(laws, trial, evidence, silent)
        shown = [law for law in laws if law.counterexample is not None and law.level is Level.MUST]
        drawn = None
        if shown and shown[0].verdict is Verdict.FAIL and "CONTRACT-1" not in trial.failed:
            assert shown[0].counterexample is not None
            drawn = picture(trial, Recipe.from_json(shown[0].counterexample.recipe))
            if drawn is not None and drawn.found == drawn.expected:
                drawn = None  # the pairs are right, so it is something else that is wrong
        apart = None if names else measure(trial, evidence)
        return replace(found, diagnosis=names, pairing=drawn, difference=apart)

    def _seconds(self) -> float:
        return round(time.perf_counter() - self.started, 3)


class LawBroken(Exception):
    """A candidate breaks a law. Raised to tell pytest so; the findings travel beside it."""


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
        hearing = self.run.hear(self.entry)
        last = self.following != self.entry
        if last:
            self.run.prepare(self.following)
        result = None if hearing.trial is None else self._ask(hearing, hearing.trial)
        whole = self._conclude(hearing) if last else None
        if self.entry.candidate.expect == "fails":
            if whole is not None and not whole.as_expected and not self.run.is_xdist_worker:
                raise LawBroken(f"expected to fail{_named(whole)}; it {whole.verdict}")
            pytest.skip("a law may be broken here: the candidate is expected to fail")
        if result is None:
            raise LawBroken(str(hearing.failure))
        if result.verdict is Verdict.SKIP:
            pytest.skip(result.message)
        if result.verdict is not Verdict.PASS:
            if result.level is Level.SHOULD:
                pytest.xfail(result.message)
            raise LawBroken(result.message)

    def _ask(self, hearing: OpenHearing, trial: AnyTrial) -> LawResult:
        profile, seed = self.run.plan.profile, self.run.plan.seed
        result = ask(self.law, trial, profile, seed, lambda: self.run.reporter.tell(CaseJudged(self.entry.name)))
        hearing.laws.append(result)
        told = {"candidate": self.entry.name, "planned": planned(self.law, profile), "result": asdict(result)}
        self.user_properties.append((_LAW, json.dumps(told)))
        return result

    def _conclude(self, hearing: OpenHearing) -> CandidateResult:
        whole = hearing.result()
        self.user_properties.append((_CANDIDATE, json.dumps(whole.to_json())))
        return whole

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        if isinstance(excinfo.value, LawBroken):
            return f"{self.law.id} ({self.law.level}) {self.law.title}\n{excinfo.value}"
        return str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return Path(self.entry.candidate.call), None, f"{self.law.id}: {self.law.title}"


def _as_hoped(result: CandidateResult) -> bool:
    return result.as_expected if result.expect == "fails" else not result.gaps


def _named(result: CandidateResult) -> str:
    return f" with the name {result.expected_diagnosis}" if result.expected_diagnosis else ""
