"""One run under pytest. The plan is every law of every candidate; each is a test item. The verdicts follow from it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from ..candidates.declaration import UsageError
from ..judge.ask import planned
from ..judge.conclusion import conclude, stale
from ..judge.environments import tell_apart
from ..judge.laws_of import laws_of
from ..judge.loading import Job, LoadedCandidate
from ..judge.plan import Plan, from_options
from ..judge.regions import Tracers
from ..report.console import new_console
from ..report.events import (
    CandidateJudged,
    CandidateStarted,
    Entry,
    LawJudged,
    Reporter,
    Reporters,
    RunFinished,
    RunStarted,
)
from ..report.json_report import STDOUT, JsonReport
from ..report.terminal import TerminalReport
from ..results import CandidateResult, LawResult, Overall, Verdict, law_from_json, merge
from ..run.open_candidate import STOPS, OpenCandidate, blank
from .items import CANDIDATE, KEY, LAW, LawItem

_KEPT_LOADED = 3  # candidates whose workers stay up between the check of their arguments and their trial
_LOST = "every law was asked, but other findings were lost: a pytest plugin may have removed them"
_LEFT_OUT = "shiftproof_left_out"  # here a pytest-xdist process reports the laws that the user left out


def begin(config: pytest.Config) -> Run:
    """Start the run that the options of a pytest session ask for.

    Raises:
        pytest.UsageError: if the options cannot be followed.
    """
    try:
        if config.getoption("--shiftproof-json") == STDOUT and config.getoption("--shiftproof-display") != "own":
            raise UsageError("--shiftproof-json - does not work: pytest writes to standard output itself; name a file")
        plan = from_options(vars(config.option))
        config.option.shiftproof_seed = plan.seed  # so that all pytest-xdist processes draw the same cases
        return Run(config, plan)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


class Run:
    """Holds the plan, the loaded candidates and the findings, and sends events. Lives as long as the pytest session.

    Every law of every entry is planned before anything is called. What pytest, a plugin or the user does to the items
    changes the findings, but never the plan.

    Attributes:
        reporter: sends events to all reports, and knows which reports could not be written.
        found: for each entry, the results of its laws so far.
        facts: for each entry, what else is known about it. An entry that was never judged has none.
    """

    def __init__(self, config: pytest.Config, plan: Plan) -> None:
        self.plan = replace(plan, jobs=())
        self.config = config
        self.found: dict[str, dict[str, LawResult]] = {}
        self.facts: dict[str, CandidateResult] = {}
        self.keys: dict[str, dict[str, str]] = {}  # job -> law -> the key of its item
        self._left_out: set[str] = set()  # keys of items that the user deselected
        self._why_not: dict[str, str] = {}  # key of an item that ran without a result -> pytest's reason
        self._cut = ""  # why the rest of the items were not reached
        self._reported: set[str] = set()
        self.started = time.perf_counter()
        self.is_xdist_worker = hasattr(config, "workerinput")
        self.own_display = config.getoption("--shiftproof-display") == "own"
        self.versions: dict[str, dict[str | None, Mapping[str, str]]] = {}  # candidate -> interpreter -> versions in it
        for job in plan.jobs:
            self.add(job, {law.id: item_name(law, job) for law in laws_of(job.spec).values()})
        self.reporter = self._reporters(config)
        self._of_options = self.plan.jobs
        self._current: OpenCandidate | None = None
        self._ready: dict[str, LoadedCandidate] = {}
        self._tracers = Tracers()
        self.is_refused = False  # the candidates cannot be judged as requested, so there is nothing to report
        if self.own_display:
            standard = config.pluginmanager.getplugin("terminalreporter")
            config.pluginmanager.unregister(standard)

    def add(self, job: Job, keys: Mapping[str, str]) -> None:
        """Plan a job. ``keys`` has the key of the item of each of its laws."""
        self.plan = replace(self.plan, jobs=(*self.plan.jobs, job))
        self.keys[job.name] = dict(keys)
        self.found[job.name] = {}
        self.versions.setdefault(job.candidate.name, {})[job.candidate.python] = {}

    def _reporters(self, config: pytest.Config) -> Reporters:
        if self.is_xdist_worker:
            return Reporters(())
        path = config.getoption("--shiftproof-json")
        members: list[Reporter] = [JsonReport(path)] if path else []
        if self.own_display:
            members.append(TerminalReport(new_console(stderr=path == STDOUT), config.option.verbose))
        return Reporters(members)

    # Before anything is judged ------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Tell the seed. Under pytest-xdist, this process collects nothing, and would come by no later hook."""
        entries = tuple(Entry(job.name, job.candidate.spec, job.device, job.dtypes) for job in self.plan.jobs)
        planned = sum(map(self.planned, self.plan.jobs))
        self.reporter.tell(RunStarted(version("shiftproof"), self.plan.seed, self.plan.profile.name, entries, planned))

    def pytest_collection(self, session: pytest.Session) -> None:
        if self.is_xdist_worker:
            return
        try:
            self._check_all()
        except UsageError as error:
            self.is_refused = True
            raise pytest.UsageError(str(error)) from None

    def _check_all(self) -> None:
        """Load every candidate once, two at a time, so that a misspelt name is reported before any work is done.

        A candidate that exists but cannot be loaded gets its verdict later, like the others. So does a candidate that
        does not exist under this interpreter but exists under another.
        """
        distinct = {(job.candidate.name, job.candidate.python): job for job in reversed(self.plan.jobs)}
        jobs = list(reversed(distinct.values()))
        misnamed: dict[str, UsageError] = {}
        for index, job in enumerate(jobs):
            try:
                loaded = self._open(job)
                self.prepare(jobs[index + 1] if index + 1 < len(jobs) else None)
                loaded.trial()
                self.versions[job.candidate.name][job.candidate.python] = loaded.describe().versions
            except UsageError as error:
                misnamed.setdefault(job.candidate.name, error)
            except STOPS:
                raise
            except BaseException:  # reported as its verdict, when its turn comes
                pass
            if len(jobs) > _KEPT_LOADED and job.name in self._ready:
                self._ready.pop(job.name).close()
        for name, mistake in misnamed.items():
            if not any(self.versions[name].values()):
                raise mistake

    def _open(self, job: Job) -> LoadedCandidate:
        """Return the loaded candidate of an entry. Load it if needed."""
        if job.name not in self._ready:
            loaded = LoadedCandidate(job, self.plan.options)
            loaded.start()
            self._ready[job.name] = loaded  # stored only after it has started, so that a failed start is tried again
        return self._ready[job.name]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> Iterator[None]:
        chosen = {item.key for item in items if isinstance(item, LawItem)}
        items[:0] = [
            LawItem.from_parent(
                session,
                name=item_name(law, job),
                run=self,
                job=job,
                law=law,
                key=item_name(law, job),
                file=Path(job.candidate.call),
            )
            for job in self._of_options
            for law in laws_of(job.spec).values()
        ]
        # Of a test file, pytest drops the tests that the command line does not name, and tells nobody.
        of_options = {job.name for job in self._of_options}
        others = (keys for name, keys in self.keys.items() if name not in of_options)
        self._left_out.update(key for keys in others for key in keys.values() if key not in chosen)
        yield

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._left_out.update(item.key for item in items if isinstance(item, LawItem))

    # While judging ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if isinstance(item, LawItem):
            item.following = nextitem.job if isinstance(nextitem, LawItem) else None

    def hear(self, job: Job) -> OpenCandidate:
        """Return the open candidate of an entry, and close the one before it."""
        if self._current is None or self._current.job != job:
            last, self._current = self._current, None
            if last is not None:
                last.close()
            self._open(job)
            self._current = OpenCandidate(job, self._ready.pop(job.name), self.plan, self._tracers)
            self.reporter.tell(CandidateStarted(job.name, self.planned(job)))
        return self._current

    def prepare(self, job: Job | None) -> None:
        """Begin to load the next candidate while the last laws of this one are asked."""
        if job is None:
            return
        try:
            self._open(job)
        except STOPS:
            raise
        except BaseException:  # reported when its turn comes, as a failure of the candidate whose worker it is
            pass

    def planned(self, job: Job) -> int:
        """Return about how many cases will be judged for an entry."""
        return sum(planned(law, self.plan.profile) for law in laws_of(job.spec).values())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.is_xdist_worker:
            return
        properties = dict(report.user_properties)
        if report.when != "call":
            if not report.passed and KEY in properties:
                self._why_not[str(properties[KEY])] = f"{report.outcome} by pytest: {report.longreprtext}"
            return
        if LAW in properties:
            data = json.loads(str(properties[LAW]))
            job, result = self._job_of(data), law_from_json(data["result"])
            if data["xfail"] and result.verdict.is_failure:
                result = replace(result, verdict=Verdict.ALLOWED, message=f"expected to fail: {data['xfail']}")
            self.found[job.name][result.id] = result
            self.reporter.tell(LawJudged(job.name, result, data["planned"]))
        if CANDIDATE in properties:
            data = json.loads(str(properties[CANDIDATE]))
            self._job_of(data)
            self._add(CandidateResult.from_json(data["facts"]))

    def _job_of(self, data: Mapping[str, Any]) -> Job:
        """Return the job that a report is about. It may have been collected by another process."""
        job = Job.from_json(data["job"])
        if job.name not in self.found:
            self.add(job, data["keys"])
        return job

    def _add(self, facts: CandidateResult) -> None:
        name = facts.candidate
        known = self.facts.get(name)
        self.facts[name] = merge(known, facts) if known else facts
        job = self._entry(name)
        self.versions[job.candidate.name][job.candidate.python] = facts.environment
        ids = {law for law, key in self.keys[name].items() if key not in self._left_out}
        if ids <= self.found[name].keys() or not facts.laws:
            self._tell(name)

    def _tell(self, name: str) -> None:
        if name not in self._reported:
            self._reported.add(name)
            self.reporter.tell(CandidateJudged(self.result(self._entry(name))))

    def result(self, job: Job) -> CandidateResult:
        """Return the verdict on an entry, from the plan and the findings so far.

        If the entry is one of several environments, its name tells which one. If other processes judge, the difference
        between the environments is certain only after all of them have reported.
        """
        facts = self.facts.get(job.name)
        laws = laws_of(job.spec)
        names = self.keys[job.name]
        known = facts or blank(job)
        results = self.found[job.name]
        found = conclude(known, [*laws.values()], results, lambda id: self._missing(names[id], known.message))
        if facts is None and found.verdict is Overall.CONFORMS:
            # It is unknown which cells were judged, and whether the gradient could be read.
            found = replace(found, verdict=Overall.ERROR, message=_LOST)
        if not job.is_compared:
            return found
        candidate = job.candidate
        environment = tell_apart(candidate.call, self.versions[candidate.name])[candidate.python]
        return replace(found, candidate=job.called(environment), environment_name=environment)

    def _missing(self, item: str, known: str) -> tuple[Verdict, str]:
        """Return the verdict and the reason for a law without a result.

        ``known`` is the reason why its candidate could not be judged, or "".
        """
        if item in self._left_out:
            return Verdict.NOT_ASKED, "left out by the choice of laws"
        if self._cut:
            return Verdict.NOT_ASKED, f"not reached: {self._cut}"
        why = known or self._why_not.get(item)
        return Verdict.UNJUDGED, why or "planned but never asked: a pytest plugin may have removed it"

    def _entry(self, name: str) -> Job:
        return next(job for job in self.plan.jobs if job.name == name)

    # After it -----------------------------------------------------------------------------------------------------

    def pytest_keyboard_interrupt(self) -> None:
        self._cut = "the run was interrupted"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """Handle the end of a pytest-xdist process. Only this process knows which laws the user left out."""
        self._left_out.update(getattr(node, "workeroutput", {}).get(_LEFT_OUT, ()))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.config.option.collectonly:
            self._cut = "the laws were only collected"
        self._cut = self._cut or str(session.shouldfail or session.shouldstop or "")
        last_opened = self._current
        if last_opened is not None and last_opened.job.name not in self.facts and not self.is_xdist_worker:
            with suppress(Exception):  # the run was cut short, for example by -x
                self.facts[last_opened.job.name] = last_opened.facts()
        for loaded in self._ready.values():
            with suppress(Exception):
                loaded.close()
        self._ready.clear()
        with suppress(Exception):
            self._tracers.close()
        if last_opened is not None:
            with suppress(Exception):
                last_opened.close()
        if self.is_xdist_worker:
            self.config.workeroutput[_LEFT_OUT] = sorted(self._left_out)  # type: ignore[attr-defined]
        if self.is_xdist_worker or self.is_refused:
            return
        finished = self.finished()
        if session.exitstatus == pytest.ExitCode.OK and not all(map(_as_hoped, finished.results)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED  # known only after every process has reported
        if any(result.stale for result in finished.results):
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        if self.is_empty or self.config.option.collectonly:
            return
        for job in self.plan.jobs:
            self._tell(job.name)
        self.reporter.tell(finished)
        if self.reporter.failures:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    @property
    def is_empty(self) -> bool:
        """Return whether the user left out every law of every candidate, so that there is nothing to report."""
        return all(map(self._is_left_out, self.plan.jobs))

    def _is_left_out(self, job: Job) -> bool:
        """Whether the user left out every law of a job. A test file's loss is then as if it were not there."""
        return set(self.keys[job.name].values()) <= self._left_out

    def finished(self) -> RunFinished:
        """Return every entry of the plan with its verdict."""
        jobs = [job for job in self.plan.jobs if job in self._of_options or not self._is_left_out(job)]
        results = {job.name: self.result(job) for job in jobs}
        for job in jobs:
            candidate = job.candidate
            own = [results[each.name] for each in jobs if each.candidate.name == candidate.name]
            unmatched = tuple(str(each) for each in candidate.allowances if stale(each, own))
            found = results[job.name]
            results[job.name] = replace(found, stale=(*found.stale, *unmatched))
        return RunFinished(
            version=version("shiftproof"),
            seed=self.plan.seed,
            profile=self.plan.profile.name,
            seconds=time.perf_counter() - self.started,
            results=tuple(results.values()),
        )

    def pytest_report_header(self) -> str:
        return f"shiftproof: seed {self.plan.seed}, profile {self.plan.profile.name}"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        silent = self.own_display or self.is_xdist_worker or self.config.option.collectonly
        if silent or self.is_empty:
            return
        finished = self.finished()
        verbosity = self.config.option.verbose
        if not self._of_options and not all(map(_as_hoped, finished.results)):
            verbosity = max(verbosity, 0)  # -q is there for the tests that pass, not to hide what is wrong
        if verbosity >= 0:
            seed = f"seed {self.plan.seed}, profile {self.plan.profile.name}"
            terminalreporter.write_sep("=", f"shiftproof: {seed}")
        TerminalReport(verbosity=verbosity).tell_all(finished)


def item_name(law: Any, job: Job) -> str:
    """The pytest name of the item of one law and one entry."""
    return f"{law.id}[{job.name}]"


def _as_hoped(result: CandidateResult) -> bool:
    return result.as_expected or (result.verdict is Overall.PARTIAL and result.expect == "conforms")
