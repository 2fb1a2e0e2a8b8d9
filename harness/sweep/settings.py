"""How the classes of a sweep are judged: what a judge is told besides the class."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..candidate import DTYPES, UsageError
from ..judge import PROFILES
from ..spelling import nearest


@dataclass(frozen=True)
class Settings:
    """The same for every class of a sweep, and small, since it goes to other processes.

    Attributes:
        python: the interpreter that the library is installed for; None is this one.
        seed: what cases are drawn from.
        profile: how many: ``quick``, ``ci`` or ``deep``.
        deadline: seconds for one class, all its cases together.
        device, dtype: what it is judged on.

    Raises:
        UsageError: for a value that nothing can be judged by.
    """

    python: str | None = None
    seed: int = 0
    profile: str = "quick"
    deadline: float = 600.0
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; expected an integer from 0 up")
        if not (self.deadline > 0 and math.isfinite(self.deadline)):
            raise UsageError(f"deadline is {self.deadline:g}; expected seconds above 0")
        for what, value, legal in (("dtype", self.dtype, DTYPES), ("profile", self.profile, PROFILES)):
            if value not in legal:
                near = nearest(value, legal)
                raise UsageError(f"no {what} is called {value!r}{near}; it is one of {', '.join(legal)}")
