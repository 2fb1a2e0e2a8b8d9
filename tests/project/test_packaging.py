"""The small form of `nox -s build`: what pyproject.toml and MANIFEST.in say is packed is there, and all is packed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
DIRS = {package: ROOT / folder for package, folder in SETUPTOOLS["package-dir"].items()}
DATA = [(package, pattern) for package, patterns in SETUPTOOLS["package-data"].items() for pattern in patterns]
MANIFEST = [line.split() for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines() if line]


def folder_of(package: str) -> Path:
    root = max((each for each in DIRS if f"{package}.".startswith(f"{each}.")), key=len)
    return DIRS[root].joinpath(*package.removeprefix(root).split("."))


@pytest.mark.parametrize(("package", "pattern"), DATA)
def test_data_is_there(package: str, pattern: str) -> None:
    assert package in SETUPTOOLS["packages"]
    assert list(folder_of(package).glob(pattern))


def test_every_file_beside_the_modules_is_data() -> None:
    packed = {file for package, pattern in DATA for file in folder_of(package).glob(pattern)}
    beside = {
        file
        for folder in DIRS.values()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
    }
    assert {file.relative_to(ROOT).as_posix() for file in beside - packed} == set()


def test_what_the_manifest_names_is_there() -> None:
    named = [name for verb, *names in MANIFEST if verb in ("include", "graft") for name in names]
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_sdist_has_every_page_and_setting_of_the_root() -> None:
    """Those of the build's own are packed without being named: pyproject.toml, the README and the licence."""
    named = {name for verb, *names in MANIFEST if verb == "include" for name in names}
    assert {file.name for file in ROOT.glob("*.md")} <= {*named, PYPROJECT["project"]["readme"]}
    assert {"constraints.txt", "noxfile.py"} <= named


def test_every_package_of_a_group_has_its_version_in_the_constraints() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    asked = [each for group in PYPROJECT["dependency-groups"].values() for each in group]
    asked += PYPROJECT["project"]["dependencies"]
    assert [each for each in asked if re.split("[<>=]", each)[0] not in pinned] == []
