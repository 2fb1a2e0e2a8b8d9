"""The laws, in the order in which they are asked: each family's file registers its own."""

# ruff: noqa: I001, F401  (the laws come in the order of asking)
from . import contract, alignment, numerics, linear, codebooks, models, trainers, purity
from . import states, forms, invariance, edges
from .base import LAWS, REFUSED, Judgement, Law, adapt_to

__all__ = ["LAWS", "REFUSED", "Judgement", "Law", "adapt_to"]
