"""What `nox -s versions` judges, without the libraries: every name in it is that of something."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from shiftproof.harness.label_builders.mutants import BUILDER_MUTANTS
from shiftproof.harness.mutants import MUTANTS
from shiftproof.harness.mutants.behaviours import BEHAVIOURS
from shiftproof.reference.builders import BUILDERS
from shiftproof.reference.profiles import PROFILES

from .known import KNOWN, ROOT, Known

VERSIONS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["versions"]
LOSS_BUGS = {*MUTANTS, *(behaviour.name for behaviour in BEHAVIOURS)}


def id_of(known: Known) -> str:
    return f"{known.version}-{Path(known.target).name}-{known.spec}"


def test_every_version_that_is_installed_is_judged_and_the_other_way_round() -> None:
    assert {known.version for known in KNOWN} == set(VERSIONS)


def test_a_version_is_the_first_package_that_its_entry_installs() -> None:
    for version, packages in VERSIONS.items():
        name, _, number = version.rpartition("-")
        assert packages[0] in (f"{name}=={number}", f"{name}-kernel=={number}"), version


@pytest.mark.parametrize("known", KNOWN, ids=id_of)
def test_its_spec_and_its_bug_have_names(known: Known) -> None:
    bugs = LOSS_BUGS if known.spec in PROFILES else BUILDER_MUTANTS
    assert known.spec in {*PROFILES, *BUILDERS}
    assert known.bug is None or known.bug in bugs


@pytest.mark.parametrize("known", [known for known in KNOWN if ".py:" in known.target], ids=id_of)
def test_its_target_is_there(known: Known) -> None:
    file, _, name = known.target.rpartition(":")
    found = ast.parse(Path(file).read_text(encoding="utf-8")).body
    own = {node.name for node in found if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name.partition(".")[0] in own


def test_a_target_without_a_file_is_a_class_of_the_library_of_its_version() -> None:
    of_libraries = [known for known in KNOWN if ".py:" not in known.target]
    assert of_libraries
    packages = [known.target.partition(":")[0].partition(".")[0].replace("_", "-") for known in of_libraries]
    assert all(known.version.startswith(f"{package}-") for known, package in zip(of_libraries, packages, strict=True))
