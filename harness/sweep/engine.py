"""Give every class to some hands for judgement, and keep their answers. This file does not know what a class is."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence

from .executor import Ended, Hands, NotStarted, Ready
from .processes import Processes
from .result import Row, not_judged
from .settings import Settings
from .store import Store

ENGINES = ("local", "ray")


def hands_of(
    engine: str, judge: str, settings: Settings, most: int, processes: int | None = None, address: str | None = None
) -> Hands:
    """Return the hands of one of ``ENGINES``: ``processes`` of them, or one per core; at most ``most``, the classes.

    Raises:
        UsageError: see :class:`Cluster`.
    """
    if engine == "local":
        return Processes(judge, settings, min(processes or os.cpu_count() or 1, most))
    from .cluster import Cluster

    return Cluster(judge, settings, min(processes or most, most), address)


def run(
    targets: Sequence[str], hands: Hands, settings: Settings, store: Store, tick: Callable[[Row], None] = lambda _: None
) -> None:
    """Judge some targets. Store each row at once, and then pass it to ``tick``.

    A class that ends its process, or that is not judged within ``settings.deadline``, gets a row that states this. The
    others continue in a new process.

    Raises:
        NotStarted: if the judge cannot start.
    """
    waiting = deque(targets)
    on_trial: dict[int, tuple[str, float]] = {}  # place -> its class and start time
    started: set[int] = set()  # places whose process was ready at least once

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
                        raise NotStarted(f"a process of the sweep {answer.how}, before it got any class")
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
