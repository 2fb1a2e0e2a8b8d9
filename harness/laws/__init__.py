"""The laws, in the order in which they are asked: each family's file registers its own."""

# ruff: noqa: I001  (the laws come in the order of asking)
from . import contract, alignment, numerics, linear, codebooks, models, trainers, purity, invariance, edges  # noqa: F401
from .base import LAWS, Judgement, Law, adapt_to

__all__ = ["LAWS", "Judgement", "Law", "adapt_to"]
