"""How wide a console is."""

from __future__ import annotations

import pytest

from shiftproof.harness.report.console import new_console


def test_a_pipe_is_wide_enough_for_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    assert new_console().width == 120


def test_columns_are_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert new_console().width == 77
