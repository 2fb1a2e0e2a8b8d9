"""What the soak adds up to: how many cases of right losses were judged, in all processes together."""

from __future__ import annotations

import pytest


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
