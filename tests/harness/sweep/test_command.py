"""``shiftproof sweep``, as a user runs it, on a library and by a judge that are made up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shiftproof.harness.cli.main import main
from shiftproof.harness.report.sweep import SCHEMA
from shiftproof.harness.sweep import command

CANDIDATES = Path(__file__).parents[2] / "candidates"
SWEEP = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what runs behind it
sys.path.insert(0, {str(CANDIDATES)!r})
from shiftproof.harness.cli.main import main
from shiftproof.harness.sweep import command
command.JUDGE = "sweep_judge:judge"
raise SystemExit(main(["sweep", *sys.argv[1:]]))
"""
ARGUMENTS = ("--python", "./python", "--processes", "2", "lib")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "COLUMNS": "140", "JUDGED": "log"}
NAMES = [*(f"Right{index}" for index in range(3)), "Unbuilt", "UnshiftedAgainst", "UnshiftedBy", "Wrong", "Zzz"]
SLOW = [f"Slow{index}" for index in range(12)]


@dataclass(frozen=True)
class Library:
    """A folder with an interpreter, which has a library of some classes."""

    folder: Path
    interpreter: Callable[[object], str]
    capsys: pytest.CaptureFixture[str]

    def has(self, *names: str, version: str = "1.0") -> None:
        self.interpreter({"models": {"targets": [f"lib:{name}" for name in names], "versions": {"lib": version}}})

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        return subprocess.Popen(
            [sys.executable, "-c", SWEEP, *ARGUMENTS, *arguments],
            cwd=self.folder,
            env={**kept, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def sweep(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of a sweep in this process, which has torch already."""
        self.capsys.readouterr()
        code = main(["sweep", *ARGUMENTS, *arguments])
        out, err = self.capsys.readouterr()
        assert "Traceback" not in err, err
        return code, out, err

    def lines(self, file: str = "s.jsonl") -> list[tuple[str, Any]]:
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        read = [json.loads(line) for line in (self.folder / file).read_text(encoding="utf-8").splitlines()]
        for line in read:
            jsonschema.validate(line, schema)
        return [next(iter(line.items())) for line in read]

    def begun(self) -> Counter[str]:
        return Counter(line.split()[0] for line in (self.folder / "log").read_text().splitlines())

    def started(self, *arguments: str, rows: int) -> subprocess.Popen[str]:
        """A sweep that has judged so many classes, and goes on."""
        process = self.start(*arguments)
        deadline = time.monotonic() + 60
        file = self.folder / "s.jsonl"
        while time.monotonic() < deadline and process.poll() is None:
            if file.is_file() and file.read_text().count('{"row"') >= rows:
                return process
            time.sleep(0.02)
        raise AssertionError(process.communicate()[1])


@pytest.fixture
def lib(
    tmp_path: Path,
    interpreter: Callable[[object], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Library:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(CANDIDATES)
    monkeypatch.setattr(command, "JUDGE", "sweep_judge:judge")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    made = Library(tmp_path, interpreter, capsys)
    made.has(*NAMES)
    return made


def test_what_is_found_is_told(lib: Library) -> None:
    code, out, err = lib.sweep("--out", "s.jsonl", "--html", "s.html", "--seed", "7")
    assert (code, err) == (1, "")
    assert "seed 7 · 8 classes, profile brief · rows go to s.jsonl" in out.splitlines()[0]
    text = " ".join(out.split())
    for said in (
        "4 conforms 1 fails 2 unshifted 1 not-built",
        "alarms Wrong double-shift 2 of 2 logit rows: logits [0, 0] are scored on label [0, 2]; shiftproof replay 0123",
        "unshifted, against their documentation UnshiftedAgainst k=0 <b>labels are shifted inside the model</b>",
        "unshifted, by their documentation UnshiftedBy k=0 labels must be shifted",
        "could not be built 1 needs a vision tower Unbuilt",
        "2 of 7 classes judged are alarms",
    ):
        assert said in text, said
    assert [kind for kind, _ in lib.lines()] == ["header", *["row"] * 8, "footer"]
    header, footer = lib.lines()[0][1], lib.lines()[-1][1]
    assert (header["seed"], header["versions"], header["python"]) == (7, {"lib": "1.0"}, "./python")
    assert footer["finished"]
    assert sum(footer["counts"].values()) == 8
    assert (lib.folder / "s.html").read_text(encoding="utf-8").count("<tr class=") == 8


def test_a_pattern_and_exit_codes(lib: Library) -> None:
    assert lib.sweep("Right*", "UnshiftedBy")[0] == 0
    assert lib.begun() == dict.fromkeys(("Right0", "Right1", "Right2", "UnshiftedBy"), 1)
    assert lib.sweep("Right0", "Unbuilt")[0] == 3  # not all of them were judged
    assert lib.sweep("Unbuilt")[0] == 3  # none was
    assert lib.sweep("UnshiftedAgainst")[0] == 1
    code, out, err = lib.sweep("Rigth*")
    assert (code, out) == (2, "")
    assert "no class matches 'Rigth*' (near it: Right" in err


def test_a_class_without_pairs_is_no_gap_beside_one_that_was_judged(lib: Library) -> None:
    lib.has("Right0", "Sound", "Unbuilt")
    assert lib.sweep("Right0", "Sound")[0] == 0
    assert lib.sweep("Sound")[0] == 3
    assert lib.sweep("Sound", "Right0", "Unbuilt")[0] == 3


def test_listing_judges_nothing(lib: Library) -> None:
    code, out, _ = lib.sweep("Un*", "--list")
    assert (code, out.split()) == (0, ["Unbuilt", "UnshiftedAgainst", "UnshiftedBy"])
    assert not (lib.folder / ".shiftproof").exists()


def test_without_a_file_it_goes_on_all_the_same(lib: Library) -> None:
    first = lib.sweep("Right*")
    assert lib.sweep("Right*")[0] == first[0] == 0
    assert set(lib.begun().values()) == {1}
    assert lib.sweep("Right*", "--fresh")[0] == 0
    assert set(lib.begun().values()) == {2}


def test_what_could_not_be_judged_is_tried_again(lib: Library) -> None:
    lib.has("Raise", "Right0", "Unbuilt")
    assert lib.sweep("--out", "s.jsonl")[0] == 3
    code, out, _ = lib.sweep("--out", "s.jsonl")
    assert code == 3
    assert "1 conforms 1 not-built 1 not-judged" in " ".join(out.split())
    assert lib.begun() == {"Raise": 2, "Right0": 1, "Unbuilt": 1}
    assert sum(lib.lines()[-1][1]["counts"].values()) == 3


def test_one_that_is_killed_goes_on_where_it_was(lib: Library) -> None:
    lib.has(*SLOW)
    process = lib.started("--out", "s.jsonl", rows=3)
    os.kill(process.pid, signal.SIGKILL)  # the sweep alone: its processes find out by themselves
    process.communicate(timeout=60)
    known = [row["target"].removeprefix("lib:") for kind, row in lib.lines() if kind == "row"]
    assert 3 <= len(known) < len(SLOW)
    assert lib.sweep("--out", "s.jsonl")[0] == 0
    assert all(lib.begun()[name] == 1 for name in known)
    rows = [row["target"].removeprefix("lib:") for kind, row in lib.lines() if kind == "row"]
    assert sorted(rows) == sorted(SLOW)


def test_an_interrupt_leaves_a_file_to_go_on_with(lib: Library) -> None:
    lib.has(*SLOW)
    process = lib.started("--out", "s.jsonl", rows=2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "classes are left; run the same command to continue" in err
    assert "Traceback" not in err
    assert not lib.lines()[-1][1]["finished"]
    known = sum(kind == "row" for kind, _ in lib.lines())
    assert lib.sweep("--out", "s.jsonl")[0] == 0
    assert lib.lines()[-1][1]["finished"]
    assert sum(lib.begun().values()) <= len(SLOW) + 2
    assert 2 <= known < len(SLOW)


def test_another_version_of_the_library_is_another_sweep(lib: Library) -> None:
    assert lib.sweep("Right*", "--out", "s.jsonl")[0] == 0
    lib.has(*NAMES, version="2.0")
    code, _, err = lib.sweep("Right*", "--out", "s.jsonl")
    assert code == 2
    assert "s.jsonl holds another sweep (versions {'lib': '1.0'}, not {'lib': '2.0'}); name another file" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--processes", "0"), "--processes is 0"),
        (("--seed", "-1"), "seed is -1"),
        (("--deadline", "0"), "deadline is 0"),
        (("--dtype", "bfloat61"), "did you mean 'bfloat16'?"),
        (("--device", "cpuu"), "did you mean 'cpu'?"),
        (("--profile", "quik"), "did you mean 'quick'?"),
        (("--engine", "rai"), "no engine is called 'rai' (did you mean 'ray'?)"),
        (("--ray-address", "auto"), "add --engine ray"),
        (("--html", "no/where.html"), "its folder does not exist"),
    ],
)
def test_usage(
    arguments: tuple[str, ...],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "lib", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
