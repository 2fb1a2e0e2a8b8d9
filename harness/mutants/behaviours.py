"""All behaviours, by family."""

from __future__ import annotations

from .behaviour import Behaviour
from .gradients import GRADIENTS
from .interface import INTERFACE
from .numerics import NUMERICS
from .states import STATES

BEHAVIOURS: tuple[Behaviour, ...] = (*GRADIENTS, *NUMERICS, *INTERFACE, *STATES)
