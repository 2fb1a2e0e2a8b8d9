"""Have every class judged by some hands, and keep what they say. Knows nothing of what a class is."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence

from .hands import Ended, Hands, NotStarted, Ready
from .processes import Processes
from .row import Row, not_judged
from .settings import Settings
from .store import Store

ENGINES = ("local", "ray")


def hands_of(
    engine: str, judge: str, settings: Settings, most: int, processes: int | None = None, address: str | None = None
) -> Hands:
    """The hands of one of ``ENGINES``: ``processes`` of them, or one a core; no more than ``most``, the classes.

    Raises:
        UsageError: as :class:`Cluster`.
    """
    if engine == "local":
        return Processes(judge, settings, min(processes or os.cpu_count() or 1, most))
    from .cluster import Cluster

    return Cluster(judge, settings, min(processes or most, most), address)


def run(
    targets: Sequence[str], hands: Hands, settings: Settings, store: Store, tick: Callable[[Row], None] = lambda _: None
) -> None:
    """Judge some targets, and store each as it is judged; then ``tick`` is told.

    A class that ends its process, or is not judged by ``settings.deadline``, gets a row that says so; the others go on
    in a new process.

    Raises:
        NotStarted: the judge cannot be had.
    """
    waiting = deque(targets)
    on_trial: dict[int, tuple[str, float]] = {}  # place -> its class, and since when
    started: set[int] = set()  # places whose process has been ready

    def keep(row: Row) -> None:
        store.append(row)
        tick(row)

    with hands:
        while waiting or on_trial:
            first = min((since + settings.deadline for _, since in on_trial.values()), default=math.inf)
            for place, answer in hands.answers(min(first - time.monotonic(), 1.0)):
                target, since = on_trial.pop(place, ("", 0.0))
                if isinstance(answer, Ended):
                    if place not in started:
                        raise NotStarted(f"a process of the sweep {answer.how}, before it was given any class")
                    if target:
                        seconds = time.monotonic() - since
                        keep(not_judged(target, f"its process {answer.how}", seconds, settings.seed))
                    started.discard(place)
                    hands.renew(place)
                    continue
                if isinstance(answer, Ready):
                    started.add(place)
                else:
                    keep(answer)
                if waiting:
                    on_trial[place] = waiting.popleft(), time.monotonic()
                    hands.give(place, on_trial[place][0])
            for place, (target, since) in list(on_trial.items()):
                if (seconds := time.monotonic() - since) > settings.deadline:
                    del on_trial[place]
                    reason = f"it took longer than {settings.deadline:g} s"
                    keep(not_judged(target, reason, seconds, settings.seed))
                    started.discard(place)
                    hands.renew(place)
