"""Known-wrong losses. Each is named after its bug, and names the real case that it re-enacts."""

from .ahead import AHEAD
from .alignment import ALIGNMENT
from .base import BugVariant, Mutant
from .codebooks import CODEBOOKS
from .normalisation import NORMALISATION
from .selection import SELECTION

MUTANTS: dict[str, Mutant] = {
    mutant.name: mutant for mutant in (*ALIGNMENT, *SELECTION, *NORMALISATION, *CODEBOOKS, *AHEAD)
}

__all__ = ["MUTANTS", "BugVariant", "Mutant"]
