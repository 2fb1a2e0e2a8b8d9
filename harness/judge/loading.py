"""The jobs of a run: every candidate under its spec, on each of its devices, in its dtypes."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shiftproof.reference.builders import BUILDERS, BuilderSpec
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute, LossSpec, ShiftedBy

from ..candidates.arguments import TO_LOSSES, Binding, Offer, UnknownArgument, bind, misfit
from ..candidates.declaration import DTYPES_TOGETHER, Candidate, UsageError
from ..candidates.loss import Trial
from ..candidates.model import ModelTrial
from ..candidates.model_delayed import DelayedTrial
from ..candidates.model_depth import DepthTrial
from ..candidates.model_streams import StreamsTrial
from ..candidates.trainer import TrainerTrial
from ..candidates.trainer_arguments import TO_TRAINERS, trains
from ..isolation.client import Worker
from ..isolation.inprocess import InProcess
from ..isolation.settings import WorkerSettings
from ..label_builders.arguments import TO_BUILDERS, offer_under
from ..label_builders.candidate import BuilderTrial
from ..suggest import nearest
from ..worker.target import LoadFailure, TargetDescription

AnySpec = LossSpec | BuilderSpec
AnyTrial = Trial | BuilderTrial


@dataclass(frozen=True)
class Job:
    """One trial to run.

    Attributes:
        name: its name, different for every job of a run.
        dtypes: of the logits. Each case has one of them.
        is_compared: whether the run also judges this candidate under other interpreters.
    """

    name: str
    candidate: Candidate
    device: str
    dtypes: tuple[str, ...]
    is_compared: bool = False

    @property
    def spec(self) -> AnySpec:
        """The spec that the candidate declares."""
        return find_spec(self.candidate.spec or "")

    def to_json(self) -> dict[str, Any]:
        """Jobs travel between the processes of a run as JSON, without the Python object that may be judged."""
        fields = {"name": self.name, "device": self.device, "dtypes": self.dtypes, "is_compared": self.is_compared}
        return {**fields, "candidate": self.candidate.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        """Invert ``to_json``."""
        candidate = Candidate.from_json(data["candidate"])
        return cls(**{**data, "candidate": candidate, "dtypes": tuple(data["dtypes"])})

    def called(self, environment: str) -> str:
        """The job's name, if its interpreter has the name ``environment``."""
        parts = [self.device] if len(self.candidate.devices) > 1 else []
        parts += self.dtypes if len(self.candidate.dtypes) > 1 else []
        under = f" ({environment})" if self.is_compared else ""
        return self.candidate.name + under + (f"[{','.join(parts)}]" if parts else "")


@dataclass(frozen=True)
class Options:
    """How candidates run: in this process or another, and the deadline of a call in seconds."""

    in_process: bool = False
    deadline: float = 10.0


def jobs_of(candidates: Sequence[Candidate]) -> list[Job]:
    """The jobs of some candidates, in order.

    Raises:
        UsageError: a spec is unknown.
    """
    # A builder takes integers. So it is judged once, whatever the dtypes of the losses.
    candidates = [replace(each, dtypes=()) if _builds(each) else each for each in candidates]
    pythons = Counter(name for name, _ in {(candidate.name, candidate.python) for candidate in candidates})
    jobs = [
        Job(candidate.name, candidate, device, dtypes, pythons[candidate.name] > 1)
        for candidate in candidates
        for device in candidate.devices
        for dtypes in dtypes_of(candidate)
    ]
    return [replace(job, name=job.called(job.candidate.python or "")) for job in jobs]


def dtypes_of(candidate: Candidate) -> list[tuple[str, ...]]:
    """The dtypes of each of its jobs.

    Raises:
        UsageError: its spec is unknown.
    """
    if candidate.dtypes:
        return [(dtype,) for dtype in candidate.dtypes]
    spec = find_spec(candidate.spec) if candidate.spec is not None else None
    if isinstance(spec, BuilderSpec):
        return [("int64",)]
    in_fp32 = spec is not None and Compute(candidate.precision or spec.compute) is Compute.STRICT
    return [DTYPES_TOGETHER if in_fp32 else ("float32",)]


def _builds(candidate: Candidate) -> bool:
    """Whether its spec is a label builder's."""
    return candidate.spec is not None and isinstance(find_spec(candidate.spec), BuilderSpec)


def find_spec(name: str) -> AnySpec:
    """Find the spec of a loss or of a label builder by name.

    Raises:
        UsageError: the name is unknown. The message gives the most similar known name.
    """
    known: dict[str, AnySpec] = {**PROFILES, **BUILDERS}
    if name not in known:
        raise UsageError(f"no spec is called {name!r}{nearest(name, known)}; `shiftproof list profiles` shows all")
    return known[name]


class LoadedCandidate:
    """The loaded candidate of one job: a worker that loads it, and then a trial.

    ``start`` begins loading and does not wait, so that the next candidate loads while this one is judged. If a
    ``worker`` is given, it loads this candidate next, and keeps the modules that it has imported.
    """

    def __init__(self, job: Job, options: Options, worker: Worker | None = None) -> None:
        self.job = job
        self._trial: AnyTrial | None = None
        if worker is not None:
            self.worker: Worker | InProcess = worker
            worker.turn_to(job.candidate.target)
            return
        candidate = job.candidate
        settings = WorkerSettings(
            python=candidate.python,
            cwd=candidate.cwd,
            device=job.device,
            call_deadline=options.deadline,
            watches_branches=True,
        )
        stays = options.in_process or (candidate.given is not None and candidate.given.pickle is None)
        self.worker = (InProcess if stays else Worker)(candidate.target, settings)

    def start(self) -> None:
        self.worker.start()

    def describe(self) -> TargetDescription:
        """Describe the loaded target.

        Raises:
            UsageError: the target does not exist.
            LoadFailure: the target exists but could not be loaded.
        """
        try:
            return self.worker.describe()
        except LoadFailure as failure:
            if failure.is_usage:
                raise UsageError(str(failure)) from None
            raise

    def trial(self, spec: AnySpec | None = None) -> AnyTrial:
        """The trial, under ``spec`` or the spec that the candidate declares.

        Raises:
            UsageError, LoadFailure: as :meth:`describe`. Also UsageError if the candidate's arguments do not fit.
        """
        if self._trial is None or spec is not None:
            spec = spec or self.job.spec
            self._trial = self._of_builder(spec) if isinstance(spec, BuilderSpec) else self.of_loss(spec)
        return self._trial

    def of_loss(self, spec: LossSpec, dtypes: tuple[str, ...] = ()) -> Trial:
        """The trial of a loss under ``spec``, in ``dtypes`` or those of the job. Raises as :meth:`trial`."""
        binding = self.binding
        if message := misfit(self.describe().target, binding, spec):
            raise UsageError(message)
        of_model = _of_model(spec)
        kind = TrainerTrial if binding.is_trainer else of_model if binding.is_model else Trial
        # Models and trainers take no logits. Their weights are float32, and without --dtype nobody asked for others.
        wanted = dtypes or self.job.dtypes
        dtypes = wanted if kind is Trial or self.job.candidate.dtypes else ("float32",)
        return kind(self.job.candidate, spec, binding, self.worker, dtypes=dtypes, device=self.job.device)

    def promising(self, precision: str) -> LoadedCandidate:
        """The same candidate, already loaded, with another promise of precision."""
        other = copy.copy(self)
        other.job = replace(self.job, candidate=replace(self.job.candidate, precision=precision))
        other._trial = None
        return other

    def _of_builder(self, spec: BuilderSpec) -> BuilderTrial:
        binding = self._bind(offer_under(spec))
        return BuilderTrial(self.job.candidate, spec, binding, self.worker, device=self.job.device)

    @property
    def binding(self) -> Binding:
        """The arguments that the candidate, a loss or a trainer, takes. Raises as :meth:`trial`."""
        return self._bind(offer_to(self.describe(), self.job.candidate.rename))

    def _bind(self, offer: Offer) -> Binding:
        return bind_target(self.describe(), self.job.candidate.rename, offer)

    @property
    def builds(self) -> bool:
        """Whether the candidate is a label builder, by its declared spec or else by its arguments.

        Raises as :meth:`describe`.
        """
        if self.job.candidate.spec is not None:
            return isinstance(self.job.spec, BuilderSpec)
        return self._binds(TO_BUILDERS) and not (self._binds(TO_LOSSES) and self.binding.is_model)

    def _binds(self, offer: Offer) -> bool:
        try:
            self._bind(offer)
        except UsageError:
            return False
        return True

    def fitting(self, specs: Iterable[LossSpec]) -> list[LossSpec]:
        """The specs under which a candidate with these arguments could be judged. Raises as :meth:`trial`."""
        binding = self.binding
        return [spec for spec in specs if misfit("", binding, spec) is None]

    def without_gradient(self) -> None:
        """Judge only the candidate's values from now on."""
        self.job = replace(self.job, candidate=replace(self.job.candidate, gradient=False))

    def environment(self) -> Mapping[str, str]:
        """Versions, as the candidate's own process reports them, its device, and the judge's Python."""
        described = self.worker.describe()
        return {**described.versions, "device": described.device_name, "judge": f"Python {sys.version.split()[0]}"}

    def close(self) -> None:
        self.worker.close()


def _of_model(spec: LossSpec) -> type[ModelTrial]:
    """The kind of trial for a model under ``spec``."""
    if len(spec.logits) == 1:
        return ModelTrial
    if "audio_labels" not in spec.labels:
        return DepthTrial
    return DelayedTrial if spec.terms[1].shifted_by is ShiftedBy.INPUTS else StreamsTrial


def offer_to(described: TargetDescription, rename: Mapping[str, str]) -> Offer:
    """The arguments on offer to a candidate that builds no labels: a trainer's, if it takes these, or else a loss's."""
    return TO_TRAINERS if trains([parameter.name for parameter in described.parameters], rename) else TO_LOSSES


def bind_target(described: TargetDescription, rename: Mapping[str, str], offer: Offer) -> Binding:
    """Match the candidate's parameters with the arguments in ``offer``.

    Raises:
        UsageError: as :class:`UnknownArgument`.
    """
    parameters = [(parameter.name, parameter.required) for parameter in described.parameters]
    rename = {ours: its for ours, its in rename.items() if its not in described.made}
    try:
        binding = bind(
            described.target, parameters, rename, described.accepts_any_keyword, offer, is_module=described.is_module
        )
    except UnknownArgument as error:
        raise UsageError(str(error)) from None
    return replace(
        binding,
        takes_any_keyword=described.accepts_any_keyword,
        made=described.made,
        stands_in=described.stands_in,
        lacks=described.lacks,
    )
