"""The command check: its seeds and options."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from .command import DOUBLE_SHIFT, GOOD, GOOD_CHECK, MISBEHAVING, Run, environment, read_report

TIMES = {"seconds", "seconds_in_candidate", "seconds_in_oracle"}


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_a_seed_fixes_what_is_drawn(run: Run, tmp_path: Path) -> None:
    log = '    print(tuple(logits.shape), logits.double().sum().item(), file=open("seen.txt", "a"))\n'
    (tmp_path / "logs.py").write_text(DOUBLE_SHIFT.replace("labels):\n", f"labels):\n{log}"))
    reports, drawn = [], []
    for seed in ("5", "5", "6"):
        ran = run(
            *("check", "logs.py:loss", "--spec", "hf.causal_lm", "--json", "r.json", "--seed", seed),
            *("--profile", "quick", "--in-process", "--pytest", "-k", "CONTRACT-1 or ALIGN-1"),
        )
        assert ran.code == 1
        assert f"seed {seed} " in ran.out.splitlines()[0]
        reports.append(timeless(ran.report))
        drawn.append((tmp_path / "seen.txt").read_text().splitlines())
        (tmp_path / "seen.txt").unlink()
    assert reports[0] == reports[1]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0]) - set(drawn[2])) > 30


def test_in_process(run: Run, tmp_path: Path) -> None:
    where = '    print(__import__("os").getpid(), file=open("seen.txt", "a"))\n'
    (tmp_path / "where.py").write_text(GOOD.replace("labels):\n", f"labels):\n{where}"))
    ran = run(
        *("check", "where.py:loss", "--spec", "hf.causal_lm", "--in-process", "--json", "r.json"),
        *("--pytest", "-k", "CONTRACT-1 or GRAD-3"),
    )
    assert ran.code == 3
    assert set((tmp_path / "seen.txt").read_text().split()) == {str(os.getpid())}


def test_a_metric_is_judged_by_its_value_alone(run: Run) -> None:
    metric = f"{MISBEHAVING}:returns_float"
    laws = ("--in-process", "--profile", "brief")
    ran = run("check", metric, "--spec", "hf.causal_lm", "--no-gradient", "--json", "r.json", "--seed", "0", *laws)
    found = {law["id"]: law for law in ran.candidates["returns_float"]["laws"]}
    assert ran.code == 0, ran.out
    assert found["ALIGN-2"]["verdict"] == found["VALUE-1"]["verdict"] == "pass"
    assert found["GRAD-1"]["verdict"] == found["ALIGN-1"]["verdict"] == "skip"
    assert "without a gradient" in found["GRAD-1"]["message"]
    assert ran.candidates["returns_float"]["scope"] == ["only its value, as declared (gradient = false)"]


def test_another_interpreter(run: Run, files: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One in which only torch, what torch needs, and safetensors can be imported."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    needs = ("torch", "torchgen", "functorch", "safetensors", "sympy", "mpmath", "networkx", "filelock", "fsspec")
    for name in (*needs, "jinja2", "markupsafe", "typing_extensions"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        found = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        (packages / found.name).symlink_to(found)
    python = folder / "bin" / "python"
    (files / "good.py").write_text(f"import sys\nassert sys.prefix == {str(folder)!r}\n{GOOD}")
    ran = run(*GOOD_CHECK, "--python", str(python), "--json", "r.json", "--profile", "brief")
    assert ran.code == 0, ran.out


def test_an_interpreter_that_is_not_there(run: Run, files: Path) -> None:
    ran = run(*GOOD_CHECK, "--python", "/no/such/python")
    assert ran.code == 3
    assert "the interpreter /no/such/python does not exist" in ran.out


def test_junit_and_a_selection_of_laws(run: Run, files: Path) -> None:
    ran = run(
        *("check", "bad.py:loss", "--spec", "hf.causal_lm", "--json", "r.json"),
        *("--junit", "j.xml", "--seed", "0", "--in-process", "--pytest", "-k", "CONTRACT-1 or ALIGN-1"),
    )
    assert ran.code == 1
    asked = [law["id"] for law in ran.candidates["loss"]["laws"] if law["verdict"] != "not_asked"]
    assert asked == ["CONTRACT-1", "ALIGN-1"]
    (suite,) = ElementTree.parse(files / "j.xml").getroot()
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "2",
        "failures": "1",
        "errors": "0",
    }
    (failure,) = suite.iter("failure")
    assert "ALIGN-1 (MUST)" in (failure.text or "")


@pytest.mark.slow
def test_several_processes_find_the_same(run: Run, files: Path) -> None:
    laws = "CONTRACT or ALIGN-1 or PURE-1"
    arguments = ("check", "bad.py:loss", "good.py:loss", "--spec", "hf.causal_lm", "--json", "r.json", "--seed", "0")
    found = []
    for parallel in ((), ("--jobs", "2")):
        ran = run(*arguments, *parallel, "--pytest", "-k", laws)
        assert ran.code == 1
        assert ran.err == ""
        assert "seed 0 " in ran.out.splitlines()[0]
        found.append(
            {
                (candidate["candidate"], law["id"]): law["verdict"]
                for candidate in ran.report["candidates"]
                for law in candidate["laws"]
            }
        )
        assert [candidate["verdict"] for candidate in ran.report["candidates"]] == ["fails", "partial"]
    assert found[0] == found[1]


@pytest.mark.slow
def test_several_processes_cover_the_same(run: Run, files: Path) -> None:
    arguments = ("check", "good.py:loss", "--spec", "torchtune", "--json", "r.json", "--seed", "0")
    found = []
    for parallel in ((), ("-n", "2")):
        ran = run(*arguments, "--pytest", "-k", "ALIGN-1 or STABLE", *parallel)
        assert ran.code == 3
        found.append(ran.candidates["loss"]["coverage"])
    assert found[0] == found[1]
    assert 0 < found[0]["hit"] < found[0]["demanded"]  # the laws that were not asked have cells too
    assert found[0]["due_after"] is None


def test_a_cell_that_no_case_was_drawn_of_is_named_and_leaves_the_verdict_open(files: Path) -> None:
    """Nothing is drawn beyond the hand-made cases, and nothing fills the gaps."""
    script = """
from shiftproof.harness.judge import ask, profile
from shiftproof.harness.cli.main import main
profile.PROFILES["ci"] = profile.Profile("ci", 0.1, seed=0, complete=True)
ask.gaps = lambda law, trial: ()
raise SystemExit(main(["check", "good.py:loss", "--spec", "torchtune", "--profile", "ci", "--json", "r.json"]))
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(
        command, cwd=files, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 3, ran.stderr
    assert "INCONCLUSIVE" in ran.stdout
    assert "the judgement is not complete; there was no case of:" in ran.stdout
    (candidate,) = read_report(files / "r.json")["candidates"]
    assert candidate["verdict"] == "inconclusive"
    assert not [law for law in candidate["laws"] if law["level"] == "MUST" and law["verdict"] not in ("pass", "skip")]
    assert "last label alone × nan_valid × float32 × mean" in candidate["coverage"]["missing"]
    assert candidate["coverage"]["hit"] + len(candidate["coverage"]["missing"]) == candidate["coverage"]["demanded"]


def test_stopping_at_the_first_failure_still_says_what_it_was(run: Run, files: Path) -> None:
    ran = run("check", "bad.py:loss", "--spec", "hf.causal_lm", "--in-process", "--pytest", "-x")
    assert ran.code == 1
    assert "ALIGN-1" in ran.out


@pytest.mark.peers
def test_the_loss_of_transformers_conforms(run: Run) -> None:
    target = "transformers.loss.loss_utils:ForCausalLMLoss"
    ran = run("check", target, "--spec", "hf.causal_lm", "--profile", "quick", "--json", "r.json")
    assert ran.code == 0, ran.out
    assert ran.report["cases"] >= 1000
