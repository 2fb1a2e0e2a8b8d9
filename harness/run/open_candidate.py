"""The candidate that is being judged: its trial, what its laws find, and what else is known about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest

from ..branches import Branches
from ..candidates.loss import Trial
from ..cases.recipe import Recipe
from ..diagnosis.evidence import gather
from ..diagnosis.name import name_bugs, picture
from ..diagnosis.pair_difference import measure, measure_in
from ..diagnosis.where_it_fails import where_it_fails
from ..isolation.client import Worker
from ..judge.ask import ask
from ..judge.conclusion import declared_scope, without_result
from ..judge.coverage import coverage
from ..judge.laws_of import laws_of
from ..judge.loading import AnyTrial, Job, LoadedCandidate
from ..judge.plan import Plan
from ..judge.regions import Regions, Tracers, look_around
from ..judge.stale_requires import unneeded
from ..label_builders.candidate import BuilderTrial
from ..label_builders.diagnosis import compare, name_builder_bugs
from ..laws import Law
from ..results import CandidateResult, LawResult, Level, Overall, Verdict, overall
from ..worker.target import ABILITIES

STOPS = (KeyboardInterrupt, pytest.exit.Exception)
"""These exceptions end the run. Any other exception, from any source, is a result."""


def blank(job: Job) -> CandidateResult:
    """Return what is known about an entry before anything is found."""
    candidate = job.candidate
    return CandidateResult(
        candidate=job.name,
        call=candidate.call,
        spec=candidate.spec,
        device=job.device,
        dtypes=job.dtypes,
        verdict=Overall.ERROR,
        python=candidate.python,
        expect=candidate.expect,
        expected_diagnosis=candidate.diagnosis,
        scope=declared_scope(candidate),
        is_nameless=candidate.given is not None and not candidate.given.has_name,
    )


def _without(lacks: Collection[str]) -> tuple[str, ...]:
    """Say what a candidate's worker cannot do. The laws that need it are skipped."""
    missing = [words for ability, words in ABILITIES.items() if ability in lacks]
    return (f"what its worker can do, without {', '.join(missing)}",) if missing else ()


def said(error: BaseException) -> str:
    """Describe an exception of the judge itself in one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "its text cannot be printed"
    return f"the judge raised {type(error).__name__}{': ' if text else ''}{text}"


class OpenCandidate:
    """The trial of one entry, while it runs.

    Attributes:
        laws: the results of its laws so far.
        failure: why there is no trial, or "".
    """

    def __init__(self, job: Job, loaded: LoadedCandidate, plan: Plan, tracers: Tracers) -> None:
        self.job = job
        self.loaded = loaded
        self.plan = plan
        self.laws: list[LawResult] = []
        self.failure = ""
        self.trial: AnyTrial | None = None
        self.regions = Regions()
        self.started = time.perf_counter()
        try:
            self.trial = loaded.trial()
        except STOPS:
            raise
        except BaseException as failure:  # also a misnamed candidate: it exists under another interpreter
            self.failure = str(failure) or said(failure)
            return
        try:
            around = tracers if plan.profile.varies_sizes else None
            self._let_compile(self.trial)
            self.regions = look_around(self.trial, loaded.worker, around, plan.seed)
        except STOPS:
            raise
        except BaseException as error:
            shapes = tuple(f"the shape {shape}: {said(error)}" for shape in job.candidate.shapes)
            self.regions = Regions(left_out=shapes, unread=said(error))

    def _let_compile(self, trial: AnyTrial) -> None:
        """Judge a loss under torch.compile too if the profile says so, or without a backend if its own code asks."""
        worker, always = self.loaded.worker, self.plan.profile.compiled_by
        if isinstance(trial, Trial):
            trial.compiles = lambda backend: (
                backend in always
                or (backend == "eager" and isinstance(worker, Worker) and worker.branches.asks_if_compiled)
            )

    def close(self) -> None:
        self.loaded.close()

    def ask(self, law: Law[Any, Any], tick: Callable[[], None]) -> LawResult:
        """Return what one law finds. If asking raises, in the judge or in a pytest plugin, the law is unjudged."""
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
        """Return what is known about the candidate besides its laws' results. Call this after the last law.

        ``message`` states what could not be found out. The candidate then does not conform.
        """
        found = blank(self.job)
        if self.trial is None:
            return replace(found, message=self.failure, seconds=self._seconds())
        laws = tuple(self.laws)
        found = replace(
            found,
            laws=laws,
            dtypes=self.trial.dtypes,
            calls=self.trial.calls,
            seconds_in_candidate=round(self.trial.caller.seconds_in_candidate, 3),
            seconds_in_oracle=round(self.trial.seconds_in_oracle, 3),
            values_only=self.trial.values_only,
            scope=(*found.scope, *self.trial.scope),
        )
        try:
            scope = (*found.scope, *_without(self.loaded.describe().lacks))
            found = replace(found, scope=scope, environment=dict(self.loaded.environment()), branches=self._branches())
            covered = coverage([*laws_of(self.job.spec).values()], self.trial, self.plan.profile.complete)
            found = replace(found, coverage=covered)
            if overall(laws) is Overall.FAILS:
                found = self._diagnosed(found, self.trial, laws)
            elif self.trial.sizes and any(law.verdict is Verdict.PASS for law in laws):
                found = replace(found, stale=unneeded(self.trial))
        except STOPS:
            raise
        except BaseException as error:
            found = replace(found, message=f"not everything could be found out: {said(error)}")
        return replace(found, seconds=self._seconds())

    def _branches(self) -> Branches:
        """Return what is known of the branches of the candidate's code, or why nothing is."""
        worker, trial = self.loaded.worker, self.trial
        if not isinstance(worker, Worker):
            known = Branches(unread="it runs in the judge's own process")
        elif "branches" in worker.describe().lacks:
            known = Branches(unread="its worker does not report them")
        else:
            known = worker.branches.result()
        is_named = type(trial) in (Trial, BuilderTrial)  # the code of a model or a trainer is too large
        return replace(
            known,
            left_out=self.regions.left_out,
            not_reached=self.regions.not_reached,
            sizes_unread=self.regions.unread,
            regions=len(self.regions.places),
            traces=self.regions.traces,
            trace_seconds=round(self.regions.seconds, 3),
            allowed=tuple(each.branch for each in self.job.candidate.allowances if each.branch),
            # A shape that the user asks for must be judged.
            is_due=(self.plan.all_branches and is_named) or bool(self.regions.left_out),
            is_named=is_named,
        )

    def _diagnosed(self, found: CandidateResult, trial: AnyTrial, laws: tuple[LawResult, ...]) -> CandidateResult:
        """Return ``found`` with the name of the bug and a picture of it."""
        if any(law.verdict in (Verdict.CRASH, Verdict.TIMEOUT) for law in laws):
            return found  # each further call can cost a process or a deadline
        if isinstance(trial, BuilderTrial):
            return replace(found, diagnosis=name_builder_bugs(laws, trial), built=compare(laws, trial))
        failing = (law for law in laws if law.level is Level.MUST)
        worst, shown = next(((law, law.counterexample) for law in failing if law.counterexample), (None, None))
        recipe = Recipe.from_json(shown.recipe) if shown is not None else None
        if recipe is not None:
            trial = trial.in_dtype(recipe.dtype)  # in the other dtypes it may be right, and tell nothing of the bug
        evidence, silent = gather(trial)
        names = name_bugs(laws, trial, evidence, silent)
        drawn = None
        if worst is not None and worst.verdict is Verdict.FAIL and "CONTRACT-1" not in trial.failed:
            assert recipe is not None
            drawn = picture(trial, recipe)
            if drawn is not None and drawn.found == drawn.expected:
                drawn = None  # the pairs are right, so something else is wrong
        state = None if names else where_it_fails(laws, trial, evidence)
        apart = None if names or state else measure(trial, evidence)
        if state is not None:
            apart = measure_in(state.words, trial, state.evidence)
        return replace(found, diagnosis=names, pairing=drawn, difference=apart)

    def _seconds(self) -> float:
        return round(time.perf_counter() - self.started, 3)
