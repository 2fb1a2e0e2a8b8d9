"""Judge a model of tests/candidates by every law: what the tests of models share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.model import ModelTrial
from shiftproof.harness.diagnosis.evidence import gather
from shiftproof.harness.diagnosis.name import name_bugs
from shiftproof.harness.judge.ask import ask
from shiftproof.harness.judge.loading import LoadedCandidate, Options, jobs_of
from shiftproof.harness.judge.profile import Profile
from shiftproof.harness.laws import LAWS
from shiftproof.harness.results import LawResult, Overall, overall
from shiftproof.reference.profiles import PROFILES

CANDIDATES = Path(__file__).parents[2] / "candidates"
BRIEF = Profile("brief", 0.06)


@contextmanager
def trial_of(target: str, spec: str, **fields: object) -> Iterator[ModelTrial]:
    """The trial of "module:Class" of tests/candidates, in this process. ``fields`` are those of its declaration."""
    module, _, name = target.partition(":")
    candidate = Candidate(name, f"{CANDIDATES / module}.py:{name}", spec, **fields)  # type: ignore[arg-type]
    loaded = LoadedCandidate(jobs_of([candidate])[0], Options(in_process=True))
    try:
        trial = loaded.of_loss(PROFILES[spec])
        assert isinstance(trial, ModelTrial)
        yield trial
    finally:
        loaded.close()


@dataclass(frozen=True)
class Judged:
    """What the laws found.

    Attributes:
        names: of the bugs, and of those that would give the same, with their details.
    """

    results: tuple[LawResult, ...]
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> set[str]:
        return {result.id for result in self.results if result.verdict.is_failure}

    @property
    def asked(self) -> set[str]:
        return {result.id for result in self.results if result.cases}

    @property
    def overall(self) -> Overall:
        return overall(self.results)

    def of(self, law: str) -> LawResult:
        return next(result for result in self.results if result.id == law)


def ask_all(trial: ModelTrial) -> tuple[LawResult, ...]:
    """Ask every law, on few cases."""
    return tuple(ask(law, trial, BRIEF, seed=0) for law in LAWS.values())


def judged(target: str, spec: str, **fields: object) -> Judged:
    """Ask every law of "module:Class" of tests/candidates, and name its bugs. ``fields`` as in :func:`trial_of`."""
    with trial_of(target, spec, **fields) as trial:
        results = ask_all(trial)
        bugs = name_bugs(results, trial, *gather(trial)) if trial.failed else ()
    return Judged(results, {called: bug.detail for bug in bugs for called in (bug.mutant, *bug.also)})
