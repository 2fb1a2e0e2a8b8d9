"""Proves that a trainer's autoregressive loss is right.

The few names that a user needs: the words in which a loss is specified (``LossSpec``, ``LossTerm``, ``PROFILES``), and
the reference that says what it must be (``Batch``, ``build_pairing``, ``evaluate``). The judge is the command
``shiftproof``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from shiftproof.reference.batch import Batch
    from shiftproof.reference.oracle import evaluate
    from shiftproof.reference.pairing import build_pairing
    from shiftproof.reference.profiles import PROFILES
    from shiftproof.reference.spec import LossSpec, LossTerm

__all__ = ["PROFILES", "Batch", "LossSpec", "LossTerm", "__version__", "build_pairing", "evaluate"]

_HOME = {
    "Batch": "batch",
    "LossSpec": "spec",
    "LossTerm": "spec",
    "PROFILES": "profiles",
    "build_pairing": "pairing",
    "evaluate": "oracle",
}


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: the plugin must not cost every run of pytest an import of torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("shiftproof")
    if name not in _HOME:
        raise AttributeError(f"module 'shiftproof' has no attribute {name!r}")
    return getattr(import_module(f"shiftproof.reference.{_HOME[name]}"), name)
