"""The small form of `nox -s build`: what pyproject.toml and MANIFEST.in say is packed is there, and all is packed."""

from __future__ import annotations

import re
import subprocess
import sys
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


def test_what_times_losses_is_no_dependency_of_the_package() -> None:
    names = {re.split("[<>=]", each)[0] for each in PYPROJECT["project"]["dependencies"]}
    assert "pytest-benchmark" not in names


@pytest.mark.parametrize("more", [(), ("-p", "pytest_benchmark.plugin", "--benchmark-storage=file://elsewhere")])
def test_no_run_of_pytest_leaves_a_folder_of_benchmarks_behind(tmp_path: Path, more: tuple[str, ...]) -> None:
    settings = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider")
    one = str(ROOT / "tests" / "harness" / "test_suggest.py")
    command = [sys.executable, "-m", "pytest", *settings, *more, "-q", one]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not (tmp_path / ".benchmarks").exists()


def test_it_runs_where_its_classifiers_say() -> None:
    """Workers are forked, and files are locked by fcntl."""
    systems = [each for each in PYPROJECT["project"]["classifiers"] if each.startswith("Operating System")]
    assert systems
    assert all("POSIX" in each or "MacOS" in each for each in systems)
