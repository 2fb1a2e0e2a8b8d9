"""What a check prints, and where: more, less, in ASCII, and beside JSON on standard output."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from shiftproof.harness.report.json_report import SCHEMA

from .command import EXTRA, GOOD_CHECK, Run

BAD_CHECK = ("check", "bad.py:loss", "--spec", "hf.causal_lm", "--in-process", "--seed", "0")
FEW = ("--pytest", "-k", "CONTRACT-1 or ALIGN-1")


def test_a_pass_takes_three_lines(run: Run, files: Path) -> None:
    ran = run(*GOOD_CHECK)
    assert ran.code == 0
    _, verdict, covers = ran.out.splitlines()
    assert verdict.startswith("good.py:loss against hf.causal_lm: CONFORMS · cpu · float32, bfloat16 · ")
    assert "under loss scale, no_grad" in covers
    assert max(map(len, ran.out.splitlines())) <= 120


def test_a_failure_fits_a_screen_and_begins_with_its_picture(run: Run, files: Path) -> None:
    ran = run(*BAD_CHECK)
    told = ran.out.splitlines()
    assert ran.code == 1
    assert len(told) <= 40
    order = ("pairing of logits", "● right", "smallest counterexample", "the bug is called double-shift", "again:")
    found = [next(index for index, line in enumerate(told) if words in line) for words in order]
    assert found == sorted(found)


def test_more_and_less(run: Run, files: Path) -> None:
    def told(*more: str) -> str:
        return run(*BAD_CHECK, *more, *FEW).out

    assert told("-q").count("\n") == 1
    assert "double-shift" in told("--quiet")
    assert "every logit row" not in told()
    assert "CONTRACT-1" not in told()
    assert "CONTRACT-1" in told("-v")
    assert "a second;" not in told("-v")
    assert "a second;" in told("-vv")
    assert "left out by the choice of laws" in told("-vv")


def test_more_and_less_at_once_is_a_mistake(run: Run, files: Path) -> None:
    ran = run(*BAD_CHECK, "-v", "-q")
    assert ran.code == 2
    assert "give one of them" in ran.err


def test_json_on_standard_output(run: Run, files: Path) -> None:
    ran = run(*BAD_CHECK, "--json", "-", *FEW)
    assert ran.code == 1
    report = json.loads(ran.out)
    jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert report["verdict"] == "fails"
    assert "the bug is called double-shift" in ran.err
    assert not (files / "-").exists()


def test_ascii_where_nothing_else_can_be_printed(run_apart: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRA, "PYTHONIOENCODING", "ascii")
    ran = run_apart(*BAD_CHECK, "-vv", "--json", "r.json", *FEW)
    assert ran.code == 1
    assert ran.err == ""
    assert ran.out.isascii()
    assert "row 0 logit 0  -  o  x" in ran.out
    assert "# right   o missing   x wrong   - no target" in ran.out
    assert run_apart("check", "--help").out.isascii()
    told = run_apart("check", "bäd.py:loss", "--spec", "sum")
    assert told.code == 2
    assert told.err.isascii()


def test_a_terminal_without_colour(run_apart: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRA, "FORCE_COLOR", "1")
    assert "\x1b[1" in run_apart(*BAD_CHECK, *FEW).out
    monkeypatch.setitem(EXTRA, "NO_COLOR", "1")
    assert "\x1b[31" not in run_apart(*BAD_CHECK, *FEW).out
