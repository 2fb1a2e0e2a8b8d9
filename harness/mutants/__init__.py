"""Known-wrong losses, each named after its bug, with the real case it re-enacts."""

from .alignment import ALIGNMENT
from .base import Mutant, Variant
from .normalisation import NORMALISATION
from .selection import SELECTION

MUTANTS: dict[str, Mutant] = {mutant.name: mutant for mutant in (*ALIGNMENT, *SELECTION, *NORMALISATION)}

__all__ = ["MUTANTS", "Mutant", "Variant"]
