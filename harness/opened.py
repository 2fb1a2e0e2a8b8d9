"""The candidate that is being heard: its trial, what its laws find, and what is known of it besides."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from .builder_diagnose import compare, name_builder_bugs
from .builder_trial import BuilderTrial
from .conclusion import declared_scope, without_result
from .coverage import coverage
from .diagnose import name_bugs, picture
from .difference import measure
from .docket import AnyTrial, Entry, Hearing
from .evidence import gather
from .judge import ask
from .laws import Law, laws_of
from .plan import Plan
from .recipe import Recipe
from .unneeded import unneeded
from .verdict import CandidateResult, LawResult, Level, Overall, Verdict, overall

STOPS = (KeyboardInterrupt, pytest.exit.Exception)
"""What ends the run; all else that is raised, by whomever, is a result."""


def blank(entry: Entry) -> CandidateResult:
    """What is known of an entry of which nothing was found."""
    candidate = entry.candidate
    return CandidateResult(
        candidate=entry.name,
        call=candidate.call,
        spec=candidate.spec,
        device=entry.device,
        dtype=entry.dtype,
        verdict=Overall.ERROR,
        python=candidate.python,
        expect=candidate.expect,
        expected_diagnosis=candidate.diagnosis,
        scope=declared_scope(candidate),
    )


def said(error: BaseException) -> str:
    """An exception of the judge's own, in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "its text cannot be printed"
    return f"the judge raised {type(error).__name__}{': ' if text else ''}{text}"


class OpenHearing:
    """The trial of one entry while it lasts.

    Attributes:
        laws: what its laws have found so far.
        failure: why there is no trial, or "".
    """

    def __init__(self, entry: Entry, hearing: Hearing, plan: Plan) -> None:
        self.entry = entry
        self.hearing = hearing
        self.plan = plan
        self.laws: list[LawResult] = []
        self.failure = ""
        self.trial: AnyTrial | None = None
        self.started = time.perf_counter()
        try:
            self.trial = hearing.trial()
        except STOPS:
            raise
        except BaseException as failure:  # a misnamed candidate, too: it is there under another interpreter
            self.failure = str(failure) or said(failure)

    def close(self) -> None:
        self.hearing.close()

    def ask(self, law: Law[Any, Any], tick: Callable[[], None]) -> LawResult:
        """What one law finds; where asking it raises, in the judge or in a plugin of pytest, that it was not judged."""
        assert self.trial is not None
        try:
            found = ask(law, self.trial, self.plan.profile, self.plan.seed, tick)
        except STOPS:
            raise
        except BaseException as error:
            found = without_result(law, Verdict.UNJUDGED, said(error))
        self.laws.append(found)
        return found

    def facts(self) -> CandidateResult:
        """What is known of the candidate besides its laws' results; called after the last of them that was asked.

        Whatever cannot be found out is said in ``message``, and then the candidate does not conform.
        """
        found = blank(self.entry)
        if self.trial is None:
            return replace(found, message=self.failure, seconds=self._seconds())
        laws = tuple(self.laws)
        found = replace(
            found,
            laws=laws,
            calls=self.trial.calls,
            seconds_in_candidate=round(self.trial.caller.seconds_in_candidate, 3),
            seconds_in_oracle=round(self.trial.seconds_in_oracle, 3),
            values_only=self.trial.values_only,
            scope=(*found.scope, *self.trial.scope),
        )
        try:
            found = replace(found, environment=dict(self.hearing.environment()))
            covered = coverage([*laws_of(self.entry.spec).values()], self.trial, self.plan.profile.complete)
            found = replace(found, coverage=covered)
            if overall(laws) is Overall.FAILS:
                found = self._diagnosed(found, self.trial, laws)
            elif self.trial.sizes and any(law.verdict is Verdict.PASS for law in laws):
                found = replace(found, stale=unneeded(self.trial))
        except STOPS:
            raise
        except BaseException as error:
            found = replace(found, message=f"not all could be found out: {said(error)}")
        return replace(found, seconds=self._seconds())

    def _diagnosed(self, found: CandidateResult, trial: AnyTrial, laws: tuple[LawResult, ...]) -> CandidateResult:
        """``found`` with the bug's name, and a picture of it."""
        if any(law.verdict in (Verdict.CRASH, Verdict.TIMEOUT) for law in laws):
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
