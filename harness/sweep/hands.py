"""Who judges the classes of a sweep: some processes, each with one class at a time, each long-lived.

Long-lived, because importing the library takes longer than judging a class of it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .row import Row, not_judged
from .settings import Settings

Judge = Callable[[str, Settings], Row]


@dataclass(frozen=True)
class Ready:
    """A process is ready for its first class."""


@dataclass(frozen=True)
class Ended:
    """A process ended; ``how`` is the end of a sentence that begins with it."""

    how: str


Answer = Row | Ready | Ended


class NotStarted(Exception):
    """A process ended before it was given any class, which another one would do too."""


class Hands(Protocol):
    """``count`` processes, numbered from 0 up, which begin to start as soon as the context is entered."""

    count: int

    def __enter__(self) -> Hands: ...

    def __exit__(self, *exception: object) -> None:
        """End all of them, whatever they are at."""

    def give(self, place: int, target: str) -> None:
        """Have a process judge a class. It must be ready, or have answered its last one."""

    def answers(self, seconds: float) -> Sequence[tuple[int, Answer]]:
        """What has come, and from whom; waits for at most so long until anything comes."""

    def renew(self, place: int) -> None:
        """End a process, whatever it is at, and start another in its place."""


def find(judge: str) -> Judge:
    """The judge that ``module:function`` names."""
    module, _, function = judge.partition(":")
    found: Judge = getattr(importlib.import_module(module), function)
    return found


def judged(judge: Judge, target: str, settings: Settings) -> Row:
    """The row of a class. What the judge raises is no verdict on the class, and no reason to stop."""
    started = time.perf_counter()
    try:
        return judge(target, settings)
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return not_judged(target, f"judging it raised {what}", time.perf_counter() - started, settings.seed)
