"""What is to be judged: every candidate under its spec, on each of its devices, in each of its dtypes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec

from .arguments import Binding, UnknownArgument, bind
from .candidate import Candidate, UsageError
from .spelling import nearest
from .trial import Trial
from .worker.client import Worker
from .worker.inprocess import InProcess
from .worker.settings import WorkerSettings
from .worker.target import LoadFailure, TargetDescription


@dataclass(frozen=True)
class Entry:
    """One trial to be held. ``name`` tells it from the others of a run."""

    name: str
    candidate: Candidate
    device: str
    dtype: str


@dataclass(frozen=True)
class Options:
    """How candidates are run: in this process or another, and how long a call may take (seconds)."""

    in_process: bool = False
    deadline: float = 10.0


def enter(candidates: Sequence[Candidate]) -> list[Entry]:
    """The docket of some candidates, in order.

    Raises:
        UsageError: for a spec that no profile has.
    """
    for candidate in candidates:
        if candidate.spec is not None:
            find_spec(candidate.spec)
    entries = [
        Entry(candidate.name, candidate, device, dtype)
        for candidate in candidates
        for device in candidate.devices
        for dtype in candidate.dtypes
    ]
    single = {candidate.name for candidate in candidates if len(candidate.devices) * len(candidate.dtypes) == 1}
    return [
        entry if entry.name in single else replace(entry, name=f"{entry.name}[{_suffix(entry)}]") for entry in entries
    ]


def _suffix(entry: Entry) -> str:
    parts = [entry.device] if len(entry.candidate.devices) > 1 else []
    parts += [entry.dtype] if len(entry.candidate.dtypes) > 1 else []
    return ",".join(parts)


def find_spec(name: str) -> LossSpec:
    """A profile by name.

    Raises:
        UsageError: for an unknown name, with the nearest known one.
    """
    if name not in PROFILES:
        raise UsageError(f"no spec is called {name!r}{nearest(name, PROFILES)}; `shiftproof list profiles` shows all")
    return PROFILES[name]


class Hearing:
    """One entry while it is heard: a worker that loads as soon as it is made, and then a trial.

    ``start`` begins loading without waiting, so that the next candidate loads while this one is judged.
    """

    def __init__(self, entry: Entry, options: Options) -> None:
        self.entry = entry
        candidate = entry.candidate
        settings = WorkerSettings(
            python=candidate.python, cwd=candidate.cwd, device=entry.device, call_deadline=options.deadline
        )
        self.worker: Worker | InProcess = (InProcess if options.in_process else Worker)(candidate.call, settings)
        self._trial: Trial | None = None

    def start(self) -> None:
        self.worker.start()

    def describe(self) -> TargetDescription:
        """What was loaded.

        Raises:
            UsageError: when the target is not there.
            LoadFailure: when it is there and could not be loaded.
        """
        try:
            return self.worker.describe()
        except LoadFailure as failure:
            if failure.is_usage:
                raise UsageError(str(failure)) from None
            raise

    def trial(self, spec: LossSpec | None = None) -> Trial:
        """The trial, under ``spec`` or the one that the candidate declares.

        Raises:
            UsageError, LoadFailure: as :meth:`describe`; UsageError also for arguments that do not fit.
        """
        if self._trial is None or spec is not None:
            described = self.describe()
            spec = spec or find_spec(self.entry.candidate.spec or "")
            binding = bind_target(described, self.entry.candidate.rename)
            self._trial = Trial(
                self.entry.candidate, spec, binding, self.worker, dtype=self.entry.dtype, device=self.entry.device
            )
        return self._trial

    def without_gradient(self) -> None:
        """From now on the candidate is judged by its values alone."""
        self.entry = replace(self.entry, candidate=replace(self.entry.candidate, gradient=False))

    def environment(self) -> Mapping[str, str]:
        """Versions, as the candidate's own process reports them."""
        described = self.worker.describe()
        return {**described.versions, "device": described.device_name, "judge": f"Python {sys.version.split()[0]}"}

    def close(self) -> None:
        self.worker.close()


def bind_target(described: TargetDescription, rename: Mapping[str, str]) -> Binding:
    """The candidate's parameters matched with our arguments.

    Raises:
        UsageError: when one that it requires is none of ours.
    """
    parameters = [(parameter.name, parameter.required) for parameter in described.parameters]
    try:
        return bind(described.target, parameters, rename, described.accepts_any_keyword)
    except UnknownArgument as error:
        raise UsageError(str(error)) from None
