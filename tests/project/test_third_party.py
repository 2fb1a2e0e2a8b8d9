"""What the package imports of other people's, and when. Which room may import which is [tool.importlinter]'s to say."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE_DIR = {name: ROOT / folder for name, folder in PYPROJECT["tool"]["setuptools"]["package-dir"].items()}
FILES = {folder: [*folder.rglob("*.py")] for folder in PACKAGE_DIR.values()}

DEPENDENCIES = {re.split("[<>=]", each)[0].replace("-", "_") for each in PYPROJECT["project"]["dependencies"]}

ALLOWED = {
    "src/shiftproof": set(),
    "reference": {"torch"},
    "reference/yardstick/kernel.py": {
        "torch",
        "triton",
    },  # Triton comes with torch for CUDA; only there this file is loaded
    "harness": DEPENDENCIES | {"_pytest"},
    "harness/worker": {"torch", "safetensors"},  # it runs where nothing else is installed
    "harness/sweep/cluster.py": {"ray"},  # an extra, loaded where a sweep asks for a cluster
}
"""The third-party packages that the files under a path may import: the longest path that fits has the say."""


def third_party(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of every package that is neither ours nor Python's own, imported at the top or later."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        for name in names:
            if (package := name.partition(".")[0]) not in {"shiftproof", *sys.stdlib_module_names}:
                yield node.lineno, package


def allowed(path: str) -> set[str]:
    fitting = [prefix for prefix in ALLOWED if path == prefix or path.startswith(f"{prefix}/")]
    return ALLOWED[max(fitting, key=len)]


def wrong_imports(path: str, source: str) -> list[str]:
    return [f"{path}:{line}: {name}" for line, name in third_party(source) if name not in allowed(path)]


def test_every_file_imports_what_its_folder_may() -> None:
    files = {file.relative_to(ROOT).as_posix(): file for files in FILES.values() for file in files}
    assert len(files) > 150
    assert [each for path, file in files.items() for each in wrong_imports(path, file.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("reference/oracle.py", "import torch.nn.functional as F", False),
        ("reference/oracle.py", "import numpy", True),
        ("reference/oracle.py", "def late():\n    import torchvision", True),
        ("reference/yardstick/kernel.py", "import triton.language as tl", False),
        ("reference/yardstick/rows.py", "import triton", True),
        ("harness/worker/runner.py", "import hypothesis", True),
        ("harness/cases/space.py", "from hypothesis import strategies as st", False),
        ("harness/cases/space.py", "import scipy", True),
        ("harness/sweep/cluster.py", "import ray", False),
        ("harness/sweep/engine.py", "import ray", True),
        ("src/shiftproof/__init__.py", "import torch", True),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str, wrong: bool) -> None:
    assert bool(wrong_imports(path, source)) is wrong


@pytest.mark.parametrize("room", ["report", "pytest_plugin.plugin", "cli.main"])
def test_importing_does_not_load_torch(room: str) -> None:
    code = f"import sys, shiftproof.harness.{room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, f"{room} loads torch"


def test_every_package_is_installed() -> None:
    packages = {
        ".".join((package, *file.parent.relative_to(folder).parts))
        for package, folder in PACKAGE_DIR.items()
        for file in FILES[folder]
    }
    assert packages == set(PYPROJECT["tool"]["setuptools"]["packages"])
    assert all((file.parent / "__init__.py").exists() for files in FILES.values() for file in files)
