"""Timed calls, one at a time: fresh inputs out, times back, and whether the answer was right."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from shiftproof.reference.spec import Compute, LossSpec

from ..arguments import TO_LOSSES, Binding, misfit
from ..candidate import Candidate, UsageError
from ..docket import bind_target
from ..linear import HIDDEN
from ..worker.client import Worker
from ..worker.exchange import Call, Outcome
from ..worker.scratch import CASE_FILE, RESULT_FILE
from ..worker.settings import WorkerSettings
from ..worker.tensors import read_tensors
from ..worker.wire import decode_description, decode_failure, decode_outcome, encode_call
from .contender import REFERENCE, Contender
from .expected import Answer, Tolerance, difference, expected
from .inputs import Inputs, make_inputs
from .shapes import Shape, recipe_of

CANDIDATE, RIVAL, TWIN = "candidate", "rival", "twin"
"""The parts on one bench; the twin is the rival once more, for the self-test."""

_NOBODY = "torch:is_tensor"  # what the worker loads first, so that clocks and rivals are there before any candidate

_ROOM = 4 << 20  # bytes of small tensors, sketches and headers, beside eight a token and codebook
_KEEP_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(64 << 20)}
"""Pages that glibc gave back would have to be faulted in by the next call, whoever made it: ten times its own time."""


class NotMeasured(Exception):
    """A contender did not do what can be timed. One sentence."""


@dataclass(frozen=True)
class Split:
    """One quantity of a call, in seconds, of its forward and of its backward."""

    forward: float
    backward: float

    @property
    def both(self) -> float:
        return self.forward + self.backward


@dataclass(frozen=True, eq=False)
class Sample:
    """One timed call.

    Attributes:
        charged: the time it is charged, by the bench's clock.
        wall, cpu: what went by, and what the process used of the processor.
        idle: the time in which this thread neither ran nor wanted to; None where the kernel does not say.
        stream: on CUDA, what the current stream saw.
        peak: bytes above what was in use before; None unless it was weighed.
        others: seconds in which other threads of the process worked after the call had returned.
        settled: whether the gradient was the same a little later.
        lazy: types of what was returned that are no plain tensors.
        patched: clocks that somebody replaced.
        busy: seconds of processor time that the process says it has used so far; ``seen`` is what the kernel says.
        wrong: how the answer differs from the right one.
        stale: whether it is the right answer to an earlier call's inputs.
    """

    part: str
    seed: int
    charged: Split
    wall: Split
    cpu: Split
    idle: float | None
    stream: Split | None
    peak: int | None
    others: float
    settled: bool
    lazy: tuple[str, ...]
    patched: tuple[str, ...]
    busy: float
    seen: float | None
    wrong: str | None = None
    stale: bool = False


@dataclass(frozen=True, eq=False)
class Unverified:
    """One timed call, before it is known whether its answer was right: ``verify`` finds out."""

    sample: Sample
    verify: Callable[[], Sample]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A call that is yet to be made; its tensors are written where ``body``, its message, says."""

    part: str
    seed: int
    inputs: Inputs
    contender: Contender
    binding: Binding | None
    call: Call
    body: dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """Under which terms contenders are timed.

    Attributes:
        threads: of torch on the CPU. With one, a call is charged the processor time of its process, which other
            processes do not disturb; with more, and on CUDA, the time that passes.
        deadline: seconds for one call.
    """

    spec: LossSpec
    shape: Shape
    dtype: str = "float32"
    device: str = "cpu"
    threads: int = 1
    deadline: float = 60.0

    @property
    def clock(self) -> str:
        return "processor time" if self.device == "cpu" and self.threads == 1 else "time passed"


class Bench:
    """A process in which contenders are called in turn, each under the name of its part, and seated when it is wanted.

    ``keeps_pages`` is how times are taken; for weighing memory, pages go back as they do outside of a benchmark.
    """

    def __init__(self, terms: Terms, python: str | None = None, *, keeps_pages: bool = True) -> None:
        self.terms = terms
        self.device_name = ""
        self._sketch = secrets.randbits(60)  # nobody can know beforehand what will be looked at
        self._answered: dict[int, Answer] = {}
        self._seated: dict[str, tuple[Contender, Binding | None]] = {}
        threads = {"OMP_NUM_THREADS": str(terms.threads), "MKL_NUM_THREADS": str(terms.threads)}
        self._worker = Worker(
            _NOBODY,
            WorkerSettings(
                python=python,
                device=terms.device,
                call_deadline=terms.deadline,
                memory_limit=None,
                environment={**threads, **(_KEEP_PAGES if keeps_pages else {})},
            ),
        )

    def __enter__(self) -> Bench:
        self._worker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.close()

    def seat(self, part: str, contender: Contender) -> None:
        """Load a contender. What others have measured by then, it had no hand in.

        Raises:
            UsageError: its target is not there, or asks for what no case has.
            LoadFailure: it is there and could not be loaded; or the interpreter cannot be had.
            NotMeasured: loading it ended or hung the process.
        """
        self.device_name = self._worker.describe().device_name
        candidate = contender.candidate
        if candidate is None:
            how: dict[str, Any] = {"folder": REFERENCE, "kind": contender.kind, "spec": self.terms.spec.name}
        else:
            how = {"target": candidate.call, "cwd": os.path.abspath(candidate.cwd or os.getcwd())}
        answer = self._worker.ask("seat", {"part": part, **how})
        if isinstance(answer, Outcome):
            raise NotMeasured(f"loading {contender.name} {answer.describe()}")
        verb, fields = answer
        if verb != "loaded":
            failure = decode_failure(fields)
            raise UsageError(str(failure)) if failure.is_usage else failure
        binding = None
        if candidate is not None:
            described = decode_description(fields, candidate.call)
            binding = bind_target(described, candidate.rename, TO_LOSSES)
            if told := misfit(described.target, binding, self.terms.spec):
                raise UsageError(told)
            if binding.is_linear or binding.is_model:
                made_of = HIDDEN if binding.is_linear else "input_ids"
                raise UsageError(
                    f"{contender.name} makes its logits itself, of {made_of}, and speed is of losses that are given "
                    "logits; whether it is right, `shiftproof check` says"
                )
        self._seated[part] = (contender, binding)

    def call(
        self, part: str, seed: int, *, shape: Shape | None = None, weigh: bool = False, linger: float = 0.0
    ) -> Sample:
        """One call of whoever has this ``part``, on the inputs of ``seed``; then wait and see for ``linger`` seconds.

        Raises:
            NotMeasured: it raised, hung or ended, or returned no loss.
        """
        (called,) = self.call_together([(part, seed)], shape=shape, weigh=weigh, linger=linger)
        return called.verify()

    def call_together(
        self, calls: Sequence[tuple[str, int]], *, shape: Shape | None = None, weigh: bool = False, linger: float = 0.0
    ) -> list[Unverified]:
        """Calls of parts on the inputs of seeds, one right after the other: inputs are made before, answers read after.

        Whoever is called after a pause in which its process idled is the slower for it.

        Raises:
            NotMeasured: as :meth:`call` does.
        """
        prepared = [self._prepare(place, *call, shape or self.terms.shape) for place, call in enumerate(calls)]
        timed = [self._time(each, weigh, linger) for each in prepared]
        return [self._unverified(*each) for each in zip(prepared, timed, strict=True)]

    def _prepare(self, place: int, part: str, seed: int, shape: Shape) -> _Prepared:
        inputs = make_inputs(self.terms.spec, recipe_of(self.terms.spec, shape, self.terms.dtype, seed))
        contender, binding = self._seated[part]
        tensors, scalars, logits = inputs.for_reference() if binding is None else inputs.for_candidate(binding)
        small = sum(tensor.nbytes for tensor in tensors.values())
        folder = self._worker.folder_for(2 * small + 8 * sum(map(_rows, logits.values())) + _ROOM)
        case, result = (os.path.join(folder, f"{place}.{name}") for name in (CASE_FILE, RESULT_FILE))
        call = Call(tensors, scalars)
        try:
            encoded = encode_call(call, case, result)
        except OSError as error:
            raise NotMeasured(f"the case of {contender.name} cannot be written: {error}") from None
        body = encoded | {"part": part, "logits": logits, "sketch": self._sketch}
        return _Prepared(part, seed, inputs, contender, binding, call, body)

    def _time(self, prepared: _Prepared, weigh: bool, linger: float) -> Mapping[str, Any]:
        """The fields of the answer, and ``seen``: what the kernel says that the process has used by then."""
        told = self._worker.ask("time", prepared.body | {"weigh": weigh, "linger": linger})
        if isinstance(told, Outcome):
            raise NotMeasured(f"{prepared.contender.name} {told.describe()}")
        verb, fields = told
        if verb != "timed":
            outcome, _ = decode_outcome(verb, fields, prepared.call, prepared.body["result"])
            raise NotMeasured(f"{prepared.contender.name} {outcome.describe()}")
        return {**fields, "seen": _processor_seconds(self._worker.pid)}

    def _unverified(self, prepared: _Prepared, fields: Mapping[str, Any]) -> Unverified:
        sample = self._sample(prepared.part, prepared.seed, fields)
        if prepared.binding is None:
            return Unverified(sample, lambda: sample)  # the reference's own, which has tests
        candidate = prepared.contender.candidate
        assert candidate is not None
        names = {theirs: ours for ours, theirs in prepared.binding.names.items()}
        answer = _read_answer(prepared.body["result"], names)
        return Unverified(sample, partial(self._verified, sample, candidate, prepared.inputs, answer))

    def copy_seconds(self, elements: int, times: int) -> list[float]:
        """What copying ``elements`` float32 takes in that process, by the same clock."""
        answer = self._worker.ask("copy", {"elements": elements, "times": times})
        if isinstance(answer, Outcome):
            raise NotMeasured(f"copying memory {answer.describe()}")
        verb, fields = answer
        if verb != "copied":
            raise NotMeasured(f"copying memory failed: {fields.get('message', f'the process answered {verb!r}')}")
        return [each / 1e9 for each in fields["nanoseconds"]]

    def _sample(self, part: str, seed: int, fields: Mapping[str, Any]) -> Sample:
        forward, backward = fields["forward"], fields["backward"]

        def split(name: str) -> Split:
            return Split(forward[name] / 1e9, backward[name] / 1e9)

        wall, cpu = split("wall"), split("cpu")
        waited = (forward["waited"], backward["waited"])
        return Sample(
            part=part,
            seed=seed,
            charged=cpu if self.terms.clock == "processor time" else wall,
            wall=wall,
            cpu=cpu,
            idle=None if None in waited else max(wall.both - cpu.both - sum(waited) / 1e9, 0.0),
            stream=None if forward["stream"] is None else split("stream"),
            peak=fields["peak"],
            others=fields["others"] / 1e9,
            settled=fields["settled"],
            lazy=tuple(fields["lazy"]),
            patched=tuple(fields["patched"]),
            busy=fields["busy"] / 1e9,
            seen=fields["seen"],
        )

    def _verified(self, sample: Sample, candidate: Candidate, inputs: Inputs, answer: Answer) -> Sample:
        tolerance = Tolerance.of(self.terms.dtype, Compute(candidate.precision or self.terms.spec.compute))
        right = expected(inputs, self._sketch, self.terms.device, gradient=candidate.gradient)
        wrong = difference(answer, right, tolerance)
        stale = wrong is not None and any(
            difference(answer, earlier, tolerance) is None
            for seed, earlier in self._answered.items()
            if seed != sample.seed and _alike(earlier, right)
        )
        self._answered[sample.seed] = right
        return replace(sample, wrong=wrong, stale=stale)


def _read_answer(path: str, names: Mapping[str, str]) -> Answer:
    """The tensors of a timed call, its sketches under our names."""
    try:
        found = read_tensors(path)
        value = found.pop("value")
    except (OSError, ValueError, KeyError) as error:
        raise NotMeasured(f"the file of its answer cannot be read: {type(error).__name__}: {error}") from None
    sketches = {names[name.removeprefix("sketch.")]: tensor for name, tensor in found.items()}
    return Answer(float(value) if value.numel() == 1 else math.nan, sketches, {})


def _alike(one: Answer, other: Answer) -> bool:
    """Whether two answers are to inputs of one shape."""
    return {name: each.shape for name, each in one.sketches.items()} == {
        name: each.shape for name, each in other.sketches.items()
    }


def _rows(how: Mapping[str, Any]) -> int:
    return math.prod(how["shape"][:-1])


def _processor_seconds(pid: int | None) -> float | None:
    """What the kernel says that a process has used of the processor, to some hundredths of a second."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
