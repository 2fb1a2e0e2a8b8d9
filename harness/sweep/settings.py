"""How the classes of a sweep are judged: what a judge is told besides the class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The same for every class of a sweep, and small, since it goes to other processes. `command.py` checks it.

    Attributes:
        python: the interpreter that the library is installed for; None is this one.
        seed: what cases are drawn from.
        profile: how many: ``brief``, ``quick``, ``ci`` or ``deep``.
        deadline: seconds for one class, all its cases together; kept by the engine.
        device, dtype: what it is judged on.
    """

    python: str | None = None
    seed: int = 0
    profile: str = "brief"
    deadline: float = 600.0
    device: str = "cpu"
    dtype: str = "float32"
