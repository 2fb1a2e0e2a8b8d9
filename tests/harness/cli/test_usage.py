"""What cannot be done is said in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shiftproof.harness.cli.main import main

from .command import GOOD_CHECK, Run, one_sentence, shows


@pytest.fixture
def told(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one sentence on stderr of a command that exits with 2. In this process, since it stops before any work."""

    def told(*arguments: str) -> str:
        monkeypatch.chdir(files)
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(str(stop.code))
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        return one_sentence(err)

    return told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "good.py:loss", "--spec", "hf.casual_lm"), ("'hf.casual_lm'", "did you mean 'hf.causal_lm'?")),
        (("check", "goood.py:loss", "--spec", "sum"), ("goood.py does not exist", "did you mean 'good.py'?")),
        (("check", "good.py", "--spec", "sum"), ("good.py:my_loss",)),
        (("check", "text", "--spec", "sum"), ("'text' is neither a declared candidate nor", "path/file.py:attribute")),
        (("check",), ("nothing to judge", "TARGET")),
        (("check", "--config", "no.toml"), ("no.toml does not exist",)),
        ((*GOOD_CHECK, "--dtype", "bfloat61"), ("'bfloat61'", "did you mean 'bfloat16'?")),
        ((*GOOD_CHECK, "--device", "cdua"), ("'cdua'", "did you mean 'cuda'?")),
        ((*GOOD_CHECK, "--profile", "quik"), ("'quik'", "did you mean 'quick'?")),
        ((*GOOD_CHECK, "--precision", "stict"), ("'stict'", "did you mean 'strict'?")),
        ((*GOOD_CHECK, "--seed", "-1"), ("seed is -1", "from 0 up")),
        ((*GOOD_CHECK, "--seed", "one"), ("--seed", "'one'")),
        ((*GOOD_CHECK, "--deadline", "0"), ("deadline is 0", "above 0")),
        ((*GOOD_CHECK, "--deadline", "nan"), ("deadline is nan", "above 0")),
        ((*GOOD_CHECK, "--json", "no/where.json"), ("no/where.json", "does not exist")),
        ((*GOOD_CHECK, "--sede", "1"), ("--sede", "did you mean '--seed'?")),
        ((*GOOD_CHECK, "--shape", "8x4096"), ("'8x4096'", "B,S,V or B,S,K,V")),
        ((*GOOD_CHECK, "--shape", "2,8,4,100"), ("2,8,4,100", "hf.causal_lm has no codebooks")),
        ((*GOOD_CHECK, "--in-process", "--jobs", "2"), ("--in-process judges in one process", "leave out")),
        ((*GOOD_CHECK, "--in-process", "--pytest", "-n", "2"), ("--in-process judges in one process", "leave out")),
        (("chekc",), ("'chekc'", "did you mean 'check'?")),
        (("list", "lawz"), ("'lawz'", "did you mean 'laws'?")),
        (("replay", "deadbeef"), ("no stored case 'deadbeef'",)),
        (("identify", "goood.py:loss"), ("goood.py does not exist", "did you mean 'good.py'?")),
        ((), ("missing command", "`shiftproof --help`")),
    ],
    ids=lambda value: " ".join(value)[-40:],
)
def test_usage(told: Callable[..., str], arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    err = told(*arguments)
    assert err.startswith("shiftproof: ")
    assert shows(err, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tool.shiftproof.candidates.x\n", ("pyproject.toml is not valid TOML", "line 1")),
        ('[tool.shiftproof.candidates.x]\ncall = "good.py:loss"\nspce = "sum"\n', ("'spce'", "did you mean 'spec'?")),
        ('[tool.shiftproof.candidates.x]\nspec = "sum"\n', ("has no call",)),
        ('[tool.shiftproof.candidates.x]\ncall = "good.py:loss"\nspec = "sun"\n', ("'sun'", "did you mean 'sum'?")),
        ('[tool.shiftproof.candidates.x]\ncall = "good.py:loss"\ndtypes = "float32"\n', ("dtypes", "TOML array")),
        ('[tool.shiftproof.candidates.x]\ncall = "good.py:loss"\nexpect = "fail"\n', ("'fail'", "'fails'")),
        ("[tool.shiftproof.candidate.x]\n", ("'candidate'", "did you mean 'candidates'?")),
    ],
    ids=["syntax", "key", "no call", "spec", "type", "value", "table"],
)
def test_usage_in_a_declaration(told: Callable[..., str], files: Path, text: str, words: tuple[str, ...]) -> None:
    (files / "pyproject.toml").write_text(text)
    assert shows(told("check"), *words)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("good.py:los", ("good.py has no attribute 'los'", "did you mean 'loss'?")),
        ("no_such_trainer.losses:text", ("no module 'no_such_trainer'",)),
        ("metric.py:needs", ("requires 'lables'", "did you mean 'labels'?", "rename")),
    ],
)
def test_usage_that_shows_once_the_target_is_loaded(run: Run, files: Path, target: str, words: tuple[str, ...]) -> None:
    (files / "metric.py").write_text("def needs(logits, lables): ...\n")
    ran = run("check", target, "--spec", "hf.causal_lm", "--in-process")
    assert ran.code == 2
    assert shows(one_sentence(ran.err), *words)


def test_a_mistake_of_usage_leaves_no_report(run: Run, files: Path) -> None:
    ran = run("check", "good.py:los", "--spec", "hf.causal_lm", "--in-process", "--json", "r.json")
    assert ran.code == 2
    assert ran.report is None


def test_a_selection_of_no_law_at_all_is_told(run: Run, files: Path) -> None:
    ran = run(*GOOD_CHECK, "--in-process", "--pytest", "-k", "nothing_like_it")
    assert ran.code == 2
    assert "nothing_like_it" in ran.err


def test_check_without_a_spec_says_what_it_could_be(run: Run, files: Path) -> None:
    ran = run("check", "bad.py:loss", "--in-process")
    assert ran.code == 2
    assert "targets found [2,3,–,–] [6,7,–,–]" in ran.out
    assert "has the bug double-shift" in ran.out
    assert shows(one_sentence(ran.err), "bad.py:loss has no spec", "--spec")
