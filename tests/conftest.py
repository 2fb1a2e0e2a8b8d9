"""Which device is the GPU; and what the soak adds up to: how many cases of right losses were judged, in all processes
together."""

from __future__ import annotations

import os

import pytest

STAND_IN = os.environ.get("SHIFTPROOF_GPU_STAND_IN", "")


@pytest.fixture(scope="session")
def gpu() -> str:
    """The device of tests that need a GPU: cuda; or the CPU, which stands in for it in a dry run of tests/gpu."""
    return STAND_IN or "cuda"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked or STAND_IN:
        return
    from shiftproof.harness.worker.device import cuda_devices

    if not cuda_devices():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = [
        int(str(value))
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "right cases"
    ]
    if counts:
        terminalreporter.write_line(f"{sum(counts)} cases of right losses judged, in {len(counts)} trials")
