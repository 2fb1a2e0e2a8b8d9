"""The conftest of the copy in which mutants are tested: what is made anew under one, and which tests come first."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mutmut.stats import record_trampoline_hit

SECONDS = 4.0  # a test that takes longer is left out: what it alone would notice counts as a survivor
PROFILES = "shiftproof.reference.profiles"
# What runs when its module is imported, before there is a mutant, and the tests that notice it.
AT_IMPORT = {f"{PROFILES}.x_": "test_profiles.py", "shiftproof.reference.builders.x__builder": "test_builders.py"}


def under_test() -> str:
    return os.environ.get("MUTANT_UNDER_TEST", "")


def pytest_sessionstart() -> None:
    """Make anew what was made at import. What fails here kills the mutant."""
    mutant = under_test()
    if "__mutmut_" not in mutant:
        return
    if "SHIFTPROOF_IMPORT_AFRESH" in os.environ or mutant.startswith("shiftproof.reference.builders.x__builder"):
        for name in [name for name in sys.modules if name.partition(".")[0] in ("shiftproof", "tests")]:
            del sys.modules[name]
        importlib.import_module(mutant.partition(".x")[0])
        importlib.import_module(PROFILES)
    elif mutant.startswith(f"{PROFILES}.x_"):
        found = vars(sys.modules[PROFILES])
        found["PROFILES"].clear()
        for declare in [value for name, value in found.items() if name.startswith("declare")]:
            declare()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A test file that cannot be imported under a mutant kills it; mutmut would call the run interrupted."""
    if exitstatus == pytest.ExitCode.INTERRUPTED and session.testsfailed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    if under_test() == "stats":
        for prefix, tests in AT_IMPORT.items():
            module, _, start = prefix.partition(".x_")
            if item.path.name == tests:
                for name in vars(sys.modules[module]):
                    if name.startswith(f"mutants_x_{start}"):
                        record_trampoline_hit(f"{module}.{name.removeprefix('mutants_').removesuffix('__mutmut')}")
    return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests of the mutated module first, of these those of the mutated profile, and the fast before the slow."""
    stats = Path("mutmut-stats.json")
    if under_test() == "stats" or not stats.exists():
        return
    seconds = json.loads(stats.read_text())["duration_by_test"]
    module, _, function = under_test().partition("__mutmut_")[0].rpartition(".")
    own, profile = f"test_{module.rpartition('.')[2]}.py", function.removeprefix("x_declare_")

    def order(item: pytest.Item) -> tuple[bool, bool, float]:
        parameter = re.sub(r"[^a-z0-9]", "_", item.name.partition("[")[2].removesuffix("]"))
        return item.path.name != own, parameter != profile, seconds.get(item.nodeid, 0)

    slow = [item for item in items if seconds.get(item.nodeid, 0) > SECONDS]
    config.hook.pytest_deselected(items=slow)
    items[:] = sorted((item for item in items if item not in slow), key=order)
