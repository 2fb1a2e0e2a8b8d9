"""The scripts of docs/scripts, for the tests of what they write, and something to draw on that draws nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest

SCRIPTS = Path(__file__).parents[2] / "docs" / "scripts"
NAMES = {file.stem for file in SCRIPTS.glob("*.py")}


class Scripts:
    """The modules of docs/scripts as attributes, each imported when it is asked for."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


def forget() -> None:
    for name in NAMES & set(sys.modules):
        del sys.modules[name]


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    """They find each other as they do when they are run: in their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        forget()
        yield Scripts()
        forget()


@pytest.fixture
def pyplot(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """In place of matplotlib, which the session `tests` does not install: it takes every call, and keeps it."""
    matplotlib = MagicMock()
    monkeypatch.setitem(sys.modules, "matplotlib", matplotlib)
    for part in ("pyplot", "axes", "ticker"):
        monkeypatch.setitem(sys.modules, f"matplotlib.{part}", getattr(matplotlib, part))
    return matplotlib.pyplot
