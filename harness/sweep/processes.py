"""The hands of a sweep as processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from .executor import Answer, Ended, Ready, find, judged
from .settings import Settings

_SPAWN = multiprocessing.get_context("spawn")  # forking a process with threads, such as torch's, can hang
_LEAST_MEMORY = 4 << 30  # bytes; torch and a library take much less before anything is judged


@dataclass(frozen=True)
class _Process:
    process: SpawnProcess
    connection: Connection


class Processes:
    """Hands that are processes of this machine. Each may allocate ``memory`` bytes, or its share of the memory."""

    def __init__(self, judge: str, settings: Settings, count: int, memory: int | None = None) -> None:
        self.count = count
        self._memory = memory or max(_physical_memory() // (count + 1), _LEAST_MEMORY)
        self._judge = judge
        self._settings = settings
        self._processes: list[_Process] = []

    def __enter__(self) -> Processes:
        self._processes = [self._start() for _ in range(self.count)]
        return self

    def __exit__(self, *exception: object) -> None:
        for each in self._processes:
            each.process.kill()
        for each in self._processes:
            each.process.join()
            each.connection.close()

    def give(self, place: int, target: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died since its last answer; its next answer reports that
            self._processes[place].connection.send(target)

    def answers(self, seconds: float) -> Sequence[tuple[int, Answer]]:
        place_of = {each.connection: place for place, each in enumerate(self._processes)}
        ready = wait(list(place_of), timeout=max(0.0, seconds))
        return [(place, self._answer(self._processes[place])) for place in (place_of[each] for each in ready)]  # type: ignore[index]

    def renew(self, place: int) -> None:
        old = self._processes[place]
        old.process.kill()
        old.process.join()
        old.connection.close()
        self._processes[place] = self._start()

    def _start(self) -> _Process:
        ours, theirs = _SPAWN.Pipe()
        arguments = self._judge, self._settings, theirs, self._memory
        process = _SPAWN.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return _Process(process, ours)

    def _answer(self, of: _Process) -> Answer:
        try:
            answer: Answer = of.connection.recv()
            return answer
        except (EOFError, OSError):
            of.process.join()
        code = of.process.exitcode or 0
        if code >= 0:
            return Ended(f"exited with code {code}")
        name = signal.Signals(-code).name
        return Ended(f"was killed by {name}" + (", as when memory runs out" if name == "SIGKILL" else ""))


def _serve(judge: str, settings: Settings, connection: Connection, memory: int) -> None:
    """Run such a process: judge one class after the other, until the sweep is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a keyboard interrupt is for the sweep, which ends this process
    threading.Thread(target=_end_with_parent, name="shiftproof-parent", daemon=True).start()
    if settings.device == "cpu":  # a GPU driver maps more memory than exists
        _limit_memory(memory)
    function = find(judge)
    connection.send(Ready())
    with contextlib.suppress(EOFError):
        while True:
            connection.send(judged(function, connection.recv(), settings))


def _end_with_parent() -> None:
    """End this process if the sweep is killed. A class can hang at that time, and nobody else would end the process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _physical_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limit_memory(limit: int) -> None:
    """Make an allocation beyond ``limit`` bytes fail here, before the kernel chooses a process to kill."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
