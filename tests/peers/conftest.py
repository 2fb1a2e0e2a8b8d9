"""Prepares Triton's interpreter, keeps what the tests find of every package, and writes docs/peers.md of it when
`nox -s peers` asks for that."""

from __future__ import annotations

import datetime
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from .judged import Judged
from .packages import Missing, interpret_kernels
from .peer import PEERS
from .table import is_complete, render

FOUND = pytest.StashKey[dict[tuple[str, str], Judged]]()
STARTED = pytest.StashKey[float]()
WRITE_TO = "SHIFTPROOF_PEERS_TABLE"  # set by the session, and only when it runs whole

with suppress(Missing):  # a test that needs the interpreter says why it is not there
    interpret_kernels()


@pytest.fixture(scope="session")
def found(pytestconfig: pytest.Config) -> dict[tuple[str, str], Judged]:
    """Where the tests put what they find: (row, dtype) -> it."""
    pytestconfig.stash[STARTED] = time.monotonic()
    return pytestconfig.stash.setdefault(FOUND, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    """Writes the table, if every row passed; else the last one that did stays."""
    path, results = os.environ.get(WRITE_TO), config.stash.get(FOUND, {})
    if path is None:
        return
    if exitstatus != pytest.ExitCode.OK or not is_complete(PEERS, results):
        terminalreporter.write_line(f"{path} was left as it is: not every row passed")
        return
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    Path(path).write_text(render(PEERS, results, date, time.monotonic() - config.stash[STARTED]), encoding="utf-8")
    terminalreporter.write_line(f"wrote {path}")
