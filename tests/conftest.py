"""Which tests run always and which in the soak; which device is the GPU; and how many cases of right losses the soak
judged, in all processes together."""

from __future__ import annotations

import os

import pytest

from shiftproof.harness.isolation.heap import give_back_large_blocks

STAND_IN = os.environ.get("SHIFTPROOF_GPU_STAND_IN", "")


def pytest_configure() -> None:
    give_back_large_blocks()


@pytest.fixture(scope="session")
def gpu() -> str:
    """The device of tests that need a GPU: cuda; or the CPU, which stands in for it in a dry run of tests/gpu."""
    return STAND_IN or "cuda"


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what -m does not choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    keep_representatives(items)
    skip_without_gpu(items)


def keep_representatives(items: list[pytest.Item]) -> None:
    """Of a test marked ``representatives(n)``, n parameter sets run always, evenly spread; the others are slow.

    What costs most and says nearly the same of many losses runs whole in `nox -s soak`.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("representatives"):
            groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for group in groups.values():
        (count,) = group[0].get_closest_marker("representatives").args  # type: ignore[union-attr]
        kept = {round(each * (len(group) - 1) / max(count - 1, 1)) for each in range(count)}
        for index, item in enumerate(group):
            if index not in kept:
                item.add_marker(pytest.mark.slow)


def skip_without_gpu(items: list[pytest.Item]) -> None:
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
