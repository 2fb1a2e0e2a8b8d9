"""The processes that judge the classes of a sweep. Each lives long, and has one class at a time.

They live long because importing the library takes longer than judging one of its classes.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .result import Row, not_judged
from .settings import Settings

Judge = Callable[[str, Settings], Row]


@dataclass(frozen=True)
class Ready:
    """A process is ready for its first class."""


@dataclass(frozen=True)
class Ended:
    """A process ended. ``how`` is the end of a sentence that begins with the process."""

    how: str


Answer = Row | Ready | Ended


class NotStarted(Exception):
    """A process ended before it got any class. A new process would end too."""


class Hands(Protocol):
    """``count`` processes, numbered from 0. They begin to start as soon as the context is entered."""

    count: int

    def __enter__(self) -> Hands: ...

    def __exit__(self, *exception: object) -> None:
        """End all processes, even busy ones."""

    def give(self, place: int, target: str) -> None:
        """Let a process judge a class. It must be ready, or have answered its last one."""

    def answers(self, seconds: float) -> Sequence[tuple[int, Answer]]:
        """Return the answers that have come, with their places. Wait at most ``seconds`` for the first one."""

    def renew(self, place: int) -> None:
        """End a process, even a busy one, and start another in its place."""


def find(judge: str) -> Judge:
    """Return the judge that ``module:function`` names."""
    module, _, function = judge.partition(":")
    found: Judge = getattr(importlib.import_module(module), function)
    return found


def judged(judge: Judge, target: str, settings: Settings) -> Row:
    """Return the row of a class. An exception in the judge is no verdict on the class, and no reason to stop."""
    started = time.perf_counter()
    try:
        return judge(target, settings)
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return not_judged(target, f"judging it raised {what}", time.perf_counter() - started, settings.seed)
