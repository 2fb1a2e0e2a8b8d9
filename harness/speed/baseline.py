"""The contenders: a candidate, and its rival, which is a loss of the reference or another candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import shiftproof.reference
from shiftproof.reference.eager import eager
from shiftproof.reference.spec import LossSpec
from shiftproof.reference.yardstick import yardstick

from ..candidates.declaration import Candidate

REFERENCE = str(Path(shiftproof.reference.__file__).parent)
"""The folder from which the worker imports the reference's own losses."""

KINDS: dict[str, Callable[[LossSpec], Callable[..., Tensor]]] = {"yardstick": yardstick, "eager": eager}
"""The losses of the reference that can be timed. A key is the name of its module and of its function."""


@dataclass(frozen=True)
class Contender:
    """A loss of the reference of some ``kind``, which gets the fields of a batch; or a candidate."""

    name: str
    kind: str | None = None
    candidate: Candidate | None = None
