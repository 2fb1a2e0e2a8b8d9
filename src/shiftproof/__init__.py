"""Proves that a trainer's autoregressive loss is right.

``check`` judges a loss, a model, a trainer or a label builder; ``assert_conforms`` raises if it is wrong;
``conformance`` makes a test of each law; ``identify`` says what a loss computes; ``replay`` asks a stored case again.

The words in which a loss is specified are ``LossSpec``, ``LossTerm`` and ``PROFILES``, and the reference that says what
it must be is ``Batch``, ``build_pairing`` and ``evaluate``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from shiftproof.harness.api.check import assert_conforms, check
    from shiftproof.harness.api.identify import Identified, identify
    from shiftproof.harness.api.replay import replay
    from shiftproof.harness.api.result import DoesNotConform, FailingCase, Result
    from shiftproof.harness.candidates.declaration import UsageError
    from shiftproof.harness.pytest_plugin.conformance import Conformance, conformance
    from shiftproof.reference.batch import Batch
    from shiftproof.reference.oracle import evaluate
    from shiftproof.reference.pairing import build_pairing
    from shiftproof.reference.profiles import PROFILES
    from shiftproof.reference.spec import LossSpec, LossTerm

__all__ = [
    "PROFILES",
    "Batch",
    "Conformance",
    "DoesNotConform",
    "FailingCase",
    "Identified",
    "LossSpec",
    "LossTerm",
    "Result",
    "UsageError",
    "__version__",
    "assert_conforms",
    "build_pairing",
    "check",
    "conformance",
    "evaluate",
    "identify",
    "replay",
]

_HOME = {
    "Batch": "reference.batch",
    "Conformance": "harness.pytest_plugin.conformance",
    "DoesNotConform": "harness.api.result",
    "FailingCase": "harness.api.result",
    "Identified": "harness.api.identify",
    "LossSpec": "reference.spec",
    "LossTerm": "reference.spec",
    "PROFILES": "reference.profiles",
    "Result": "harness.api.result",
    "UsageError": "harness.candidates.declaration",
    "assert_conforms": "harness.api.check",
    "build_pairing": "reference.pairing",
    "check": "harness.api.check",
    "conformance": "harness.pytest_plugin.conformance",
    "evaluate": "reference.oracle",
    "identify": "harness.api.identify",
    "replay": "harness.api.replay",
}


def __getattr__(name: str) -> Any:
    """Load a name when it is first used: the plugin must not cost every run of pytest an import of torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("shiftproof")
    if name not in _HOME:
        raise AttributeError(f"module 'shiftproof' has no attribute {name!r}")
    return getattr(import_module(f"shiftproof.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
