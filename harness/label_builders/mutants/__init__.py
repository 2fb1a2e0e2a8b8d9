"""Known-wrong label builders, each named after its bug. If a loss can have the same bug, it has the same name."""

# ruff: noqa: I001  (the order in which the diagnosis tries them)
from . import delays, shifts, packing, masks  # noqa: F401
from .base import BUILDER_MUTANTS, BuilderMutant, mutants_of

__all__ = ["BUILDER_MUTANTS", "BuilderMutant", "mutants_of"]
