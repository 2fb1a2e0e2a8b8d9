"""The command on label builders, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shiftproof.harness.cli.main import main
from shiftproof.harness.report.json_report import SCHEMA
from shiftproof.reference.builders import BUILDERS

CANDIDATES = Path(__file__).parents[2] / "candidates" / "builders.py"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CANDIDATES, tmp_path / "mine.py")
    (tmp_path / "loss.py").write_text("def loss(logits, labels): return logits.sum()\n", encoding="utf-8")
    return tmp_path


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, which has imported torch already."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        return Ran(main(arguments), *capsys.readouterr())

    return run


def run_apart(*arguments: str) -> Ran:
    """A module in another process, without what the pytest that runs these tests put into the environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COVERAGE", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def report(path: str = "r.json") -> Any:
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    jsonschema.validate(found, json.loads(SCHEMA.read_text(encoding="utf-8")))
    return found


def test_from_the_verdict_to_the_replay_of_its_counterexample(run: Run, folder: Path) -> None:
    ran = run(
        *("check", "mine.py:fill_trained", "--spec", "delay.labels.boson", "--seed", "1"),
        *("--profile", "brief", "--json", "r.json"),
    )
    assert ran.code == 1, ran.out
    assert "mine.py:fill_trained against delay.labels.boson: DOES NOT CONFORM" in ran.out
    assert "row 0 codebook 1  expected · · 1 E" in ran.out
    assert "the bug is called fill-trained (before and after)" in ran.out
    (candidate,) = report()["candidates"]
    assert (candidate["verdict"], candidate["dtypes"], candidate["pairing"]) == ("fails", ["int64"], None)
    assert candidate["built"]["found"] == [[1024, 0, 1025, 1025], [1024, 1024, 1, 1025]]
    assert [bug["mutant"] for bug in candidate["diagnosis"]] == ["fill-trained"]
    (id,) = [law["counterexample"]["replay"] for law in candidate["laws"] if law["counterexample"]]

    again = run("replay", id)
    assert again.code == 1
    assert "FAILS: 4 of 8 places are wrong" in again.out
    source = (folder / "mine.py").read_text(encoding="utf-8")
    wrong, right = "delay_labels_filled(audio_codes, delays, bos_", "delay_labels_boson(audio_codes, delays, "
    assert source.count(f"return {wrong}") == 1
    fixed = source.replace(f"return {wrong}token_id, eos_token_id)", f"return {right}eos_token_id)")
    (folder / "mine.py").write_text(fixed, encoding="utf-8")
    mended = run("replay", id)
    assert (mended.code, "FIXED" in mended.out) == (0, True), mended.out


@pytest.mark.slow
def test_declared_candidates_of_both_kinds(run: Run, folder: Path) -> None:
    declared = (
        '[tool.shiftproof.candidates.{}]\ncall = "mine.py:{}"\nspec = "{}"\ndtypes = ["float32", "bfloat16"]\n{}\n'
    )
    (folder / "pyproject.toml").write_text(
        declared.format("right", "shift_pad", "shift.pad", "")
        + declared.format("wrong", "double_shift", "shift.pad", 'expect = "fails"\ndiagnosis = "double-shift"')
        + declared.format("renamed", "cross_document", "packing.labels", 'expect = "fails"')
        + '[tool.shiftproof.candidates.sum]\ncall = "loss.py:loss"\nspec = "hf.causal_lm"\nexpect = "fails"\n',
        encoding="utf-8",
    )
    ran = run("check", "--json", "r.json", "--pytest", "-k", "BUILD or CONTRACT or ALIGN-1")
    assert ran.code == 0, ran.out
    assert "all 4 are as expected" in ran.out
    found = {each["candidate"]: (each["verdict"], each["dtypes"]) for each in report()["candidates"]}
    integers = {name: ("conforms" if name == "right" else "fails", ["int64"]) for name in ("right", "wrong", "renamed")}
    assert found == {**integers, "sum": ("fails", ["float32", "bfloat16"])}


DECLARED = (
    '[tool.shiftproof.candidates.x]\ncall = "renamed.py:build"\nspec = "shift.trim"\nrename = { input_ids = "ids" }\n'
)
JUDGED = {**{f"BUILD-{number}": "pass" for number in range(1, 7)}, "BUILD-7": "skip"}


@pytest.fixture
def renamed() -> tuple[str, ...]:
    """The arguments of a check of a builder whose argument has another name."""
    Path("renamed.py").write_text("def build(ids): return ids[:, 1:]\n", encoding="utf-8")
    Path("c.toml").write_text(DECLARED, encoding="utf-8")
    return ("check", "x", "--config", "c.toml", "--profile", "brief", "--json", "r.json")


def test_a_rename(run: Run, renamed: tuple[str, ...]) -> None:
    ran = run(*renamed)
    assert ran.code == 0, ran.out + ran.err
    assert {law["id"]: law["verdict"] for law in report()["candidates"][0]["laws"]} == JUDGED


@pytest.mark.slow
def test_another_process_for_each_law(renamed: tuple[str, ...]) -> None:
    ran = run_apart("shiftproof", *renamed, "--pytest", "-n", "2")
    assert ran.code == 0, ran.out + ran.err
    assert {law["id"]: law["verdict"] for law in report()["candidates"][0]["laws"]} == JUDGED


def test_under_pytest() -> None:
    Path("test_nothing.py").write_text("", encoding="utf-8")
    arguments = ("pytest", "-p", "no:cacheprovider", "--shiftproof-spec", "mask.padding", "--shiftproof-json", "r.json")
    arguments += ("--shiftproof-profile", "brief")
    ran = run_apart(
        *arguments, "--shiftproof", "mine.py:mask_padding", "--shiftproof", "mine.py:eos_masked", "-k", "BUILD-3"
    )
    assert ran.code == 1, ran.out
    assert "1 failed, 1 passed" in ran.out
    assert "BUILD-3 (MUST) every place holds the id" in ran.out
    assert "the bug is called eos-masked" in ran.out
    assert [each["verdict"] for each in report()["candidates"]] == ["partial", "fails"]


def test_a_builder_that_dies_is_a_verdict(run: Run) -> None:
    Path("dies.py").write_text("import os\ndef build(input_ids): os._exit(3)\n", encoding="utf-8")
    ran = run("check", "dies.py:build", "--spec", "shift.pad", "--profile", "brief", "--json", "r.json")
    assert ran.code == 1
    laws = report()["candidates"][0]["laws"]
    assert [(law["id"], law["verdict"]) for law in laws][:2] == [("BUILD-1", "crash"), ("BUILD-2", "skip")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "mine.py:shift_pad", "--spec", "shift.pads"), "did you mean 'shift.pad'?"),
        (("check", "mine.py:shift_pad"), "builds labels, but only losses can be identified"),
        (("identify", "mine.py:delay_undo"), "builds labels, but only losses can be identified"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    ("target", "spec", "words"),
    [
        ("mine.py:delay_undo", "delay.apply", "'delayed_codes', which a builder under delay.apply is not given"),
        ("mine.py:delay_undo", "hf.causal_lm", "'delayed_codes', which a loss is not given"),
        ("loss.py:loss", "shift.pad", "'logits', which a builder under shift.pad is not given"),
    ],
)
def test_arguments_that_do_not_fit_are_told_before_any_work(run: Run, target: str, spec: str, words: str) -> None:
    ran = run("check", target, "--spec", spec)
    assert ran.code == 2
    assert words in ran.err


def test_lists_have_a_part_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    for what, words in {
        "profiles": list(BUILDERS),
        "laws": [f"BUILD-{number}" for number in range(1, 8)],
        "mutants": ["fill-trained", "prompt-by-column"],
        "arguments": ["delayed_codes", "assistant_turns"],
    }.items():
        assert main(["list", what]) == 0
        losses, builders = capsys.readouterr().out.split("\nlabel builders\n")
        assert [word for word in words if word not in builders] == []
        assert [word for word in words if f"\n{word} " in losses] == []
