"""How wide a console is, and where it writes to."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from shiftproof.harness.report.console import new_console


def test_a_pipe_is_wide_enough_for_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    assert new_console().width == 120


def test_columns_are_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "77")
    assert new_console().width == 77


def test_a_terminal_is_written_to_while_its_descriptor_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, descriptor = pty.openpty()
    captured, elsewhere = os.pipe()
    with os.fdopen(descriptor, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        console = new_console()
        os.dup2(elsewhere, descriptor)
        console.print("told")
        assert console.is_terminal
        assert b"told" in os.read(terminal, 99)
        console.file.close()
    for each in (terminal, captured, elsewhere):
        os.close(each)


def test_a_pipe_is_not_copied(capsys: pytest.CaptureFixture[str]) -> None:
    new_console().print("out")
    new_console(stderr=True).print("err")
    assert capsys.readouterr() == ("out\n", "err\n")
