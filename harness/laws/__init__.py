"""The laws, in the order in which they are asked: each family's file registers its own."""

from collections.abc import Mapping  # noqa: I001  (the laws come in the order of asking)
from typing import Any

from shiftproof.reference.builders import BuilderSpec
from shiftproof.reference.spec import LossSpec

from . import contract, pairs, numbers, linear, streams, models, trainers, conduct, invariance, edges  # noqa: F401
from .base import LAWS, Judgement, Law, aim
from .builders import BUILDER_LAWS

__all__ = ["BUILDER_LAWS", "LAWS", "Judgement", "Law", "aim", "laws_of"]


def laws_of(spec: LossSpec | BuilderSpec) -> Mapping[str, Law[Any, Any]]:
    """All that is asked of candidates under ``spec``."""
    return BUILDER_LAWS if isinstance(spec, BuilderSpec) else LAWS
