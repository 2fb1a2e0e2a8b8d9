"""Sizes and ids at which a candidate's own code takes another way, so that the laws can be asked there.

Sizes are found by tracing: the candidate is called on symbolic sizes, each question that it asks of them is solved for
the smallest sizes with another answer, and it is traced again there. Numbers that stand in its code are tried as sizes
and as ids. All this is a search for cases: what it finds is judged, and what it misses may still show as a branch that
never ran (``harness/branches.py``).
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ..candidates.arguments import values_for
from ..candidates.declaration import Candidate
from ..candidates.loss import Trial
from ..candidates.shapes import read_shapes
from ..cases.linear import LEAVES
from ..cases.recipe import HIDDEN_MULTIPLE, Ids
from ..isolation.branch_record import BranchRecord
from ..isolation.client import Worker
from ..isolation.inprocess import InProcess
from ..isolation.settings import WorkerSettings
from ..worker.exchange import Call, Outcome
from ..worker.guards import HIDDEN_SIZE, Guard, Traced, elements_of
from ..worker.target import LoadFailure
from .loading import AnyTrial

_BASE = {"rows": 3, "length": 11, "classes": 23, "codebooks": 5, HIDDEN_SIZE: 64}
"""The sizes of the first trace. Each differs from the others and their products."""

_LEAST = {"rows": 1, "length": 2, "classes": 2, "codebooks": 1, HIDDEN_SIZE: HIDDEN_MULTIPLE}
_MOST = 2_000_000  # elements of logits in a case of a region
_TRACES = 24
_FROM_A_LINE = 3  # regions that one line leads to; a loop over chunks asks for their number again at each
_SECONDS = 20.0  # for all traces of a candidate; a limit on their number alone would let one that hangs go on
_ORDINARY = {"rows": 5, "length": 12, "classes": 17, "codebooks": 4, HIDDEN_SIZE: 256}
"""Sizes up to these are among every law's cases."""

_ORDINARY_NUMBER = max(size for name, size in _ORDINARY.items() if name != HIDDEN_SIZE)
"""Numbers in the code up to this are no sizes to try: every law has cases of them."""
_CONSTANTS = 6  # numbers in the code that are tried
_SHOWING = 128  # classes
_POSITIONS = 9
_REGIONS = 20
_IN_ALL = 6_000_000  # elements of logits in all regions together
_BOOKS = range(4, 64)  # numbers in the code that may be codebooks; more than are among every law's cases
_BYTES = 120  # of memory for each element of logits: the judge's float64, the candidate's, and what travels
_LONG = 20_000  # positions; a number above it is a size of the vocabulary, and rarely one of a row


def may_have_regions(record: BranchRecord) -> bool:
    """Whether the code that ran could do anything else at other sizes, as far as was reported.

    A function without a branch that reads only its arguments, small numbers, functions and modules cannot.
    """
    found = record.result()
    large = any(number > _ORDINARY_NUMBER for number in record.constants)
    return bool(found.found or found.unread or large or not record.is_closed)


class Tracers:
    """The processes in which the candidates of a run are traced: one for each interpreter and folder.

    The modules that a trace needs take a second to import, so candidates follow each other in one process. If one
    cannot be traced, it is tried once more in a fresh process, because an earlier one may have changed the first.
    """

    def __init__(self) -> None:
        self._workers: dict[tuple[str | None, str | None], Worker] = {}
        self._found: dict[tuple[str, str | None, str], Regions] = {}

    def regions(self, trial: Trial, record: BranchRecord) -> Regions:
        """The regions of a candidate, found once for all its dtypes and devices."""
        candidate = trial.candidate
        key = candidate.name, candidate.python, trial.spec.name
        if key not in self._found:
            found = explore(trial, self._tracer(candidate), record.constants)
            if found.unread and found.seconds < _SECONDS / 2:
                self._close(candidate)
                found = explore(trial, self._tracer(candidate), record.constants)
            self._found[key] = found
        return self._found[key]

    def _tracer(self, candidate: Candidate) -> Worker:
        place = candidate.python, candidate.cwd
        known = self._workers.get(place)
        if known is None:
            settings = WorkerSettings(python=candidate.python, cwd=candidate.cwd, call_deadline=_SECONDS)
            known = self._workers[place] = Worker(candidate.target, settings)
        else:
            known.turn_to(candidate.target)
        return known

    def _close(self, candidate: Candidate) -> None:
        self._workers.pop((candidate.python, candidate.cwd)).close()

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()


class Tracer(Protocol):
    """A process of the candidate that may be traced, and in which nothing is judged."""

    def trace(self, call: Call, now: Mapping[str, int], least: Mapping[str, int], most: int) -> Traced | Outcome: ...


@dataclass(frozen=True)
class Regions:
    """Where to judge a candidate besides the ordinary cases.

    Attributes:
        places: fields of recipes, each for one region. A region that only another dtype than the first has names it.
        not_reached: conditions on sizes whose other side needs too much memory, in words.
        left_out: shapes that the user named and that cannot be judged, in words.
        unread: why its questions were not read, or not all of them, or "".
        traces: the number of calls on symbolic sizes.
    """

    places: tuple[Mapping[str, Any], ...] = ()
    not_reached: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    unread: str = ""
    traces: int = 0
    seconds: float = 0.0


def look_around(trial: AnyTrial, worker: Worker | InProcess, tracers: Tracers | None, seed: int) -> Regions:
    """Find the regions of a candidate, and add their cases to its trial. Only a loss has sizes of its own.

    Without ``tracers``, the shapes that the user names are all.
    """
    if type(trial) is not Trial:
        why = "it makes its own logits" if isinstance(trial, Trial) else "it builds labels"
        return Regions(left_out=tuple(f"the shape {shape}: {why}" for shape in trial.candidate.shapes))
    found = Regions()
    if tracers is not None and isinstance(worker, Worker):
        first = trial.generators.hand_made(trial.space)[0]
        trial.observe_cached(trial.fit(first))  # shows which code runs; the laws ask about this case too
        if may_have_regions(worker.branches):
            found = tracers.regions(trial, worker.branches)
    found = _with_shapes(found, trial)
    places = list(_in_turn(found.places, trial.dtypes))
    wider = [place for place in _in_other(_wider(trial, places), trial.dtypes) if place not in places]
    trial.regions = tuple(trial.generators.placed(trial.space, places, seed))
    trial.near_regions = tuple(trial.generators.placed(trial.space, _affordable(wider), seed + 1))
    return found


def _in_turn(places: Iterable[Mapping[str, Any]], dtypes: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """The places, each in one of the dtypes."""
    for index, place in enumerate(places):
        yield {"dtype": dtypes[index % len(dtypes)], **place}


def _in_other(places: Iterable[Mapping[str, Any]], dtypes: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """The places, each in the next dtype, so that a region and its wider case are judged in two dtypes."""
    for place in places:
        yield {**place, "dtype": dtypes[(dtypes.index(place["dtype"]) + 1) % len(dtypes)]}


def _with_shapes(found: Regions, trial: Trial) -> Regions:
    """Add the shapes that the user names, if this machine has the memory for them."""
    places: list[Mapping[str, Any]] = []
    left_out: list[str] = []
    for text, sizes in zip(trial.candidate.shapes, read_shapes(trial.candidate.shapes), strict=True):
        needed = math.prod(sizes.values()) * _BYTES
        if trial.sizes and not trial.sizes.admits(sizes):
            left_out.append(f"the shape {text}: it requires {trial.sizes}")
        elif (there := _available_memory()) is not None and needed > there:
            left_out.append(f"the shape {text}: that takes {needed / 1e9:.1f} GB, and {there / 1e9:.1f} GB are there")
        else:
            places += [sizes] if len(trial.dtypes) == 1 else [{**sizes, "dtype": dtype} for dtype in trial.dtypes]
    return replace(found, places=(*places, *found.places), left_out=tuple(left_out))


def _available_memory() -> int | None:
    """Bytes that this machine could still give, or None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def explore(trial: Trial, tracer: Tracer, constants: Iterable[int]) -> Regions:
    """Find the regions of a loss. ``constants``: the whole numbers in its code."""
    started = time.monotonic()
    numbers = sorted({*constants})
    names = [name for name in _BASE if name in trial.space]
    first = {name: _BASE[name] if len(trial.space[name]) > 1 else trial.space[name][0] for name in names}
    # Questions that the code asks in one dtype only are found by the first trace in it, and followed in it.
    queue = [(first, dtype) for dtype in trial.dtypes]
    known, asked = {tuple(first.values())}, set[str]()
    far: dict[str, None] = {}
    of_line: Counter[tuple[str, int, bool]] = Counter()
    unread, traces = "", 0
    found: list[Mapping[str, Any]] = []
    while queue and traces < _TRACES and time.monotonic() - started < _SECONDS:
        sizes, dtype = queue.pop(0)
        traced = _trace(trial, tracer, sizes, dtype)
        traces += 1
        if isinstance(traced, str):
            unread = unread or traced
            continue
        unread = unread or traced.stopped
        for guard in traced.guards:
            place = f"{guard.condition} {guard.file}:{guard.line}"
            if place in asked:
                continue
            asked.add(place)
            if guard.otherwise is None:
                if guard.elements and guard.is_own:
                    far[_too_large(guard)] = None
                continue
            other = {name: guard.otherwise[name] for name in names}
            line = guard.file, guard.line, guard.is_own
            if tuple(other.values()) in known or _is_fixed(trial, other) or of_line[line] >= _FROM_A_LINE:
                continue
            known.add(tuple(other.values()))
            if guard.is_own or not _is_ordinary(other):
                of_line[line] += 1
                found.append(other if dtype == trial.dtypes[0] else {**other, "dtype": dtype})
                queue.append((other, dtype))
    if queue:
        unread = unread or f"the search ended after {traces} traces; {len(queue)} more regions were not traced"
    found += [place for place in _near(trial, numbers) if place not in found]
    seconds = time.monotonic() - started
    places = tuple(_affordable(found))
    if len(places) < len(found):
        unread = unread or f"{len(found) - len(places)} regions more than a check has time for were not judged"
    return Regions(places, tuple(far), unread=unread, traces=traces, seconds=seconds)


def _trace(trial: Trial, tracer: Tracer, sizes: Mapping[str, int], dtype: str) -> Traced | str:
    """The questions that one call asks of these sizes, or why there are none."""
    place: Mapping[str, Any] = {**sizes, "dtype": dtype}
    recipe = next(trial.generators.placed(trial.space, (place,), 0))
    case = trial.case(trial.fit(recipe))
    if trial.is_linear:
        sizes = {**sizes, HIDDEN_SIZE: trial.linear(case).width}
    tensors, scalars = values_for(case, trial.binding)
    names = LEAVES if trial.is_linear else case.spec.logits
    differentiated = tuple(trial.binding.names[name] for name in names if trial.binding.takes(name))
    call = Call(tensors, scalars, layouts={}, gradients=differentiated if trial.candidate.gradient else ())
    try:
        found = tracer.trace(call, sizes, {name: _LEAST[name] for name in sizes}, _MOST)
    except LoadFailure as failure:
        return str(failure)
    return found if isinstance(found, Traced) else found.describe()


def _elements(place: Mapping[str, Any]) -> int:
    """How large a case at a place is. A place may have other fields than sizes."""
    return elements_of({name: value for name, value in place.items() if name in _BASE})


def _is_fixed(trial: Trial, sizes: Mapping[str, int]) -> bool:
    """Whether the spec or the declaration of the candidate rules these sizes out."""
    fixed = any(len(trial.space[name]) == 1 and trial.space[name][0] != size for name, size in sizes.items())
    return fixed or bool(trial.sizes and not trial.sizes.admits(sizes))


def _is_ordinary(place: Mapping[str, Any]) -> bool:
    return all(place.get(name, 1) <= most for name, most in _ORDINARY.items())


def _near(trial: Trial, numbers: Iterable[int]) -> Iterator[Mapping[str, Any]]:
    """Cases in which a number of the code is an id, and a size."""
    large = [number for number in numbers if number > _ORDINARY_NUMBER][:_CONSTANTS]
    places: list[dict[str, Any]] = [{"codebooks": number + 1} for number in numbers if number in _BOOKS]
    for number in large:
        places += [{"length": number + 1}]
        places += [{"length": number}, {"rows": number + 1}] if number <= _LONG else []
        places += [{"classes": number + 1, "ids": Ids.EDGES}]  # the last class is an edge: the number is an id
        places += [{HIDDEN_SIZE: number + 1}] if _ORDINARY[HIDDEN_SIZE] < number <= _LONG else []
    small = {"rows": 2, "length": 4, "classes": 3, "codebooks": 2, HIDDEN_SIZE: HIDDEN_MULTIPLE}
    for place in places:
        fields = {name: place.get(name, small[name]) for name in small if name in trial.space}
        if place.keys() & fields.keys() and _elements(fields) <= _MOST and not _is_fixed(trial, fields):
            yield {**fields, **{name: value for name, value in place.items() if name == "ids"}}


def _wider(trial: Trial, places: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Each place once more with as many classes, rows and positions as bugs may need to show.

    The smallest sizes that lead to a line hide what is wrong there: -100 as an index needs a hundred classes, and two
    documents need a few positions.
    """
    for place in places:
        wider = {**place, "rows": place["rows"] + 1, "classes": max(place["classes"], _SHOWING)}
        room = _MOST // (wider["rows"] * wider["classes"] * wider.get("codebooks", 1))
        wider["length"] = max(place["length"], min(_POSITIONS, room))
        wider = {name: size for name, size in wider.items() if len(trial.space.get(name, (0, 0))) > 1}
        wider = {**place, **wider}
        sizes = {name: wider[name] for name in _BASE if name in wider}
        if _elements(sizes) <= _MOST and not _is_fixed(trial, sizes):
            yield wider


def _affordable(places: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """As many places as a check has time for, those that no other case is like first."""
    elements = count = 0
    for place in sorted(places, key=_is_ordinary):
        size = _elements(place)
        if count < _REGIONS and (not count or elements + size <= _IN_ALL):
            count, elements = count + 1, elements + size
            yield place


def _too_large(guard: Guard) -> str:
    where = f"{os.path.basename(guard.file)}:{guard.line}"
    return f"{where} ({guard.condition} never false: that takes {guard.elements / 1e6:.1f} million elements of logits)"
