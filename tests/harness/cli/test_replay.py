"""The command replay."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.cli.main import main

from .command import DOUBLE_SHIFT, GOOD, Run, one_sentence, shows


def test_replay(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(DOUBLE_SHIFT)
    checked = run(
        *("check", "mine.py:loss", "--spec", "hf.causal_lm", "--json", "r.json", "--seed", "0"),
        *("--pytest", "-k", "ALIGN-1"),
    )
    (law,) = (law for law in checked.candidates["loss"]["laws"] if law["id"] == "ALIGN-1")
    id = law["counterexample"]["replay"]
    assert f"shiftproof replay {id}" in checked.out

    ran = run("replay", id)
    assert (ran.code, ran.err) == (1, "")
    first, last = ran.out.splitlines()
    assert first.startswith("mine.py:loss against hf.causal_lm, ALIGN-1: {")
    assert last == f"FAILS: {law['message']}"

    monkeypatch.chdir(tmp_path)
    file.write_text(GOOD)
    assert main(["replay", id, "--in-process"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "FIXED: the case passes ALIGN-1 now"

    file.write_text("raise ValueError('half edited')\n")
    assert main(["replay", id, "--in-process"]) == 3
    assert shows(capsys.readouterr().out.splitlines()[-1], "ERROR: ", "ValueError: half edited")

    file.write_text("def another(logits, labels): ...\n")
    assert main(["replay", id, "--in-process"]) == 2
    assert shows(one_sentence(capsys.readouterr().err), "mine.py has no attribute 'loss'")
