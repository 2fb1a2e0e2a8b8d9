"""``shiftproof sweep``: from the request to a file of rows that a later sweep can continue."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ..candidates.declaration import DTYPES, UsageError
from ..judge.plan import check_device, check_name
from ..judge.profile import PROFILES
from .engine import ENGINES, hands_of, run
from .plan import library, matching
from .result import Row
from .settings import Settings
from .store import Footer, Header, Store

JUDGE = "shiftproof.harness.sweep.judge:judge"


@dataclass(frozen=True)
class Request:
    """The request of the user.

    Raises:
        UsageError: if the request is impossible.
    """

    package: str
    patterns: tuple[str, ...]
    settings: Settings
    processes: int | None = None
    engine: str = "local"
    address: str | None = None
    out: Path | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        check_device([settings.device])
        check_name("dtype", [settings.dtype], DTYPES)
        check_name("profile", [settings.profile], tuple(PROFILES))
        if settings.seed < 0:
            raise UsageError(f"seed is {settings.seed}; expected an integer from 0 up")
        if not (settings.deadline > 0 and math.isfinite(settings.deadline)):
            raise UsageError(f"deadline is {settings.deadline:g}; expected seconds above 0")
        if self.processes is not None and self.processes < 1:
            raise UsageError(f"--processes is {self.processes}; expected a number from 1 up")
        check_name("engine", [self.engine], ENGINES)
        if self.address is not None and self.engine != "ray":
            raise UsageError("--ray-address needs a Ray cluster; add --engine ray, or leave it out")


@dataclass(frozen=True)
class Sweep:
    """The job: the classes, and the header of their rows."""

    request: Request
    targets: tuple[str, ...]
    header: Header

    @property
    def path(self) -> Path:
        return self.request.out or self.header.default_path


@dataclass(frozen=True)
class Swept:
    """The findings: the rows in the order of the classes, and the end. ``interrupt`` is what ended it early."""

    path: Path
    header: Header
    rows: tuple[Row, ...]
    footer: Footer
    interrupt: KeyboardInterrupt | None = None


def plan(request: Request) -> Sweep:
    """List the classes and select the requested ones.

    Raises:
        UsageError: see :func:`library` and :func:`matching`.
    """
    settings = request.settings
    found = library(request.package, settings.python)
    header = Header(
        shiftproof=version("shiftproof"),
        package=request.package,
        versions={name: found.versions[name] for name in found.versions if name != "platform"},
        python=settings.python or "",
        patterns=request.patterns,
        seed=settings.seed,
        profile=settings.profile,
        device=settings.device,
        dtype=settings.dtype,
    )
    return Sweep(request, tuple(matching(found.targets, request.patterns)), header)


def sweep(planned: Sweep, tick: Callable[[int, Counter[str]], None] = lambda done, counts: None) -> Swept:
    """Judge every class that has no row in the file, and again those that could not be judged.

    An interrupt ends the sweep early. The judged rows are kept, and the footer records the interrupt. ``tick`` gets the
    number of finished classes, including those of an earlier run, and the number of rows per outcome.

    Raises:
        UsageError: if the file belongs to another sweep, or the engine does not exist.
        NotStarted: see :func:`run`.
    """
    request, targets = planned.request, planned.targets
    started = time.perf_counter()
    with Store(planned.path, planned.header, request.fresh) as store:
        # What took too long, or gave no answer, may give one now.
        left = [target for target in targets if target not in store.rows or store.rows[target].may_be_tried_again]
        counts = Counter(str(row.outcome) for target, row in store.rows.items() if target not in left)
        tick(counts.total(), counts)

        def judged(row: Row) -> None:
            counts[str(row.outcome)] += 1
            tick(counts.total(), counts)

        interrupt = None
        try:
            if left:
                settings = request.settings
                hands = hands_of(request.engine, JUDGE, settings, len(left), request.processes, request.address)
                run(left, hands, settings, store, judged)
        except KeyboardInterrupt as error:
            interrupt = error
        footer = store.finish(time.perf_counter() - started, finished=interrupt is None)
        return Swept(planned.path, planned.header, _in_order(targets, store), footer, interrupt)


def _in_order(targets: Sequence[str], store: Store) -> tuple[Row, ...]:
    return tuple(store.rows[target] for target in targets if target in store.rows)
