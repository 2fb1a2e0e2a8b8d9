"""What of a candidate's own code never ran is said, and is no part of a CONFORMS."""

from __future__ import annotations

from pathlib import Path

import pytest

from .command import CANDIDATES, GOOD, Run

DOORS = CANDIDATES / "doors.py"
HALF = "in_half(logits.dtype == torch.float16)"


def check(name: str, *more: str, spec: str = "hf.causal_lm") -> tuple[str, ...]:
    return ("check", f"{DOORS}:{name}", "--spec", spec, "--seed", "0", "--json", "r.json", *more)


def test_a_branch_that_never_ran_is_named(run: Run) -> None:
    ran = run(*check("in_half"))
    assert ran.code == 0
    assert "CONFORMS, except doors.py:" in ran.out
    assert "(logits.dtype == torch.float16 never true)" in run(*check("in_half", "-v")).out
    (found,) = ran.report["candidates"]
    assert found["verdict"] == "conforms"
    assert [each.partition(" ")[2] for each in found["branches"]["exceptions"]] == [
        "(logits.dtype == torch.float16 never true)"
    ]


def test_all_branches_leave_the_verdict_open(run: Run) -> None:
    ran = run(*check("in_half", "--branches", "all"))
    assert ran.code == 3
    (found,) = ran.report["candidates"]
    assert found["verdict"] == "inconclusive"
    assert f"--allow 'branch={HALF}: why'" in found["message"]


def test_a_branch_that_is_declared_away(run: Run) -> None:
    ran = run(*check("in_half", "--branches", "all", "--allow", f"branch={HALF}: nobody trains in it"))
    assert ran.code == 0
    (found,) = ran.report["candidates"]
    assert found["branches"]["exceptions"] == []
    assert any("nobody trains in it" in each for each in found["scope"])


@pytest.mark.parametrize(
    "key", ["in_half(logits.dtype == torch.float64)", "other(logits.dtype == torch.float16)", "not read"]
)
def test_a_declaration_that_matches_no_branch_is_stale(run: Run, key: str) -> None:
    ran = run(*check("in_half", "--allow", f"branch={key}: why"))
    assert ran.code == 2
    assert "matches nothing" in ran.out


def test_a_declaration_of_a_branch_that_runs_both_ways_is_stale(run: Run, files: Path) -> None:
    text = GOOD.replace("    return", "    if len(labels) > 1:\n        labels = labels + 0\n    return")
    (files / "two.py").write_text(text)
    ran = run("check", "two.py:loss", "--spec", "hf.causal_lm", "--allow", "branch=loss(len(labels) > 1): why")
    assert ran.code == 2


def test_code_that_cannot_be_read_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "made.py").write_text(f"exec({GOOD!r})")
    ran = run("check", "made.py:loss", "--spec", "hf.causal_lm", "--json", "r.json")
    assert ran.code == 0
    assert "except its branches, which were not read" in ran.out
    arguments = ("check", "made.py:loss", "--spec", "hf.causal_lm", "--branches", "all")
    assert run(*arguments).code == 3
    assert run(*arguments, "--allow", "branch=not read: it is generated").code == 0


def test_the_judges_own_process_reads_no_branches(run: Run) -> None:
    ran = run(*check("in_half", "--in-process"))
    why = "its branches, which were not read: it runs in the judge's own process"
    assert ran.report["candidates"][0]["branches"]["exceptions"] == [why]
    assert run(*check("in_half", "--in-process", "--branches", "all")).code == 3


@pytest.mark.slow
def test_both_halves_of_a_run_know_what_ran(run: Run) -> None:
    one = run(*check("takes_weights", "--profile", "quick"))
    other = run(*check("takes_weights", "--profile", "quick", "--pytest", "-n", "2"))
    assert (
        one.candidates["takes_weights"]["branches"]["found"] == other.candidates["takes_weights"]["branches"]["found"]
    )


def _table(name: str) -> dict[str, str]:
    namespace: dict[str, dict[str, str]] = {}
    text = DOORS.read_text(encoding="utf-8")
    exec(text[text.index("FOUND = ") : text.index("def _right")], namespace)
    return namespace[name]


def test_a_door_that_a_size_opens(run: Run) -> None:
    ran = run(*check("long_rows_of_a_batch", "--profile", "quick", "--pytest", "-k", "VALUE-1"))
    assert ran.code == 1
    (found,) = [law for law in ran.report["candidates"][0]["laws"] if law["id"] == "VALUE-1"]
    assert found["counterexample"]["recipe"]["rows"] == 2
    assert found["counterexample"]["recipe"]["length"] == 301


# In float32, `nox -s branches` judges all of them.


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spec"), _table("FOUND").items())
def test_every_door_that_can_be_opened_is(run: Run, name: str, spec: str) -> None:
    dtype = "float32" if name == "large_vocabulary" else "bfloat16"  # a cast to bfloat16 is no bug in bfloat16
    assert run(*check(name, "--profile", "quick", "--dtype", dtype, spec=spec)).code == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), [*_table("NAMED").items(), *_table("RIGHT").items()])
def test_every_other_door_is_named_and_what_is_right_conforms(run: Run, name: str, words: str) -> None:
    ran = run(*check(name, "--profile", "quick", "--dtype", "bfloat16"))
    (found,) = ran.report["candidates"]
    assert ran.code == 0
    if words:
        assert any(words in each for each in found["branches"]["exceptions"])
    else:
        assert found["branches"]["exceptions"] == []


def wrong_from(length: int) -> str:
    """A loss that is wrong from a length on that `brief` has no case of."""
    return GOOD.replace("    return", f"    if len(labels[0]) >= {length}:\n        labels = labels * 0\n    return")


def test_the_shapes_of_the_user_are_judged(run: Run, files: Path) -> None:
    (files / "long.py").write_text(wrong_from(150))
    arguments = ("check", "long.py:loss", "--spec", "hf.causal_lm", "--seed", "0", "--profile", "brief")
    assert run(*arguments).code == 0
    assert run(*arguments, "--shape", "2,150,3").code == 1


def test_a_shape_without_the_memory_for_it_leaves_the_verdict_open(run: Run, files: Path) -> None:
    ran = run("check", "good.py:loss", "--spec", "hf.causal_lm", "--json", "r.json", "--shape", "4096,65536,128256")
    assert ran.code == 3
    (found,) = ran.report["candidates"]
    assert found["verdict"] == "inconclusive"
    assert "the shape 4096,65536,128256: that takes" in found["message"]


@pytest.mark.slow
def test_shapes_are_declared(run: Run, files: Path) -> None:
    (files / "long.py").write_text(wrong_from(700))
    declared = (
        '[tool.shiftproof.candidates.long]\ncall = "long.py:loss"\nspec = "hf.causal_lm"\nshapes = ["2,700,11"]\n'
    )
    (files / "pyproject.toml").write_text(declared)
    assert run("check", "--seed", "0", "--profile", "brief").code == 1


def test_a_model_has_no_shapes_of_logits(run: Run, files: Path) -> None:
    (files / "model.py").write_text((CANDIDATES.parents[1] / "examples" / "tiny_models.py").read_text())
    ran = run("check", "model.py:Decoder", "--spec", "hf.causal_lm", "--json", "r.json", "--shape", "2,8,100")
    assert ran.code == 3
    assert "it makes its own logits" in ran.report["candidates"][0]["message"]
