"""A file in a package is imported as a module of the package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shiftproof.harness.worker.load import load
from shiftproof.harness.worker.target import LoadFailure

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _modules_as_before() -> Iterator[None]:
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def project(folder: Path, name: str = "mypackage", root: str = "src") -> Path:
    package = folder / root / name
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("SCALE = 3\n")
    (package / "deep" / "__init__.py").write_text("")
    (package / "helpers.py").write_text("def scaled(x):\n    from . import SCALE\n    return SCALE * x\n")
    source = "from ..helpers import scaled\n\ndef loss(logits, labels):\n    return scaled(logits.sum())\n"
    (package / "deep" / "losses.py").write_text(source)
    return package


@pytest.mark.parametrize("root", ["src", "."])
def test_relative_imports_work(tmp_path: Path, root: str) -> None:
    package = project(tmp_path, root=root)
    found = load(f"{package / 'deep' / 'losses.py'}:loss", str(tmp_path), CPU)
    assert found.function(torch.ones(2), None) == 6
    assert found.function.__module__ == "mypackage.deep.losses"
    assert found.package == "mypackage"
    assert sys.path[0] == str(package.parent)
    assert str(package) not in sys.path, "its modules would shadow others"


def test_the_package_itself(tmp_path: Path) -> None:
    package = project(tmp_path)
    (package / "__init__.py").write_text("def loss(logits, labels):\n    return logits.sum()\n")
    found = load(f"{package / '__init__.py'}:loss", str(tmp_path), CPU)
    assert found.function.__module__ == "mypackage"


def test_a_file_alone_stays_a_module_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text("def loss(logits, labels):\n    return logits.sum()\n")
    found = load("losses.py:loss", str(tmp_path), CPU)
    assert (found.function.__module__, found.package) == ("losses", None)


def test_a_name_that_cannot_be_imported_is_loaded_as_a_file(tmp_path: Path) -> None:
    package = project(tmp_path)
    (package / "my-losses.py").write_text("def loss(logits, labels):\n    return logits.sum()\n")
    assert load(f"{package / 'my-losses.py'}:loss", str(tmp_path), CPU).function(torch.ones(2), None) == 2


def test_a_package_that_does_not_load_is_told_with_its_own_error(tmp_path: Path) -> None:
    package = project(tmp_path)
    (package / "__init__.py").write_text("raise RuntimeError('not today')\n")
    with pytest.raises(LoadFailure, match=r"importing mypackage\.deep raised RuntimeError: not today"):
        load(f"{package / 'deep' / 'losses.py'}:loss", str(tmp_path), CPU)


def test_another_package_of_that_name_is_not_taken_for_it(tmp_path: Path) -> None:
    project(tmp_path / "one")
    other = project(tmp_path / "other")
    load(f"{tmp_path / 'one' / 'src' / 'mypackage' / 'deep' / 'losses.py'}:loss", str(tmp_path), CPU)
    with pytest.raises(LoadFailure, match=r"another mypackage.deep.losses is imported already, from .*one"):
        load(f"{other / 'deep' / 'losses.py'}:loss", str(tmp_path), CPU)


def test_a_module_that_is_in_src_is_told(tmp_path: Path) -> None:
    project(tmp_path)
    with pytest.raises(LoadFailure, match=r"src/mypackage is there: .* file, as src/mypackage/deep/losses\.py"):
        load("mypackage.deep.losses:loss", str(tmp_path), CPU)
    path = "src/mypackage/deep/losses.py"
    assert load(f"{path}:loss", str(tmp_path), CPU).function(torch.ones(2), None) == 6, "the hint works"
