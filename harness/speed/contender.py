"""Who is timed: a candidate; or what it is timed against, a loss of the reference or another candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import shiftproof.reference
from shiftproof.reference.eager import eager
from shiftproof.reference.spec import LossSpec
from shiftproof.reference.yardstick import yardstick

from ..candidate import Candidate

REFERENCE = str(Path(shiftproof.reference.__file__).parent)
"""The folder that the worker imports the reference's own losses from."""

KINDS: dict[str, Callable[[LossSpec], Callable[..., Tensor]]] = {"yardstick": yardstick, "eager": eager}
"""The losses of the reference that are timed, each by the name of its module and function."""


@dataclass(frozen=True)
class Contender:
    """``kind`` is a loss of the reference, which is handed the fields of a batch; or it is a candidate."""

    name: str
    kind: str | None = None
    candidate: Candidate | None = None
