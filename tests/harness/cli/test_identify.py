"""The command identify."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftproof.harness.cli.main import main
from shiftproof.harness.diagnosis.identify import Identity

from .command import CANDIDATES, Run


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("hf_causal_lm", "[1,2,3,–] [5,6,7,–]", "computes hf.causal_lm: "),
        ("qwen3_tts_shifted_twice", "[2,3,–,–] [6,7,–,–]", "has the bug double-shift: CE(z_t, y_{t+2})"),
        ("git_flat_double_shift", "[2,3,5,–] [6,7,–,–]", "has the bug flat-double-shift: "),
        ("ms_swift_roll", "[1,2,3,0] [5,6,7,4]", "has the bug roll-wrap (the same as index-minus-one): "),
        ("axolotl_two_shards", "[1,–,3,–] [5,–,7,–]", "has the bug shard-then-shift: "),
        ("higgs_identity", "[0,1,2,3] [4,5,6,7]", "has the bug no-shift: CE(z_t, y_t)"),
    ],
)
def test_identify(capsys: pytest.CaptureFixture[str], name: str, found: str, said: str) -> None:
    assert main(["identify", f"{CANDIDATES / 'probe_table.py'}:{name}", "--in-process"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0] == f"labels [[0, 1, 2, 3], [4, 5, 6, 7]]: targets found {found}"
    assert said in out


def test_identify_what_is_no_loss(run: Run, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text("def loss(logits, labels):\n    raise ValueError('no loss today')\n")
    ran = run("identify", "odd.py:loss")
    assert (ran.code, ran.err) == (3, "")
    assert ran.out == "odd.py:loss could not be identified: it raised ValueError: no loss today\n"


def test_a_model_is_not_identified(run: Run) -> None:
    ran = run("identify", f"{CANDIDATES / 'models.py:Right'}")
    assert ran.code == 2
    assert "is a model, but only losses can be identified" in ran.err


@pytest.mark.parametrize(("not_judged", "code"), [({"hf.causal_lm": "its gradient, for it gives none"}, 3), ({}, 0)])
def test_identify_of_what_was_judged_in_part_is_open(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, not_judged: dict[str, str], code: int
) -> None:
    found = Identity(("hf.causal_lm",), (), None, not_judged=not_judged)
    monkeypatch.setattr("shiftproof.harness.diagnosis.identify.identify", lambda loaded: found)
    assert main(["identify", f"{CANDIDATES / 'misbehaving.py'}:returns_float", "--in-process"]) == code
    said = "    not judged: its gradient, for it gives none" in capsys.readouterr().out.splitlines()
    assert said == bool(not_judged)
