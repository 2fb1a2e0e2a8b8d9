"""A pytest plugin: what each test comes to is a finding, written at once. One of several processes takes its shard.

It is told by the variable SHIFTPROOF_GPU_WITNESS, a JSON object: ``asked``, ``shard`` and ``shards``.
"""

from __future__ import annotations

import json
import os

import pytest

from .asked import PartArguments
from .findings import Finding, Result

VARIABLE = "SHIFTPROOF_GPU_WITNESS"


class _Witness:
    def __init__(self, asked: PartArguments, shard: int, shards: int) -> None:
        self.asked, self.shard, self.shards = asked, shard, shards

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = items[self.shard :: self.shards]
        self.asked.ledger.plan(self.asked.part, [_name(item.nodeid) for item in items])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.asked.ledger.begin(self.asked.part, _name(nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            result, said = Result.PASSED, ""
        elif report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            result, said = Result.SKIPPED, reason.removeprefix("Skipped: ")
        elif report.failed:
            result = Result.WRONG if report.when == "call" else Result.NOT_RUN
            crash = getattr(report.longrepr, "reprcrash", None)
            said = str(getattr(crash, "message", report.longrepr)).splitlines()[0][:300]
        else:
            return
        finding = Finding(self.asked.part, _name(report.nodeid), result, said, round(report.duration, 1))
        self.asked.ledger.add(finding)


def _name(nodeid: str) -> str:
    """A test by its file and name, without the folders."""
    return nodeid.rpartition("/")[2]


def pytest_configure(config: pytest.Config) -> None:
    told = json.loads(os.environ[VARIABLE])
    config.pluginmanager.register(
        _Witness(PartArguments(**told["asked"]), told["shard"], told["shards"]), "gpu-witness"
    )
