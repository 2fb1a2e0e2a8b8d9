"""The laws, in the order in which they are asked: each family's file registers its own."""

from . import contract, pairs, numbers, conduct, invariance, edges  # noqa: F401, I001  (the order is the order of asking)
from .base import LAWS, Judgement, Law

__all__ = ["LAWS", "Judgement", "Law"]
