"""The pytest plugin: its options, and laws as test items. It loads torch only if there is something to judge."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from .conformance import Conformance

if TYPE_CHECKING:
    from .fixture import Suite
    from .session import Run

_RUN = "shiftproof-run"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("shiftproof", "conformance of autoregressive losses")
    option = group.addoption
    option(
        "--shiftproof",
        action="append",
        default=[],
        metavar="TARGET",
        help="judge package.module:attribute, path/file.py:attribute or a declared candidate; repeatable",
    )
    option("--shiftproof-declared", action="store_true", help="judge every candidate that the project declares")
    option("--shiftproof-spec", metavar="PROFILE", help="the spec for candidates that declare none")
    option("--shiftproof-config", metavar="TOML", help="the file that declares candidates (default: ./pyproject.toml)")
    option("--shiftproof-device", action="append", default=[], metavar="DEVICE", help="cpu, cuda, …; repeatable")
    option("--shiftproof-dtype", action="append", default=[], metavar="DTYPE", help="float32, bfloat16, …; repeatable")
    option("--shiftproof-precision", metavar="CLASS", help="strict (accumulates in fp32) or native")
    option("--shiftproof-no-gradient", action="store_true", help="judge only the value")
    option(
        "--shiftproof-requires",
        action="append",
        default=[],
        metavar="SIZES",
        help="the sizes that the candidates require",
    )
    option(
        "--shiftproof-allow",
        action="append",
        default=[],
        metavar="WHAT",
        help="what the candidates need not do, and why",
    )
    option(
        "--shiftproof-shape",
        action="append",
        default=[],
        metavar="B,S[,K],V",
        help="a shape at which every law is asked too; repeatable",
    )
    option("--shiftproof-rename", action="append", default=[], metavar="OURS=ITS", help="our argument's name in them")
    option("--shiftproof-init", action="append", default=[], metavar="NAME=VALUE", help="an argument of their class")
    option("--shiftproof-kwarg", action="append", default=[], metavar="NAME=VALUE", help="an argument of every call")
    option("--shiftproof-profile", default="quick", metavar="PROFILE", help="brief, quick, ci or deep")
    option(
        "--shiftproof-branches",
        choices=("named", "all"),
        default="named",
        help="all: a branch of the candidate that never ran makes the judgement incomplete; ci and deep imply it",
    )
    option("--shiftproof-seed", type=int, metavar="N", help="draw the cases from this seed")
    option(
        "--shiftproof-python",
        action="append",
        default=[],
        metavar="EXE",
        help="an interpreter for the candidates; repeatable",
    )
    option("--shiftproof-in-process", action="store_true", help="run candidates in this process, for a debugger")
    option("--shiftproof-deadline", type=float, default=10.0, metavar="SECONDS", help="the time limit for one call")
    option("--shiftproof-json", metavar="FILE", help="write the JSON report")
    option("--shiftproof-display", choices=("pytest", "own"), default="pytest", help="what writes to the terminal")


@pytest.hookimpl(trylast=True)  # pytest's own reporter must exist first, so that it can be replaced
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.option.shiftproof_drawn = _seed(config)  # here, so that all pytest-xdist processes draw the same cases
    config.pluginmanager.register(_Awaiting(config))
    if config.getoption("--shiftproof") or config.getoption("--shiftproof-declared"):
        the_run(config)


def _seed(config: pytest.Config) -> int:
    given = config.getoption("--hypothesis-seed", default=None)
    if isinstance(given, str) and given.isdecimal():
        if config.option.shiftproof_seed is None:
            config.option.shiftproof_seed = int(given)
        return int(given)
    return secrets.randbelow(2**31)


class _Awaiting:
    """Begins the run where no law is collected: a process of pytest-xdist collects, and this one gets the reports."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if run_of(self.config) is None and any(name.startswith("shiftproof.") for name, _ in report.user_properties):
            the_run(self.config).pytest_runtest_logreport(report)


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> pytest.Collector | None:
    if not isinstance(obj, Conformance):
        return None
    from .collect import ConformanceNode

    return ConformanceNode.from_parent(collector, name=name, declared=obj)


@pytest.fixture
def shiftproof(request: pytest.FixtureRequest) -> Suite:
    """``shiftproof.check``, ``assert_conforms`` and ``identify`` with the seed and profile of this run of pytest."""
    from .fixture import Suite

    return Suite(request.config)


def the_run(config: pytest.Config) -> Run:
    """Return the run of a pytest session, and begin it if there is none yet.

    Raises:
        pytest.UsageError: if the options cannot be followed.
    """
    found = run_of(config)
    if found is None:
        from .session import begin

        found = begin(config)
        config.pluginmanager.register(found, _RUN)
    return found


def run_of(config: pytest.Config) -> Run | None:
    """Return the run of a pytest session, or None if the session judges nothing."""
    found: Run | None = config.pluginmanager.getplugin(_RUN)
    return found
