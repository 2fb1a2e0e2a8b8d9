"""A file inside a package is imported as a module of it, so that what it imports is found."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch

from shiftproof.harness.worker.load import Loaded, load
from shiftproof.harness.worker.target import LoadFailure

LOSS = "from .inner.helpers import factor\ndef loss(logits, labels):\n    return factor * logits.sum()\n"


def write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder. What is imported from it is forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def loaded(target: str, folder: Path) -> Loaded:
    return load(target, str(folder), torch.device("cpu"))


def value(target: str, folder: Path) -> float:
    return float(loaded(target, folder).function(torch.ones(2), None))


def refused(target: str, folder: Path) -> LoadFailure:
    with pytest.raises(LoadFailure) as caught:
        loaded(target, folder)
    return caught.value


PACKAGE = {"__init__.py": "__version__ = '1.2.3'", "inner/__init__.py": "", "inner/helpers.py": "factor = 3\n"}


@pytest.mark.parametrize("root", ["", "src/", "a-b/src/"])
def test_relative_imports_work_wherever_the_package_lies(root: str, folder: Path) -> None:
    write(folder, {f"{root}sp_pack/{name}": text for name, text in {**PACKAGE, "losses.py": LOSS}.items()})
    found = loaded(f"{root}sp_pack/losses.py:loss", folder)
    assert float(found.function(torch.ones(2), None)) == 6
    assert found.function.__module__ == "sp_pack.losses"
    assert found.package == "sp_pack"
    assert found.description.versions["sp_pack"] == "1.2.3"


def test_the_walk_upwards_ends_where_no_package_is(folder: Path) -> None:
    write(folder, {f"sp_outer/sp_pack/{name}": text for name, text in {**PACKAGE, "losses.py": LOSS}.items()})
    assert loaded("sp_outer/sp_pack/losses.py:loss", folder).function.__module__ == "sp_pack.losses"
    write(folder, {"sp_outer/__init__.py": ""})
    assert loaded("sp_outer/sp_pack/losses.py:loss", folder).function.__module__ == "sp_outer.sp_pack.losses"


def test_a_module_that_its_package_imported_is_not_run_twice(folder: Path) -> None:
    counts = "import builtins\nbuiltins.sp_runs = getattr(builtins, 'sp_runs', 0) + 1\nruns = builtins.sp_runs\n"
    write(
        folder,
        {
            "sp_once/__init__.py": "from .losses import loss",
            "sp_once/losses.py": counts + "def loss(logits, labels):\n    return logits.sum() * 0 + runs\n",
        },
    )
    assert value("sp_once/losses.py:loss", folder) == 1
    assert value("sp_once/__init__.py:loss", folder) == 1


def test_a_file_whose_name_is_no_identifier_is_a_lone_file(folder: Path) -> None:
    write(folder, {"sp_pack/__init__.py": "1 / 0", "sp_pack/my-loss.py": "def loss(logits, labels):\n    return 7\n"})
    assert value("sp_pack/my-loss.py:loss", folder) == 7
    assert loaded("sp_pack/my-loss.py:loss", folder).package is None


def test_a_folder_whose_name_is_no_identifier_is_no_package(folder: Path) -> None:
    write(folder, {"sp-pack/__init__.py": "1 / 0", "sp-pack/losses.py": "def loss(logits, labels):\n    return 7\n"})
    assert value("sp-pack/losses.py:loss", folder) == 7


def test_another_package_of_the_same_name_is_not_judged_instead(folder: Path) -> None:
    """Such as one that is installed and imported already."""
    installed = {**PACKAGE, "losses.py": "def loss(logits, labels):\n    return -1\n"}
    write(folder, {f"site/sp_clash/{name}": text for name, text in installed.items()})
    write(folder, {f"mine/sp_clash/{name}": text for name, text in {**PACKAGE, "losses.py": LOSS}.items()})
    assert value("site/sp_clash/losses.py:loss", folder) == -1
    failure = refused("mine/sp_clash/losses.py:loss", folder)
    assert failure.reason == "import failed"
    assert "another sp_clash.losses is imported already" in failure.message
    assert str(folder / "site" / "sp_clash" / "losses.py") in failure.message


def test_a_package_that_raises_is_reported_with_its_own_error(folder: Path) -> None:
    write(folder, {"sp_bad/__init__.py": "raise OSError('no settings')", "sp_bad/losses.py": "def loss(logits): ...\n"})
    failure = refused("sp_bad/losses.py:loss", folder)
    assert failure.reason == "import failed"
    assert failure.message == "importing sp_bad raised OSError: no settings"
    assert "raise OSError('no settings')" in failure.traceback


# A package that lacks a dependency ---------------------------------------------------------------------------------

LACKS = "import sp_not_installed_anywhere\n"
ALONE = "import logging\nlog = logging.getLogger(__name__)\ndef loss(logits, labels):\n    return 7\n"


def test_a_file_that_stands_alone_is_judged_without_a_package_that_lacks_something(folder: Path) -> None:
    write(folder, {"sp_lacks/__init__.py": LACKS, "sp_lacks/losses.py": ALONE})
    assert value("sp_lacks/losses.py:loss", folder) == 7
    assert loaded("sp_lacks/losses.py:loss", folder).package is None


@pytest.mark.parametrize(
    "asks",
    [
        "try:\n    from .kernels import loss\nexcept ImportError:\n    pass\n",
        "def later():\n    from . import kernels\n",
        "try:\n    import sp_lacks.kernels\nexcept ImportError:\n    pass\n",
        "try:\n    from sp_lacks import kernels\nexcept ImportError:\n    pass\n",
        "import importlib\ntry:\n    importlib.import_module('sp_lacks.kernels')\nexcept ImportError:\n    pass\n",
        "name = __package__\n",
    ],
)
def test_a_file_that_asks_its_package_for_something_is_not_judged_without(asks: str, folder: Path) -> None:
    """It may have a second choice, which nobody trains with."""
    write(folder, {"sp_lacks/__init__.py": LACKS, "sp_lacks/losses.py": ALONE + asks})
    failure = refused("sp_lacks/losses.py:loss", folder)
    assert "importing sp_lacks raised ModuleNotFoundError: No module named 'sp_not_ins" in failure.message


@pytest.mark.parametrize("broken", [LACKS + ALONE, "1 / 0\n", "def loss(:\n"])
def test_a_file_that_cannot_be_loaded_alone_either_reports_its_package(broken: str, folder: Path) -> None:
    write(folder, {"sp_lacks/__init__.py": LACKS, "sp_lacks/losses.py": broken})
    assert refused("sp_lacks/losses.py:loss", folder).message.startswith("importing sp_lacks raised ModuleNotFound")


def test_the_module_of_a_package_itself_needs_it(folder: Path) -> None:
    write(folder, {"sp_lacks/__init__.py": LACKS, "sp_lacks/inner/__init__.py": ALONE})
    assert "importing sp_lacks raised" in refused("sp_lacks/inner/__init__.py:loss", folder).message
