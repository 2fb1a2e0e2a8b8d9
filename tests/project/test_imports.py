"""Which module may import which: the directions of docs/DESIGN.md, as a table that is read off the source."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE_DIR = {name: ROOT / folder for name, folder in PYPROJECT["tool"]["setuptools"]["package-dir"].items()}

REFERENCE = "shiftproof.reference"
HARNESS = "shiftproof.harness"


def within(name: str, *prefixes: str) -> bool:
    """Is this dotted name one of these, or something inside one of them?"""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


@dataclass(frozen=True, slots=True)
class Rule:
    """What modules within ``room`` may import: ``only`` these and the standard library, or all but ``never``.

    Those of ``excepted`` are not bound by it.
    """

    room: str
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    excepted: tuple[str, ...] = ()

    def forbids(self, module: str, imported: str) -> bool:
        if not within(module, self.room) or within(module, *self.excepted):
            return False
        if within(imported, *self.never):
            return True
        stdlib = imported.partition(".")[0] in sys.stdlib_module_names
        return bool(self.only) and not stdlib and not within(imported, *self.only)


DEPENDENCIES = [re.split("[<>=]", each)[0].replace("-", "_") for each in PYPROJECT["project"]["dependencies"]]

# Triton comes with torch for CUDA, and only there is this loaded.
KERNEL = f"{REFERENCE}.yardstick.kernel"

# Ray is an extra, and loaded where a sweep asks for a cluster.
CLUSTER = f"{HARNESS}.sweep.cluster"

RULES = (
    Rule("shiftproof", only=("shiftproof", "_pytest", *DEPENDENCIES), excepted=(KERNEL, CLUSTER)),
    Rule(CLUSTER, only=("ray", "shiftproof")),
    # What is right is said in torch, and knows nothing of who asks.
    Rule(REFERENCE, only=("torch", REFERENCE), excepted=(KERNEL,)),
    Rule(KERNEL, only=("torch", "triton", REFERENCE)),
    # The worker runs where nothing of the project need be installed, and may learn nothing of what is expected.
    Rule(f"{HARNESS}.worker", only=("torch", "safetensors", f"{HARNESS}.worker")),
    Rule(f"{HARNESS}.laws", never=(f"{HARNESS}.report", f"{HARNESS}.cli")),
    Rule(f"{HARNESS}.mutants", never=(f"{HARNESS}.report", f"{HARNESS}.cli", f"{HARNESS}.laws", f"{HARNESS}.worker")),
    Rule(f"{HARNESS}.report", never=("torch", "safetensors", REFERENCE, f"{HARNESS}.laws", f"{HARNESS}.cli")),
)

LOADS_NO_TORCH = (f"{HARNESS}.report", f"{HARNESS}.plugin", f"{HARNESS}.cli")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package: its installed name and its file."""
    for package, folder in PACKAGE_DIR.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(part for part in parts if part != "__init__"))), file


def imports(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of all that ``source``, a module in ``package``, imports, at the top or later."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            origin = ".".join([*parents, *filter(None, [node.module])])
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)


MODULES = dict(modules())


@pytest.mark.parametrize("module", MODULES)
def test_imports_keep_their_directions(module: str) -> None:
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {module} may not import {imported}"
        for line, imported in imports(file.read_text(encoding="utf-8"), package)
        if any(rule.forbids(module, imported) for rule in RULES)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", [module for module in LOADS_NO_TORCH if module in MODULES])
def test_importing_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, f"{module} loads torch"


def test_every_package_is_installed() -> None:
    packages = {module for module, file in MODULES.items() if file.name == "__init__.py"}
    assert packages == set(PYPROJECT["tool"]["setuptools"]["packages"])
    assert all((file.parent / "__init__.py").exists() for file in MODULES.values()), "a folder of modules is no package"


@pytest.mark.parametrize(
    ("module", "source", "forbidden"),
    [
        ("shiftproof.reference.oracle", "import torch.nn.functional as F", False),
        ("shiftproof.reference.oracle", "from torch import Tensor", False),
        ("shiftproof.reference.oracle", "from .score import nll", False),
        ("shiftproof.reference.oracle", "from . import score", False),
        ("shiftproof.reference.oracle", "from .. import harness", True),
        ("shiftproof.reference.oracle", "from ..harness.report import Event", True),
        ("shiftproof.reference.oracle", "import numpy", True),
        ("shiftproof.reference.oracle", "import triton", True),
        ("shiftproof.reference.yardstick.kernel", "import triton.language as tl", False),
        ("shiftproof.reference.yardstick.kernel", "import numpy", True),
        ("shiftproof.reference.oracle", "import torchvision", True),
        ("shiftproof.reference.oracle", "def late():\n    from shiftproof import harness", True),
        ("shiftproof.harness.laws.align", "from shiftproof.harness import report", True),
        ("shiftproof.harness.laws.align", "from shiftproof.harness.reporting import x", False),
        ("shiftproof.harness.report.html", "import torch", True),
        ("shiftproof.harness.report.html", "import rich.console", False),
        ("shiftproof.harness.worker.runner", "from shiftproof.harness.worker.protocol import Call", False),
        ("shiftproof.harness.worker.runner", "from . import call", False),
        ("shiftproof.harness.worker.runner", "import hypothesis", True),
        ("shiftproof.harness.worker.runner", "from shiftproof.harness import compare", True),
        ("shiftproof.harness.worker.runner", "from shiftproof.reference import oracle", True),
        ("shiftproof.harness.strategies", "from hypothesis import strategies as st", False),
        ("shiftproof.harness.strategies", "import scipy", True),
        ("shiftproof.harness.sweep.cluster", "import ray", False),
        ("shiftproof.harness.sweep.cluster", "import numpy", True),
        ("shiftproof.harness.sweep.engine", "import ray", True),
    ],
)
def test_the_rules_themselves(module: str, source: str, forbidden: bool) -> None:
    [(_, imported)] = imports(source, module.rpartition(".")[0])
    assert any(rule.forbids(module, imported) for rule in RULES) is forbidden
