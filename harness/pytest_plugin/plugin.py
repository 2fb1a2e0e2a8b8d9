"""The pytest plugin: its options, and laws as test items. It loads torch only if there is something to judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
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
    if not (config.getoption("--shiftproof") or config.getoption("--shiftproof-declared")):
        return
    from .session import begin

    config.pluginmanager.register(begin(config), _RUN)


def run_of(config: pytest.Config) -> Run | None:
    """Return the run of a pytest session, or None if the session judges nothing."""
    found: Run | None = config.pluginmanager.getplugin(_RUN)
    return found
