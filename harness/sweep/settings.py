"""How the classes of a sweep are judged: the settings that a judge gets beside the class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The same for every class of a sweep. Small, because they go to other processes. `command.py` checks them.

    Attributes:
        python: the interpreter that has the library; None is this one.
        seed: the seed that cases are drawn from.
        profile: the number of cases: ``brief``, ``quick``, ``ci`` or ``deep``.
        deadline: seconds for one class with all its cases. The engine enforces it.
        device, dtype: what it is judged on.
    """

    python: str | None = None
    seed: int = 0
    profile: str = "brief"
    deadline: float = 600.0
    device: str = "cpu"
    dtype: str = "float32"
