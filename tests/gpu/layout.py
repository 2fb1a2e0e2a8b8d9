"""The project as an installed package, out of nothing but its tree: links in a folder that goes on the path.

This is done whether or not it is installed, so that it is always this tree that runs. Of the tests, this folder and the
benchmarks go along, in a package of a name that nobody else has.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "shiftproof_tests.gpu"
"""What this folder is called there."""


def lay_out(folder: Path) -> None:
    """Make ``folder`` hold the packages of pyproject.toml, and what pip would have written of them: version, commands
    and the pytest plugin."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    # The root of the package comes first, and the others go into it.
    for package, source in sorted(project["tool"]["setuptools"]["package-dir"].items()):
        place = folder.joinpath(*package.split("."))
        if place.parent == folder:
            place.mkdir(parents=True)
            for file in (ROOT / source).iterdir():
                _link(file, place / file.name)
        else:
            _link(ROOT / source, place)
    tests = folder / PACKAGE.partition(".")[0]
    tests.mkdir()
    (tests / "__init__.py").touch()
    for each in ("gpu", "benchmarks"):
        _link(ROOT / "tests" / each, tests / each)
    name, version = project["project"]["name"], project["project"]["version"]
    told = folder / f"{name}-{version}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    points = {"console_scripts": project["project"]["scripts"], **project["project"]["entry-points"]}
    lines = [
        line
        for group, entries in points.items()
        for line in (f"[{group}]", *(f"{each} = {where}" for each, where in entries.items()))
    ]
    (told / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _link(source: Path, place: Path) -> None:
    try:
        place.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:  # a file system without links
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
