"""The command speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.cli.main import main

from .command import GOOD, Run


@pytest.mark.timed
def test_speed_is_a_gate_with_exit_codes(run: Run, tmp_path: Path) -> None:
    """A loss that does its work four times over is no match for what it is allowed; one that may take that long is."""
    (tmp_path / "losses.py").write_text(
        GOOD + "\ndef slow(logits, labels):\n    return sum(loss(logits, labels) for _ in range(4)) / 4\n"
    )
    shape = ("--spec", "hf.causal_lm", "--against", "eager", "--shape", "1,64,8192", "--deadline", "20", "--times-only")
    ran = run("speed", "losses.py:slow", *shape, "--max-slowdown", "1.5", "--json", "slow.json")
    assert ran.code == 1, ran.out
    assert "FAILS" in ran.out
    assert ran.report["trials"][0]["outcome"] == "slower"
    ran = run("speed", "losses.py:slow", *shape, "--max-slowdown", "20")
    assert ran.code == 0, ran.out
    assert "PASSES" in ran.out


def test_speed_refuses_a_loss_that_makes_its_logits_itself(run: Run, tmp_path: Path) -> None:
    (tmp_path / "losses.py").write_text(
        GOOD + "\ndef fused(hidden_states, lm_head_weight, labels):\n"
        "    return loss(hidden_states @ lm_head_weight.T, labels)\n"
    )
    shape = ("--spec", "hf.causal_lm", "--against", "eager", "--shape", "1,8,64", "--deadline", "5", "--times-only")
    ran = run("speed", "losses.py:fused", *shape)
    assert ran.code == 2, ran.out
    assert "makes its logits itself, from hidden_states" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no spec to be timed under"),
        (("--spec", "hf.causal_lm", "--shape", "2,3"), "no shape is called '2,3'"),
        (("--spec", "musicgen", "--shape", "2,8,16"), "has codebooks"),
        (("--spec", "hf.causal_lm", "--max-slowdown", "0"), "--max-slowdown is 0.0"),
        (("--spec", "hf.causal_lm", "--deadline", "-1"), "--deadline is -1.0"),
        (("--spec", "hf.causal_lm", "--threads", "0"), "--threads is 0"),
        (("--spec", "hf.causal_lm", "--times-only", "--max-memory", "2"), "drop one"),
        (("--spec", "hf.causal_lm", "--against", "yardstik"), "neither a declared candidate"),
        (("--spec", "medusa", "--against", "eager"), "heads that predict ahead"),
        (
            (
                "--spec",
                "delay.labels.boson",
            ),
            "label builders",
        ),
        (
            (
                "--spec",
                "per_token",
            ),
            "one number per label",
        ),
        (("--spec", "hf.causal_lm", "--pass", "sideways"), "is not one of forward, backward, both"),
    ],
)
def test_speed_refuses_what_it_cannot_time(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.py").write_text(GOOD)
    try:
        code = main(["speed", "losses.py:loss", *arguments])
    except SystemExit as exit_request:
        code = int(exit_request.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
