"""What is to be judged: every candidate under its spec, on each of its devices, in each of its dtypes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from shiftproof.reference.builders import BUILDERS, BuilderSpec
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec

from .arguments import TO_LOSSES, Binding, Offer, UnknownArgument, bind, misfit
from .builder_arguments import TO_BUILDERS, offer_under
from .builder_trial import BuilderTrial
from .candidate import Candidate, UsageError
from .model import ModelTrial
from .spelling import nearest
from .trainer import TrainerTrial
from .trainer_arguments import TO_TRAINERS, trains
from .trial import Trial
from .worker.client import Worker
from .worker.inprocess import InProcess
from .worker.settings import WorkerSettings
from .worker.target import LoadFailure, TargetDescription

AnySpec = LossSpec | BuilderSpec
AnyTrial = Trial | BuilderTrial


@dataclass(frozen=True)
class Entry:
    """One trial to be held. ``name`` tells it from the others of a run; ``is_compared`` with that of the same candidate
    under other interpreters."""

    name: str
    candidate: Candidate
    device: str
    dtype: str
    is_compared: bool = False

    @property
    def spec(self) -> AnySpec:
        """The spec that the candidate declares."""
        return find_spec(self.candidate.spec or "")

    def called(self, environment: str) -> str:
        """Its name, where its interpreter is called ``environment``."""
        devices, dtypes = self.candidate.devices, self.candidate.dtypes
        parts = [self.device] if len(devices) > 1 else []
        parts += [self.dtype] if len(dtypes) > 1 else []
        under = f" ({environment})" if self.is_compared else ""
        return self.candidate.name + under + (f"[{','.join(parts)}]" if parts else "")


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
    # A builder is judged once, whatever the dtypes of the losses beside it: what it is given are integers.
    candidates = [replace(each, dtypes=("int64",)) if _builds(each) else each for each in candidates]
    pythons = Counter(name for name, _ in {(candidate.name, candidate.python) for candidate in candidates})
    entries = [
        Entry(candidate.name, candidate, device, dtype, pythons[candidate.name] > 1)
        for candidate in candidates
        for device in candidate.devices
        for dtype in candidate.dtypes
    ]
    return [replace(entry, name=entry.called(entry.candidate.python or "")) for entry in entries]


def _builds(candidate: Candidate) -> bool:
    """Whether its spec is a label builder's."""
    return candidate.spec is not None and isinstance(find_spec(candidate.spec), BuilderSpec)


def find_spec(name: str) -> AnySpec:
    """The spec of a loss or of a label builder, by name.

    Raises:
        UsageError: for an unknown name, with the nearest known one.
    """
    known: dict[str, AnySpec] = {**PROFILES, **BUILDERS}
    if name not in known:
        raise UsageError(f"no spec is called {name!r}{nearest(name, known)}; `shiftproof list profiles` shows all")
    return known[name]


class Hearing:
    """One entry while it is heard: a worker that loads as soon as it is made, and then a trial.

    ``start`` begins loading without waiting, so that the next candidate loads while this one is judged. A ``worker``
    that is there already is turned to this candidate, and keeps what it has imported.
    """

    def __init__(self, entry: Entry, options: Options, worker: Worker | None = None) -> None:
        self.entry = entry
        self._trial: AnyTrial | None = None
        if worker is not None:
            self.worker: Worker | InProcess = worker
            worker.turn_to(entry.candidate.call)
            return
        candidate = entry.candidate
        settings = WorkerSettings(
            python=candidate.python, cwd=candidate.cwd, device=entry.device, call_deadline=options.deadline
        )
        self.worker = (InProcess if options.in_process else Worker)(candidate.call, settings)

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

    def trial(self, spec: AnySpec | None = None) -> AnyTrial:
        """The trial, under ``spec`` or the one that the candidate declares.

        Raises:
            UsageError, LoadFailure: as :meth:`describe`; UsageError also for arguments that do not fit.
        """
        if self._trial is None or spec is not None:
            spec = spec or self.entry.spec
            self._trial = self._of_builder(spec) if isinstance(spec, BuilderSpec) else self.of_loss(spec)
        return self._trial

    def of_loss(self, spec: LossSpec) -> Trial:
        """The trial of a loss under ``spec``; raises as :meth:`trial`."""
        binding = self.binding
        if told := misfit(self.describe().target, binding, spec):
            raise UsageError(told)
        kind = TrainerTrial if binding.is_trainer else ModelTrial if binding.is_model else Trial
        return kind(self.entry.candidate, spec, binding, self.worker, dtype=self.entry.dtype, device=self.entry.device)

    def _of_builder(self, spec: BuilderSpec) -> BuilderTrial:
        binding = self._bind(offer_under(spec))
        return BuilderTrial(self.entry.candidate, spec, binding, self.worker, device=self.entry.device)

    @property
    def binding(self) -> Binding:
        """Which of our arguments the candidate, a loss or a trainer, asks for; raises as :meth:`trial`."""
        return self._bind(offer_to(self.describe(), self.entry.candidate.rename))

    def _bind(self, offer: Offer) -> Binding:
        return bind_target(self.describe(), self.entry.candidate.rename, offer)

    @property
    def builds(self) -> bool:
        """Whether the candidate declares a label builder's spec, or asks for what only builders are given; raises as
        :meth:`describe`."""
        if self.entry.candidate.spec is not None:
            return isinstance(self.entry.spec, BuilderSpec)
        return self._binds(TO_BUILDERS) and not (self._binds(TO_LOSSES) and self.binding.is_model)

    def _binds(self, offer: Offer) -> bool:
        try:
            self._bind(offer)
        except UsageError:
            return False
        return True

    def fitting(self, specs: Iterable[LossSpec]) -> list[LossSpec]:
        """The specs under which a candidate with these arguments could be judged; raises as :meth:`trial`."""
        binding = self.binding
        return [spec for spec in specs if misfit("", binding, spec) is None]

    def without_gradient(self) -> None:
        """From now on the candidate is judged by its values alone."""
        self.entry = replace(self.entry, candidate=replace(self.entry.candidate, gradient=False))

    def environment(self) -> Mapping[str, str]:
        """Versions, as the candidate's own process reports them."""
        described = self.worker.describe()
        return {**described.versions, "device": described.device_name, "judge": f"Python {sys.version.split()[0]}"}

    def close(self) -> None:
        self.worker.close()


def offer_to(described: TargetDescription, rename: Mapping[str, str]) -> Offer:
    """What a candidate that builds no labels is given: what trainers are, if it asks for that, or what losses are."""
    return TO_TRAINERS if trains([parameter.name for parameter in described.parameters], rename) else TO_LOSSES


def bind_target(described: TargetDescription, rename: Mapping[str, str], offer: Offer) -> Binding:
    """The candidate's parameters matched with what is on ``offer``.

    Raises:
        UsageError: when one that it requires is none of ours.
    """
    parameters = [(parameter.name, parameter.required) for parameter in described.parameters]
    try:
        return bind(described.target, parameters, rename, described.accepts_any_keyword, offer)
    except UnknownArgument as error:
        raise UsageError(str(error)) from None
