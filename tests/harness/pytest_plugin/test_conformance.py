"""``shiftproof.conformance`` in a test file of one's own: a test of each law, which pytest treats as any other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

LOSSES = """
import torch.nn.functional as F

def right(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())

def wrong(logits, labels):
    return F.cross_entropy(logits[:, :-2].flatten(0, 1).float(), labels[:, 2:].flatten())
"""
TESTS = """
import shiftproof
from losses import right, wrong

def made(loss):
    return lambda logits, labels: loss(logits, labels)

test_right = shiftproof.conformance(made(right), spec="hf.causal_lm")
"""
SHORT = ("--shiftproof-profile", "brief", "--shiftproof-seed", "3")
BRIEF = (*SHORT, "--shiftproof-in-process")  # a process for the loss takes seconds to start


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "losses.py").write_text(LOSSES)
    (tmp_path / "test_mine.py").write_text(TESTS)
    return tmp_path


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def passed(output: str) -> int:
    found = re.search(r"(\d+) passed", output)
    return int(found[1]) if found else 0


def test_each_law_is_a_test_whose_id_can_be_pasted_back(suite: Path) -> None:
    listed = run(suite, "-q", "--collect-only").splitlines()
    assert "test_mine.py::test_right::ALIGN-1" in listed
    assert sum(line.startswith("test_mine.py::test_right::") for line in listed) > 60
    assert passed(run(suite, "-q", *BRIEF, "test_mine.py::test_right::ALIGN-1")) == 1
    assert passed(run(suite, "-q", *BRIEF, "test_mine.py::test_right")) > 25
    both = run(suite, "-q", *BRIEF, "-k", "ALIGN-1 or PURE-1")
    assert passed(both) == 2
    assert "PARTIAL" in both, "laws were left out"


def test_a_whole_run_of_a_right_loss_conforms(suite: Path) -> None:
    output = run(suite, "-q", *SHORT)
    assert "CONFORMS" in output
    assert "without protection" not in output
    assert "PARTIAL" not in output


def test_a_wrong_loss_fails_and_lf_and_x_do_what_they_do_elsewhere(suite: Path) -> None:
    file = suite / "test_mine.py"
    file.write_text(file.read_text() + 'test_wrong = shiftproof.conformance(wrong, spec="hf.causal_lm")\n')
    first = run(suite, "-q", *BRIEF, "-x", "test_mine.py::test_wrong", code=1)
    assert "1 failed" in first
    assert "double-shift" in first
    assert "row 0 logit 0" in first, "there is no picture"
    again = run(suite, "-q", *BRIEF, "--lf", code=1)
    assert "1 failed" in again
    assert passed(again) == 0
    file.write_text(TESTS + 'test_wrong = shiftproof.conformance(right, spec="hf.causal_lm")\n')
    assert passed(run(suite, "-q", *BRIEF, "--lf")) == 1


def test_an_expected_failure_has_a_reason_and_may_not_pass(suite: Path) -> None:
    file = suite / "test_mine.py"
    laws = "-k", "ALIGN-1 or PURE-1"
    expected = 'test_wrong = shiftproof.conformance(wrong, spec="hf.causal_lm", xfail={"%s": "we know"})\n'
    file.write_text(TESTS + expected % "ALIGN-1")
    output = run(suite, "-rx", *BRIEF, *laws)
    assert "1 xfailed" in output
    assert "we know" in output
    file.write_text(TESTS + expected % "PURE-1")
    assert "XPASS(strict)" in run(suite, "-q", *BRIEF, *laws, code=1)
    file.write_text(TESTS + expected % "ALIGN-11")
    refused = run(suite, "-q", *BRIEF, code=2)
    assert "xfail has 'ALIGN-11', which is not a law (did you mean 'ALIGN-1'?)" in " ".join(refused.split())


def test_what_cannot_be_judged_is_an_error_of_collection(suite: Path) -> None:
    (suite / "test_mine.py").write_text(TESTS.replace("hf.causal_lm", "hf.casual_lm"))
    output = " ".join(run(suite, "-q", code=2).split())
    assert "test_right: no spec is called 'hf.casual_lm' (did you mean 'hf.causal_lm'?)" in output


def test_arguments_that_no_case_has_fail_every_law(suite: Path) -> None:
    (suite / "test_mine.py").write_text(TESTS.replace("lambda logits, labels: loss(logits, labels)", "lambda q, r: 0"))
    output = run(suite, "-q", *BRIEF, "-k", "ALIGN-1 or PURE-1", code=1)
    assert "2 failed" in output
    assert "--rename logits=q --rename labels=r" in output


def test_junit_has_the_file_the_class_and_the_law(suite: Path) -> None:
    run(suite, "-q", *BRIEF, "-k", "ALIGN-1", "--junitxml=junit.xml", "-o", "junit_family=xunit1")
    [case] = ElementTree.parse(suite / "junit.xml").iter("testcase")
    assert case.get("classname") == "test_mine.test_right"
    assert case.get("name") == "ALIGN-1"
    assert (case.get("file"), case.get("line")) == ("test_mine.py", str(TESTS.splitlines().index(_line(TESTS))))


def _line(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("test_right"))


def test_in_several_processes_the_verdict_is_the_same(suite: Path) -> None:
    file = suite / "test_mine.py"
    file.write_text(file.read_text() + 'test_wrong = shiftproof.conformance(wrong, spec="hf.causal_lm")\n')
    laws = "-k", "ALIGN-1 or SELECT-1 or PURE-1"
    output = run(suite, "-q", "-n", "2", *BRIEF, *laws, code=1)
    assert (passed(output), "2 failed" in output) == (4, True)
    assert "double-shift" in output


def test_the_seed_of_hypothesis_is_the_seed(suite: Path) -> None:
    script = "import shiftproof\ndef test_seed(shiftproof): assert shiftproof._of_session['seed'] == 77\n"
    (suite / "test_mine.py").write_text(script)
    assert passed(run(suite, "-q", "--hypothesis-seed=77")) == 1
    assert passed(run(suite, "-q", "--hypothesis-seed=5", "--shiftproof-seed=77")) == 1


def test_a_class_dtypes_and_a_declared_name(suite: Path) -> None:
    (suite / "pyproject.toml").write_text(
        '[tool.shiftproof.candidates.text]\ncall = "losses:right"\nspec = "hf.causal_lm"\n'
    )
    (suite / "test_mine.py").write_text(
        "import shiftproof\n"
        "class TestText:\n"
        '    test_it = shiftproof.conformance("text", dtypes=["float32", "bfloat16"])\n'
    )
    output = run(suite, "-v", *BRIEF, "-k", "ALIGN-1")
    for dtype in ("float32", "bfloat16"):
        assert f"test_mine.py::TestText::test_it::ALIGN-1[{dtype}] PASSED" in output


def test_the_fixture_raises_for_a_wrong_loss(suite: Path) -> None:
    (suite / "test_mine.py").write_text(
        TESTS.replace("test_right =", "unused =").split("unused =")[0]
        + "def test_it(shiftproof): shiftproof.assert_conforms(made(wrong), spec='hf.causal_lm')\n"
        + "def test_right(shiftproof): assert shiftproof.check(made(right), spec='hf.causal_lm')\n"
        + "def test_what(shiftproof): assert 'double-shift' in str(shiftproof.identify(made(wrong)))\n"
    )
    output = run(suite, "-q", *BRIEF, code=1)
    assert (passed(output), "1 failed" in output, "double-shift" in output) == (2, True, True)


def test_an_empty_run_loads_nothing_of_it(suite: Path) -> None:
    (suite / "test_mine.py").write_text(
        "import sys\n"
        "def test_nothing():\n"
        "    assert not [name for name in sys.modules if name.startswith(('torch', 'shiftproof.harness.judge'))]\n"
    )
    assert passed(run(suite, "-q", "-p", "no:hypothesispytest")) == 1
