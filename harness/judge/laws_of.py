"""The laws for a candidate, by the kind of its spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shiftproof.reference.builders import BuilderSpec
from shiftproof.reference.spec import LossSpec

from ..label_builders.laws import BUILDER_LAWS
from ..laws import LAWS, Law


def laws_of(spec: LossSpec | BuilderSpec) -> Mapping[str, Law[Any, Any]]:
    """The laws for candidates under ``spec``, by id, in order."""
    return BUILDER_LAWS if isinstance(spec, BuilderSpec) else LAWS
