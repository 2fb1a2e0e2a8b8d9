"""One run under pytest: the plan is every law of every candidate, each a test item, and the verdicts follow from it."""

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
import torch

from .candidate import UsageError
from .conclusion import conclude, stale
from .docket import Entry, Hearing
from .environments import tell_apart
from .judge import planned
from .law_item import CANDIDATE, LAW, LawItem
from .laws import laws_of
from .opened import STOPS, OpenHearing, blank
from .plan import Plan, from_options
from .report.events import CandidateJudged, CandidateStarted, LawJudged, Reporter, Reporters, RunFinished, RunStarted
from .report.machine import JsonReport
from .report.terminal import TerminalReport
from .verdict import CandidateResult, LawResult, Overall, Verdict, law_from_json, merge

_KEPT_LOADED = 3  # candidates whose workers stay up between the check of their arguments and their trial
_LOST = "every law was asked, but what else was found was lost: a plugin of pytest may have taken it away"
_LEFT_OUT = "shiftproof_left_out"  # what a process of pytest-xdist says of the laws that the user left out


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
    """Holds the plan, the hearings and what was found, and hands out events; lives as long as the pytest session.

    Every law of every entry is planned before anything is called. What pytest, a plugin or the user does to the items
    changes what is found, never what was planned.

    Attributes:
        reporter: hands events to all reports; knows which of them could not be written.
        found: of each entry, the results of its laws so far.
        facts: of each entry, what is known of it besides; nothing of one that never came to be judged.
    """

    def __init__(self, config: pytest.Config, plan: Plan) -> None:
        torch.set_num_threads(1)  # small cases are faster so, and the judge shares its cores with the candidate
        self.plan = plan
        self.config = config
        self.found: dict[str, dict[str, LawResult]] = {entry.name: {} for entry in plan.entries}
        self.facts: dict[str, CandidateResult] = {}
        self._left_out: set[str] = set()  # names of items that the user deselected
        self._why_not: dict[str, str] = {}  # name of an item that ran without a result -> what pytest says of it
        self._cut = ""  # why the rest of the items were never reached
        self._told: set[str] = set()
        self.started = time.perf_counter()
        self.is_xdist_worker = hasattr(config, "workerinput")
        self.own_display = config.getoption("--shiftproof-display") == "own"
        self.versions: dict[str, dict[str | None, Mapping[str, str]]] = {}  # candidate -> interpreter -> what it has
        for entry in plan.entries:
            self.versions.setdefault(entry.candidate.name, {})[entry.candidate.python] = {}
        self.reporter = self._reporters(config)
        self._hearing: OpenHearing | None = None
        self._ready: dict[str, Hearing] = {}
        self.is_refused = False  # the candidates cannot be judged as asked, so there is nothing to report
        if self.own_display:
            standard = config.pluginmanager.getplugin("terminalreporter")
            config.pluginmanager.unregister(standard)

    def _reporters(self, config: pytest.Config) -> Reporters:
        if self.is_xdist_worker:
            return Reporters(())
        path = config.getoption("--shiftproof-json")
        members: list[Reporter] = [JsonReport(Path(path))] if path else []
        return Reporters([*members, TerminalReport()] if self.own_display else members)

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
            self.is_refused = True
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
            try:
                hearing = self._open(entry)
                self.prepare(entries[index + 1] if index + 1 < len(entries) else None)
                hearing.trial()
                self.versions[entry.candidate.name][entry.candidate.python] = hearing.describe().versions
            except UsageError as error:
                misnamed.setdefault(entry.candidate.name, error)
            except STOPS:
                raise
            except BaseException:  # told as its verdict, when it is its turn
                pass
            if len(entries) > _KEPT_LOADED and entry.name in self._ready:
                self._ready.pop(entry.name).close()
        for name, mistake in misnamed.items():
            if not any(self.versions[name].values()):
                raise mistake

    def _open(self, entry: Entry) -> Hearing:
        """The hearing of an entry, loading."""
        if entry.name not in self._ready:
            hearing = Hearing(entry, self.plan.options)
            hearing.start()
            self._ready[entry.name] = hearing  # not before it has started: one that has not is started anew
        return self._ready[entry.name]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> Iterator[None]:
        items[:0] = [
            LawItem.from_parent(session, name=item_name(law, entry), run=self, entry=entry, law=law)
            for entry in self.plan.entries
            for law in laws_of(entry.spec).values()
        ]
        yield

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._left_out.update(item.name for item in items if isinstance(item, LawItem))

    # While judging ------------------------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if isinstance(item, LawItem):
            item.following = nextitem.entry if isinstance(nextitem, LawItem) else None

    def hear(self, entry: Entry) -> OpenHearing:
        """The open hearing of an entry; the one before it is closed."""
        if self._hearing is None or self._hearing.entry != entry:
            last, self._hearing = self._hearing, None
            if last is not None:
                last.close()
            self._open(entry)
            self._hearing = OpenHearing(entry, self._ready.pop(entry.name), self.plan)
            self.reporter.tell(CandidateStarted(entry.name, self.planned(entry)))
        return self._hearing

    def prepare(self, entry: Entry | None) -> None:
        """Begin to load the next candidate while the last laws of this one are asked."""
        if entry is None:
            return
        try:
            self._open(entry)
        except STOPS:
            raise
        except BaseException:  # told when it is its turn, of the candidate whose worker it is
            pass

    def planned(self, entry: Entry) -> int:
        """About how many cases will be judged of an entry."""
        return sum(planned(law, self.plan.profile) for law in laws_of(entry.spec).values())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.is_xdist_worker:
            return
        properties = dict(report.user_properties)
        if report.when != "call":
            if not report.passed:
                self._why_not[report.nodeid.rpartition("::")[2]] = f"{report.outcome} by pytest: {report.longreprtext}"
            return
        if LAW in properties:
            data = json.loads(str(properties[LAW]))
            result = law_from_json(data["result"])
            self.found[data["candidate"]][result.id] = result
            self.reporter.tell(LawJudged(data["candidate"], result, data["planned"]))
        if CANDIDATE in properties:
            self._add(CandidateResult.from_json(json.loads(str(properties[CANDIDATE]))))

    def _add(self, facts: CandidateResult) -> None:
        name = facts.candidate
        known = self.facts.get(name)
        self.facts[name] = merge(known, facts) if known else facts
        entry = self._entry(name)
        self.versions[entry.candidate.name][entry.candidate.python] = facts.environment
        ids = {law.id for law in laws_of(entry.spec).values() if item_name(law, entry) not in self._left_out}
        if ids <= self.found[name].keys() or not facts.laws:
            self._tell(name)

    def _tell(self, name: str) -> None:
        if name not in self._told:
            self._told.add(name)
            self.reporter.tell(CandidateJudged(self.result(self._entry(name))))

    def result(self, entry: Entry) -> CandidateResult:
        """The verdict on an entry, from the plan and what was found until now.

        Where the entry is one of several environments, its name tells which. Where other processes judge, what tells
        them apart is known for certain only once all have reported.
        """
        facts = self.facts.get(entry.name)
        laws = laws_of(entry.spec)
        names = {law.id: item_name(law, entry) for law in laws.values()}
        known = facts or blank(entry)
        results = self.found[entry.name]
        found = conclude(known, [*laws.values()], results, lambda id: self._missing(names[id], known.message))
        if facts is None and found.verdict is Overall.CONFORMS:
            # Nobody knows which cells were judged, and whether its gradient could be read.
            found = replace(found, verdict=Overall.ERROR, message=_LOST)
        if not entry.is_compared:
            return found
        candidate = entry.candidate
        environment = tell_apart(candidate.call, self.versions[candidate.name])[candidate.python]
        return replace(found, candidate=entry.called(environment), environment_name=environment)

    def _missing(self, item: str, known: str) -> tuple[Verdict, str]:
        """What is said of a law that has no result; ``known`` is why its candidate could not be judged, or ""."""
        if item in self._left_out:
            return Verdict.NOT_ASKED, "left out by the choice of laws"
        if self._cut:
            return Verdict.NOT_ASKED, f"not reached: {self._cut}"
        why = known or self._why_not.get(item)
        return Verdict.UNJUDGED, why or "planned and never asked: a plugin of pytest may have taken it out"

    def _entry(self, name: str) -> Entry:
        return next(entry for entry in self.plan.entries if entry.name == name)

    # After it -----------------------------------------------------------------------------------------------------

    def pytest_keyboard_interrupt(self) -> None:
        self._cut = "the run was interrupted"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A process of pytest-xdist is done: it alone knows what the user left out."""
        self._left_out.update(getattr(node, "workeroutput", {}).get(_LEFT_OUT, ()))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.config.option.collectonly:
            self._cut = "the laws were only collected"
        self._cut = self._cut or str(session.shouldfail or session.shouldstop or "")
        open_hearing = self._hearing
        if open_hearing is not None and open_hearing.entry.name not in self.facts and not self.is_xdist_worker:
            with suppress(Exception):  # cut short, as by -x
                self.facts[open_hearing.entry.name] = open_hearing.facts()
        for hearing in self._ready.values():
            with suppress(Exception):
                hearing.close()
        self._ready.clear()
        if open_hearing is not None:
            with suppress(Exception):
                open_hearing.close()
        if self.is_xdist_worker:
            self.config.workeroutput[_LEFT_OUT] = sorted(self._left_out)  # type: ignore[attr-defined]
        if self.is_xdist_worker or self.is_refused:
            return
        finished = self.finished()
        if session.exitstatus == pytest.ExitCode.OK and not all(map(_as_hoped, finished.results)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED  # told only once every process has reported
        if any(result.stale for result in finished.results):
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        if self.is_empty or self.config.option.collectonly:
            return
        for entry in self.plan.entries:
            self._tell(entry.name)
        self.reporter.tell(finished)
        if self.reporter.failures:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    @property
    def is_empty(self) -> bool:
        """Whether the user left out every law of every candidate, so that there is nothing to report."""
        every = {item_name(law, entry) for entry in self.plan.entries for law in laws_of(entry.spec).values()}
        return every <= self._left_out

    def finished(self) -> RunFinished:
        """Every entry of the plan, with its verdict."""
        results = {entry.name: self.result(entry) for entry in self.plan.entries}
        for entry in self.plan.entries:
            candidate = entry.candidate
            own = [results[each.name] for each in self.plan.entries if each.candidate.name == candidate.name]
            unmatched = tuple(str(each) for each in candidate.allowances if stale(each, own))
            found = results[entry.name]
            results[entry.name] = replace(found, stale=(*found.stale, *unmatched))
        return RunFinished(
            version=version("shiftproof"),
            seed=self.plan.seed,
            profile=self.plan.profile.name,
            seconds=time.perf_counter() - self.started,
            results=tuple(results.values()),
        )

    def pytest_report_header(self) -> str:
        return f"shiftproof: seed {self.plan.seed}, profile {self.plan.profile.name}"

    def pytest_terminal_summary(self) -> None:
        silent = self.own_display or self.is_xdist_worker or self.config.option.collectonly
        if not silent and not self.is_empty:
            report = TerminalReport()
            finished = self.finished()
            for result in finished.results:
                report.tell(CandidateJudged(result))
            report.tell(finished)


def item_name(law: Any, entry: Entry) -> str:
    """What pytest calls the item of one law of one entry."""
    return f"{law.id}[{entry.name}]"


def _as_hoped(result: CandidateResult) -> bool:
    return result.as_expected or (result.verdict is Overall.PARTIAL and result.expect == "conforms")
