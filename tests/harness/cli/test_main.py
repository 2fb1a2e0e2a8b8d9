"""The command, as a user runs it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import shiftproof
from shiftproof.harness.cli.main import main
from shiftproof.harness.cli.main import shiftproof as shiftproof_command
from shiftproof.harness.report.json_report import SCHEMA
from shiftproof.harness.report.speed import SCHEMA as SPEED_SCHEMA

CANDIDATES = Path(__file__).parents[2] / "candidates"
MISBEHAVING = CANDIDATES / "misbehaving.py"
BREAKING = CANDIDATES / "breaking.py"

GOOD = """
import torch.nn.functional as F
def loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
"""
DOUBLE_SHIFT = GOOD.replace("[:, :-1]", "[:, :-2]").replace("[:, 1:]", "[:, 2:]")


@dataclass(frozen=True)
class Ran:
    """What a command did. ``report`` is its --json, valid by the schema."""

    code: int
    out: str
    err: str
    report: Any = None

    @property
    def candidates(self) -> dict[str, Any]:
        return {candidate["candidate"].rpartition(":")[2]: candidate for candidate in self.report["candidates"]}


Run = Callable[..., Ran]


EXTRA: dict[str, str] = {}  # variables that a test adds


def environment() -> dict[str, str]:
    """This one's, without what the pytest that runs these tests put into it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COVERAGE", "COV_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **EXTRA}


def briefly(*arguments: str) -> tuple[str, ...]:
    """The arguments; a check that names no profile draws few cases."""
    if arguments[:1] != ("check",) or "--profile" in arguments:
        return arguments
    return ("check", "--profile", "brief", *arguments[1:])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in tmp_path, in this process, which has imported torch already."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name not in environment()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(briefly(*arguments))
        return ran(tmp_path, arguments, code, *capsys.readouterr())

    return run


@pytest.fixture
def run_apart(tmp_path: Path) -> Run:
    """Run the command in tmp_path, in another process."""

    def run(*arguments: str, timeout: float = 300) -> Ran:
        command = [sys.executable, "-m", "shiftproof", *briefly(*arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )
        return ran(tmp_path, arguments, done.returncode, done.stdout, done.stderr)

    return run


def ran(folder: Path, arguments: tuple[str, ...], code: int, out: str, err: str) -> Ran:
    assert "Traceback" not in err, err
    path = folder / arguments[arguments.index("--json") + 1] if "--json" in arguments else None
    schema = SPEED_SCHEMA if arguments[0] == "speed" else SCHEMA
    report = read_report(path, schema) if path is not None and path.is_file() else None
    return Ran(code, out, err, report)


def read_report(path: Path, schema: Path = SCHEMA) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    jsonschema.validate(report, json.loads(schema.read_text(encoding="utf-8")))
    return report


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with one right and one wrong loss."""
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(DOUBLE_SHIFT)
    return tmp_path


# --- every known-wrong loss, under its own name -----------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """A wrong loss: its spec, and the most rows and the greatest length of the counterexample that tells it."""

    rows: int
    length: int
    spec: str = "hf.causal_lm"


WRONG = {
    # alignment
    "no_shift": Known(1, 2),
    "double_shift": Known(1, 3),
    "flat_double_shift": Known(2, 3),
    "aligned_shift": Known(1, 2, "hf.seq2seq"),
    "reverse_shift": Known(1, 3),  # T=2 tells it from right, T=3 from other bugs
    "flatten_then_shift": Known(2, 2),
    "roll_wrap": Known(1, 2),
    "tail_pad_target": Known(1, 2),
    "prefix_slice": Known(1, 3, "hf.prefix_lm"),
    "drop_first_response": Known(1, 2, "masked"),
    "drop_last_response": Known(1, 2, "masked"),
    "shard_then_shift": Known(1, 2),
    "index_minus_one": Known(1, 2),
    # selection
    "ignore_unused": Known(1, 3),
    "negative_label_wrap": Known(1, 2),
    "hardcoded_ignore": Known(1, 3),
    "eos_masked": Known(1, 3),
    "prompt_included": Known(1, 3),
    "cross_document": Known(1, 3, "packed.position_ids"),
    "segment_weight": Known(2, 6, "packed.segment_ids"),  # 2×3 or 1×6
    "all_ignored_nan_gradient": Known(1, 1),
    # normalisation
    "denominator_all": Known(1, 3),
    "overcount_rows": Known(1, 2),
    "undercount_aligned": Known(1, 1, "hf.seq2seq"),
    "mean_of_means": Known(3, 3),  # 2×3 or 3×2
    "sum_of_means": Known(2, 2),
    "double_divide": Known(1, 2),
    "count_ignored": Known(1, 2),
    "packed_double_subtract": Known(1, 5, "packed.position_ids"),  # ÷ 0 where three documents are short
    "row_mean": Known(2, 3),
    "rank_mean_of_means": Known(1, 2),
    "world_size_missing": Known(1, 2),
    "cp_undercount": Known(1, 2),
    "chunk_mean_sum": Known(2, 6),  # five pairs, for a second chunk of four: 2×4 or 1×6
    "chunk_mean_mean": Known(2, 6),
    "tail_accumulation": Known(1, 2),
}
_AT_ONCE = 5


def wrong_functions() -> dict[str, str]:
    """Every public function of the files of wrong losses -> the target that it is."""
    found = {}
    for family in ("alignment", "selection", "normalisation"):
        path = CANDIDATES / f"wrong_{family}.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found[node.name] = f"{path}:{node.name}"
    return found


def batches() -> Iterator[Any]:
    """A few functions of one spec at a time, so that one start of the command serves several."""
    by_spec: dict[str, list[str]] = {}
    for name in wrong_functions():
        if name in WRONG:
            by_spec.setdefault(WRONG[name].spec, []).append(name)
    for spec, names in by_spec.items():
        for start in range(0, len(names), _AT_ONCE):
            yield pytest.param(spec, names[start : start + _AT_ONCE], id=f"{spec}-{start // _AT_ONCE}")


def test_every_wrong_loss_has_its_row() -> None:
    assert set(WRONG) == set(wrong_functions())


BATCHES = pytest.mark.parametrize(("spec", "names"), list(batches()))
DECISIVE = "CONTRACT or ALIGN or SELECT or REDUCE or EMPTY"  # the laws on pairs and weights, which tell these bugs


@pytest.mark.representatives(1)
@BATCHES
def test_wrong_losses_fail_under_their_own_names(run: Run, spec: str, names: list[str]) -> None:
    assert misjudged_by_check(run, spec, names, "--in-process", "--pytest", "-k", DECISIVE) == []


@pytest.mark.slow
@BATCHES
def test_wrong_losses_fail_by_every_law_in_a_worker(run: Run, spec: str, names: list[str]) -> None:
    assert misjudged_by_check(run, spec, names) == []


def misjudged_by_check(run: Run, spec: str, names: list[str], *more: str) -> list[str]:
    targets = wrong_functions()
    ran = run("check", *(targets[name] for name in names), "--spec", spec, "--json", "r.json", "--seed", "0", *more)
    assert ran.code == 1
    assert list(ran.candidates) == names
    return [f"{name}: {why}" for name in names for why in misjudged(ran.candidates[name], name)]


def misjudged(result: dict[str, Any], name: str) -> Iterator[str]:
    """What is wrong with the judgement of a wrong loss."""
    if result["verdict"] != "fails":
        yield f"the verdict is {result['verdict']}"
        return
    named = [(bug["mutant"], *bug["also"]) for bug in result["diagnosis"]]
    if not named or name.replace("_", "-") not in named[0]:
        yield f"it is called {named}"
    failed = [law for law in result["laws"] if law["counterexample"] and law["level"] == "MUST"]
    smallest = failed[0]["counterexample"]["recipe"]
    most = WRONG[name]
    if smallest["rows"] > most.rows or smallest["length"] > most.length:
        yield f"its counterexample is larger than {most.rows}×{most.length}: {smallest}"


# --- identify ---------------------------------------------------------------------------------------------------------


@pytest.mark.representatives(2)
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


# --- many targets, some of which misbehave ----------------------------------------------------------------------------


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


# --- what cannot be done is told in one sentence ----------------------------------------------------------------------


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


def one_sentence(err: str) -> str:
    (line,) = err.strip().splitlines()
    return line


def shows(err: str, *words: str) -> bool:
    assert [word for word in words if word not in err] == [], err
    return True


GOOD_CHECK = ("check", "good.py:loss", "--spec", "hf.causal_lm")


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


# --- declared candidates ----------------------------------------------------------------------------------------------

DECLARED = """
[tool.shiftproof.candidates.renamed]
call = "renamed.py:loss"
spec = "hf.causal_lm"
rename = { logits = "scores", labels = "tokens" }

[tool.shiftproof.candidates.known-wrong]
call = "bad.py:loss"
spec = "hf.causal_lm"
expect = "fails"
diagnosis = "double-shift"
"""


def declare(folder: Path, text: str) -> None:
    (folder / "renamed.py").write_text(GOOD.replace("logits", "scores").replace("labels", "tokens"))
    (folder / "pyproject.toml").write_text(text)


def test_declared_candidates_are_judged_by_a_bare_check(run: Run, files: Path) -> None:
    declare(files, DECLARED)
    ran = run("check", "--json", "r.json", "--seed", "0", "--profile", "brief")
    assert ran.code == 0, ran.out
    assert {name: c["verdict"] for name, c in ran.candidates.items()} == {"renamed": "conforms", "known-wrong": "fails"}
    assert all(candidate["as_expected"] for candidate in ran.report["candidates"])
    assert ran.candidates["known-wrong"]["expected_diagnosis"] == "double-shift"
    assert "all 2 are as expected" in ran.out


@pytest.mark.representatives(1)
@pytest.mark.parametrize(
    "text",
    [
        DECLARED.replace('"double-shift"', '"no-shift"'),  # fails, and has another name
        DECLARED.replace('"bad.py:loss"', '"good.py:loss"'),  # passes
        DECLARED.replace('expect = "fails"\ndiagnosis = "double-shift"', ""),  # fails, unexpectedly
    ],
    ids=["another name", "passes", "fails"],
)
def test_a_candidate_that_is_not_as_declared(run: Run, files: Path, text: str) -> None:
    declare(files, text)
    ran = run("check", "known-wrong", "--in-process", "--json", "r.json", "--seed", "0", "--profile", "brief")
    assert ran.code == 1
    assert not ran.candidates["known-wrong"]["as_expected"]


# --- seeds ------------------------------------------------------------------------------------------------------------

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


# --- replay -----------------------------------------------------------------------------------------------------------


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


# --- the user's surroundings ------------------------------------------------------------------------------------------


def test_surroundings_that_could_be_in_the_way(run_apart: Run, tmp_path: Path) -> None:
    """Folders and files called as ours and torch's, and pytest files of his own that are broken."""
    trap = "raise RuntimeError('not what was wanted')\n"
    for folder in ("harness", "shiftproof_harness", "torch_utils", "laws", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(trap)
    for name in ("oracle.py", "conftest.py", "torchmetrics.py", "recipe.py", "test_mine.py", "tests/conftest.py"):
        (tmp_path / name).write_text(trap)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --nonsense\n")
    (tmp_path / "reference.py").write_text("import helper\n" + GOOD + "    # helped\n")
    (tmp_path / "helper.py").write_text("")
    ran = run_apart(
        *("check", "reference.py:loss", "--spec", "hf.causal_lm", "--json", "r.json"),
        *("--pytest", "-k", "CONTRACT-1 or ALIGN-1"),
    )
    assert ran.code == 3, ran.out + ran.err
    assert ran.candidates["loss"]["verdict"] == "partial"
    assert ran.candidates["loss"]["message"].startswith("no violation in 2 of ")


def test_no_control_characters_where_stdout_is_no_terminal(run_apart: Run, files: Path) -> None:
    ran = run_apart(*GOOD_CHECK, "--seed", "3", "--profile", "quick", "--pytest", "-k", "VALUE-1 or CONTRACT")
    assert ran.err == ""
    assert ran.out.splitlines()[0].endswith(" · seed 3 · profile quick")
    assert not {"\x1b", "\r", "━"} & set(ran.out)
    assert "test session starts" not in ran.out


def test_variables_that_are_meant_for_the_users_tests(
    run_apart: Run, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRA, "PYTEST_ADDOPTS", "--nonsense")
    assert run_apart(*GOOD_CHECK, "--in-process", "--profile", "brief").code == 0


def test_a_candidate_called_torch(files: Path) -> None:
    (files / "torch.py").write_text(GOOD)
    command = [sys.executable, "-m", "shiftproof", "check", "torch.py:loss", "--spec", "hf.causal_lm"]
    done = subprocess.run(
        [*command, "--pytest", "-k", "CONTRACT-1"], cwd=files, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 3
    assert b"PARTIAL" in done.stdout


# --- options ----------------------------------------------------------------------------------------------------------


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
    pytest.importorskip("xdist")
    laws = "CONTRACT or ALIGN-1 or PURE-1"
    arguments = ("check", "bad.py:loss", "good.py:loss", "--spec", "hf.causal_lm", "--json", "r.json", "--seed", "0")
    found = []
    for parallel in ((), ("-n", "2")):
        ran = run(*arguments, "--pytest", "-k", laws, *parallel)
        assert ran.code == 1
        assert ran.err == ""
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
    pytest.importorskip("xdist")
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


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    for what, word in {
        "profiles": "hf.causal_lm",
        "laws": "ALIGN-1",
        "mutants": "double-shift",
        "arguments": "num_items_in_batch",
    }.items():
        assert main(["list", what]) == 0
        assert word in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"shiftproof {shiftproof.__version__}\n"


@pytest.mark.parametrize(("instruction", "word"), [("bash_source", "complete"), ("bash_complete", "plain,check")])
def test_shells_complete(
    instruction: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"_SHIFTPROOF_COMPLETE": instruction, "COMP_WORDS": "shiftproof ch", "COMP_CWORD": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert word in out
    assert err == ""


def test_a_variable_that_asks_for_completion_judges_nothing_right(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(files)
    monkeypatch.setenv("_SHIFTPROOF_COMPLETE", "bash_source")
    assert main(["check", "bad.py:loss", "--spec", "hf.causal_lm", "--profile", "brief", "--in-process"]) == 1
    monkeypatch.setenv("_SHIFTPROOF_COMPLETE", "nonsense")
    assert main([]) == 2


@pytest.mark.parametrize("returned", [None, "0"])
def test_a_command_without_an_exit_code_is_no_success(
    returned: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shiftproof_command, "invoke", lambda context: returned)
    assert main(["list", "laws"]) == 3


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_the_exit_code(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    began = "\ndef slow(logits, labels):\n    open('began', 'w').close()\n    import time; time.sleep(60)\n"
    (tmp_path / "losses.py").write_text(GOOD + began)
    command = [sys.executable, "-m", "shiftproof", "check", "losses.py:slow", "--spec", "hf.causal_lm"]
    # A shell starts what runs in its background with SIGINT ignored, and so would this be.
    handled = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **handled,
    ) as running:
        until = time.monotonic() + 120
        while not (tmp_path / "began").exists() and time.monotonic() < until:
            time.sleep(0.05)
        running.send_signal(sent)
        _, err = running.communicate(timeout=60)
    assert running.returncode == code, err


def test_what_is_interrupted_does_not_conform(run_apart: Run, tmp_path: Path) -> None:
    stops = "\ncalls = 0\ndef stops(logits, labels):\n    global calls\n    calls += 1\n"
    stops += "    if calls > 60:\n        raise KeyboardInterrupt\n    return loss(logits, labels)\n"
    (tmp_path / "losses.py").write_text(GOOD + stops)
    ran = run_apart("check", "losses.py:stops", "--spec", "hf.causal_lm", "--in-process")
    assert ran.code == 130, ran.out
    assert "CONFORMS" not in ran.out
    assert re.search(r"PARTIAL\n  no violation in \d+ of \d+ laws; the others were not asked", ran.out)


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
