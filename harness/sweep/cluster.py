"""The hands of a sweep as actors of a Ray cluster, for sweeps that are too large for one machine."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Any

from ..candidates.declaration import UsageError
from .executor import Answer, Ended, Ready, find, judged
from .result import Row
from .settings import Settings

_PATIENCE = 10.0  # seconds


class Cluster:
    """Hands that are Ray actors of one core each: ``count`` of them, or as many as the cluster has cores.

    Joins the cluster at ``address``. Without an address, it joins that of RAY_ADDRESS or of this process, or else
    starts one on this machine and stops it at the end.

    Raises:
        UsageError: if Ray is not installed, or there is no cluster at ``address``.
    """

    def __init__(self, judge: str, settings: Settings, count: int, address: str | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise UsageError("--engine ray needs Ray: pip install 'shiftproof[ray]'") from None
        self._ray: Any = ray
        self._owned = not self._ray.is_initialized()
        if self._owned:
            try:
                _look_for(address)
                self._ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, ValueError) as error:
                raise UsageError(f"there is no Ray cluster at {address}: {error}") from None
        cores = max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        self.count = min(count, cores)
        self._actor = self._ray.remote(num_cpus=1)(_Actor)
        self._arguments = judge, settings
        self._actors: list[Any] = []
        self._asked: dict[Any, int] = {}  # pending answer -> place of its process

    def __enter__(self) -> Cluster:
        self._actors = [None] * self.count
        for place in range(self.count):
            self._start(place)
        return self

    def __exit__(self, *exception: object) -> None:
        for place in range(len(self._actors)):
            self._end(place)
        if self._owned:
            self._ray.shutdown()

    def give(self, place: int, target: str) -> None:
        self._asked[self._actors[place].judge.remote(target)] = place

    def answers(self, seconds: float) -> Sequence[tuple[int, Answer]]:
        done, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=max(0.0, seconds))
        return [(self._asked.pop(each), self._answer(each)) for each in done]

    def renew(self, place: int) -> None:
        self._end(place)
        self._start(place)

    def _start(self, place: int) -> None:
        self._actors[place] = self._actor.remote(*self._arguments)
        self._asked[self._actors[place].ready.remote()] = place

    def _end(self, place: int) -> None:
        self._asked = {pending: of for pending, of in self._asked.items() if of != place}
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actors[place])

    def _answer(self, pending: Any) -> Answer:
        try:
            answer: Answer = self._ray.get(pending)
            return answer
        except self._ray.exceptions.RayError as error:
            return Ended(f"ended: {_detail(str(error))}")


def _look_for(address: str | None) -> None:
    """Raise OSError if nobody listens at host:port. Ray itself would look for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _detail(message: str) -> str:
    """Return what Ray reports on the end of a process, without run-specific text and guesses.

    If the process never ran, return the last line of its exception.
    """
    _, found, detail = " ".join(message.split()).partition("Worker exit detail: ")
    return detail.partition(" Some common causes")[0] if found else message.strip().splitlines()[-1]


class _Actor:
    """One process of the cluster."""

    def __init__(self, judge: str, settings: Settings) -> None:
        self._judge = find(judge)
        self._settings = settings

    def ready(self) -> Ready:
        return Ready()

    def judge(self, target: str) -> Row:
        return judged(self._judge, target, self._settings)
