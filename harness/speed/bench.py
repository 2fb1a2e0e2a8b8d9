"""Timed calls, one at a time: they send fresh inputs, and return times and whether the answer was right."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from shiftproof.reference.spec import Compute, LossSpec

from ..candidates.arguments import TO_LOSSES, Binding, misfit
from ..candidates.declaration import Candidate, UsageError
from ..cases.linear import HIDDEN
from ..isolation.client import Worker
from ..isolation.heap import give_back_large_blocks
from ..isolation.settings import WorkerSettings
from ..judge.loading import bind_target
from ..worker.exchange import Call, Outcome
from ..worker.scratch import CASE_FILE, RESULT_FILE
from ..worker.tensors import read_tensors
from ..worker.wire import decode_description, decode_failure, decode_outcome, encode_call
from .answers import Answer, Tolerance, difference, expected
from .baseline import REFERENCE, Contender
from .inputs import Inputs, make_inputs
from .shapes import Shape, recipe_of

CANDIDATE, RIVAL, TWIN = "candidate", "rival", "twin"
"""The parts on one bench. The twin is a second instance of the rival, for the self-test."""

_NOBODY = "torch:is_tensor"  # the worker loads this first, so that clocks and rivals exist before any candidate

_ROOM = 4 << 20  # bytes of small tensors, sketches and headers, beside eight per token and codebook
_KEEP_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(64 << 20)}
"""Keep glibc from returning pages. The next call, of any contender, would have to fault them in: ten times its time."""


class NotMeasured(Exception):
    """A contender could not be timed. The message is one sentence."""


@dataclass(frozen=True)
class Split:
    """One quantity of a call in seconds, for its forward and its backward."""

    forward: float
    backward: float

    @property
    def both(self) -> float:
        return self.forward + self.backward


@dataclass(frozen=True, eq=False)
class Sample:
    """One timed call.

    Attributes:
        charged: the time of the call by the bench's clock.
        wall, cpu: the elapsed time, and the processor time of the process.
        idle: the time in which this thread neither ran nor wanted to run; None if the kernel does not report it.
        stream: on CUDA, the time on the current stream.
        peak: bytes above the memory in use before; None unless it was weighed.
        others: seconds in which other threads of the process worked after the call had returned.
        settled: whether the gradient was still the same a little later.
        lazy: types of returned objects that are not plain tensors.
        patched: clocks that were replaced.
        busy: seconds of processor time used so far, as the process reports it; ``seen`` is what the kernel reports.
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
    """One timed call with an unchecked answer. ``verify`` checks the answer."""

    sample: Sample
    verify: Callable[[], Sample]


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A call that is not made yet. Its message ``body`` states where its tensors are written."""

    part: str
    seed: int
    inputs: Inputs
    contender: Contender
    binding: Binding | None
    call: Call
    body: dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """The terms under which contenders are timed.

    Attributes:
        threads: the number of torch threads on the CPU. With one thread, a call is charged the processor time of its
            process, which other processes do not disturb. With more threads, and on CUDA, it is charged elapsed time.
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
    """A process in which contenders are called in turn, each under the name of its part. They are loaded on demand.

    ``keeps_pages`` is for timing. For weighing memory, pages are returned as they are outside of a benchmark.
    """

    def __init__(self, terms: Terms, python: str | None = None, *, keeps_pages: bool = True) -> None:
        give_back_large_blocks()
        self.terms = terms
        self.device_name = ""
        self._sketch = secrets.randbits(60)  # so that nobody can know in advance what is checked
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
                may_fork=False,  # a fork copies pages when it first writes to them, at another loss's cost
            ),
        )

    def __enter__(self) -> Bench:
        self._worker.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.close()

    def seat(self, part: str, contender: Contender) -> None:
        """Load a contender. It cannot influence what was measured before.

        Raises:
            UsageError: its target does not exist, or takes an argument that no case has.
            LoadFailure: it exists but could not be loaded, or the interpreter cannot start.
            NotMeasured: loading it ended or hung the process.
        """
        self.device_name = self._worker.describe().device_name
        candidate = contender.candidate
        if candidate is None:
            how: dict[str, Any] = {"folder": REFERENCE, "kind": contender.kind, "spec": self.terms.spec.name}
        else:
            how = {**candidate.target.message(), "cwd": os.path.abspath(candidate.cwd or os.getcwd())}
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
            if problem := misfit(described.target, binding, self.terms.spec):
                raise UsageError(problem)
            if binding.is_linear or binding.is_model:
                made_of = HIDDEN if binding.is_linear else "input_ids"
                raise UsageError(
                    f"{contender.name} makes its logits itself, from {made_of}, but speed times losses that get "
                    "logits; use `shiftproof check` to see whether it is right"
                )
        self._seated[part] = (contender, binding)

    def call(
        self, part: str, seed: int, *, shape: Shape | None = None, weigh: bool = False, linger: float = 0.0
    ) -> Sample:
        """Call the contender with this ``part`` on the inputs of ``seed``, then watch it for ``linger`` seconds.

        Raises:
            NotMeasured: it raised, hung or ended, or returned no loss.
        """
        (called,) = self.call_together([(part, seed)], shape=shape, weigh=weigh, linger=linger)
        return called.verify()

    def call_together(
        self, calls: Sequence[tuple[str, int]], *, shape: Shape | None = None, weigh: bool = False, linger: float = 0.0
    ) -> list[Unverified]:
        """Call parts on the inputs of seeds, one right after the other.

        The inputs are made before, and the answers read after. A call is slower if its process idled before it.

        Raises:
            NotMeasured: see :meth:`call`.
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
        """Return the fields of the answer, and ``seen``: the process's processor time so far, from the kernel."""
        reply = self._worker.ask("time", prepared.body | {"weigh": weigh, "linger": linger})
        if isinstance(reply, Outcome):
            raise NotMeasured(f"{prepared.contender.name} {reply.describe()}")
        verb, fields = reply
        if verb != "timed":
            outcome, _ = decode_outcome(verb, fields, prepared.call, prepared.body["result"])
            raise NotMeasured(f"{prepared.contender.name} {outcome.describe()}")
        return {**fields, "seen": _processor_seconds(self._worker.pid)}

    def _unverified(self, prepared: _Prepared, fields: Mapping[str, Any]) -> Unverified:
        sample = self._sample(prepared.part, prepared.seed, fields)
        if prepared.binding is None:
            return Unverified(sample, lambda: sample)  # the reference's own loss, which has tests
        candidate = prepared.contender.candidate
        assert candidate is not None
        names = {theirs: ours for ours, theirs in prepared.binding.names.items()}
        answer = _read_answer(prepared.body["result"], names)
        return Unverified(sample, partial(self._verified, sample, candidate, prepared.inputs, answer))

    def copy_seconds(self, elements: int, times: int) -> list[float]:
        """Return the seconds for copying ``elements`` float32 in that process, by the same clock."""
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
    """Return the tensors of a timed call, with its sketches under shiftproof's names."""
    try:
        found = read_tensors(path)
        value = found.pop("value")
    except (OSError, ValueError, KeyError) as error:
        raise NotMeasured(f"the file of its answer cannot be read: {type(error).__name__}: {error}") from None
    sketches = {names[name.removeprefix("sketch.")]: tensor for name, tensor in found.items()}
    return Answer(float(value) if value.numel() == 1 else math.nan, sketches, {})


def _alike(one: Answer, other: Answer) -> bool:
    """Return whether two answers belong to inputs of the same shape."""
    return {name: each.shape for name, each in one.sketches.items()} == {
        name: each.shape for name, each in other.sketches.items()
    }


def _rows(how: Mapping[str, Any]) -> int:
    return math.prod(how["shape"][:-1])


def _processor_seconds(pid: int | None) -> float | None:
    """Return the kernel's processor time of a process, accurate to some hundredths of a second."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
