"""Many targets, some of which misbehave."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .command import BREAKING, CANDIDATES, MISBEHAVING, Run


@pytest.mark.slow
def test_all_are_judged_whatever_one_of_them_does(run: Run, files: Path) -> None:
    (files / "broken.py").write_text("raise RuntimeError('no import for you')\n")
    names = ("segfaults", "hangs", "exits", "returns_none")
    targets = [f"{MISBEHAVING}:{name}" for name in names]
    ran = run(
        *("check", *targets, "broken.py:broken", "good.py:loss"),
        *("--spec", "hf.causal_lm", "--deadline", "1", "--json", "r.json", "--seed", "0", "--pytest", "-k", "CONTRACT"),
    )
    assert ran.code == 1
    found = {}
    for name, candidate in ran.candidates.items():
        first = next((law for law in candidate["laws"] if law["verdict"] not in ("pass", "skip")), None)
        found[name] = (candidate["verdict"], first and first["verdict"])
        message = first["message"] if first else candidate["message"]
        assert {
            "segfaults": "was killed by SIGSEGV",
            "hangs": "did not finish within 1 s",
            "exits": "exited with code 3",
            "returns_none": "returned None; expected a tensor",
            "broken": "raised RuntimeError: no import for you",
            "loss": "left out by the choice of laws",
        }[name] in message
        if first is not None and name not in ("broken", "loss"):
            assert first["id"] == "CONTRACT-1"
            assert first["counterexample"] is not None
    assert found == {
        "segfaults": ("fails", "crash"),
        "hangs": ("error", "timeout"),
        "exits": ("fails", "crash"),
        "returns_none": ("fails", "error"),
        "broken": ("error", "unjudged"),
        "loss": ("partial", "not_asked"),
    }
    assert ran.report["verdict"] == "fails"


@pytest.mark.representatives(1)
@pytest.mark.parametrize("order", [("writes_junk", "right"), ("right", "writes_junk")])
def test_one_that_cannot_be_asked_is_named_and_takes_nobody_with_it(run: Run, order: tuple[str, str]) -> None:
    targets = [f"{BREAKING}:{name}" for name in order]
    ran = run(
        "check", *targets, "--spec", "hf.causal_lm", "--json", "r.json", "--seed", "0", "--pytest", "-k", "CONTRACT"
    )
    assert ran.code == 3
    assert {name: each["verdict"] for name, each in ran.candidates.items()} == {
        "writes_junk": "error",
        "right": "partial",
    }
    told = ran.candidates["writes_junk"]["message"]
    assert told.startswith("CONTRACT-1, and 1 more of ")
    assert "could not be judged, because its own process failed" in told


def test_one_that_only_misses_its_deadline_could_not_be_judged(run: Run) -> None:
    ran = run(
        *(
            "check",
            f"{MISBEHAVING}:hangs",
            "--spec",
            "hf.causal_lm",
            "--deadline",
            "1",
            "--json",
            "r.json",
            "--seed",
            "0",
        ),
        *("--pytest", "-k", "CONTRACT"),
    )
    assert ran.code == 3
    (found,) = ran.candidates.values()
    assert found["verdict"] == "error"
    assert found["message"] == (
        "nothing failed but deadlines, CONTRACT-1 first: did not finish within 1 s; allow more time with --deadline"
    )
    assert next(law for law in found["laws"] if law["id"] == "CONTRACT-1")["counterexample"] is not None


COMPILED = CANDIDATES / "compiled.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    not (shutil.which("g++") or shutil.which("clang")), reason="no C++ compiler is here"
                ),
            ],
        ),
    ],
)
def test_a_compiled_loss_conforms_whatever_compiling_takes(run_apart: Run, name: str) -> None:
    ran = run_apart("check", f"{COMPILED}:{name}", "--spec", "hf.causal_lm", "--seed", "0", timeout=900)
    assert ran.code == 0, ran.out


def test_one_that_cannot_be_imported_could_not_be_judged(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module_anywhere\n")
    ran = run("check", "broken.py:loss", "--spec", "hf.causal_lm", "--json", "r.json")
    assert ran.code == 3
    assert "COULD NOT BE JUDGED" in ran.out
    assert "no_such_module_anywhere" in ran.candidates["loss"]["message"]
    assert ran.report["verdict"] == "error"
