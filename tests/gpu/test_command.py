"""The command of the GPU script: clocks, crashes, exit codes, and the page; and once, all of it in processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from . import command, driver
from .asked import SPOILED, PartArguments, go_through
from .children import OUT_OF_TIME, run_child
from .findings import Finding, Ledger, Progress, Result
from .layout import PACKAGE, ROOT, lay_out
from .parts import PARTS
from .summary import DRY, Machine, exit_code, page, verdict

MACHINE = Machine({"device": "a GPU", "memory": 1 << 37, "python": "3.12.1", "cuda": "12.8", "packages": {}}, "570.1")
PASSED, WRONG, SKIPPED, NOT_RUN = Result


def progress(*results: Result, planned: int | None = None, ended: str = "exit 0") -> Progress:
    names = [str(index) for index in range(len(results) if planned is None else planned)]
    found = [Finding("laws", str(index), result, "why") for index, result in enumerate(results)]
    return Progress(names, names[: len(results)], found, ended, 1.0)


@pytest.mark.parametrize(
    ("of", "said", "code"),
    [
        (progress(PASSED, SKIPPED), "passed", 0),
        (progress(PASSED, WRONG), "WRONG: 1 of 2", 1),
        (progress(PASSED, planned=3, ended=OUT_OF_TIME), "out of time after 1 of 3", 3),
        (progress(WRONG, planned=3, ended=OUT_OF_TIME), "WRONG: 1 of 1; out of time after 1 of 3", 1),
        (progress(PASSED, ended="signal 11"), "signal 11 after 1 of 1", 3),
        (progress(PASSED, planned=2), "exit 0 after 1 of 2", 3),
        (progress(PASSED, NOT_RUN), "1 could not be run", 3),
        (progress(SKIPPED), "nothing was there to be run", 3),
        (progress(planned=0, ended=""), "not begun", 3),
    ],
)
def test_how_a_part_ended(of: Progress, said: str, code: int) -> None:
    assert verdict(of) == said
    assert exit_code([of]) == code
    assert exit_code([of, progress(PASSED)]) == code
    assert exit_code([of, progress(WRONG)]) == 1


def test_a_child_is_killed_with_all_it_has_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    assert run_child([sys.executable, "-c", code], log, 5.0, {}, tmp_path) == OUT_OF_TIME
    pid = int(log.read_text())
    finish = time.monotonic() + 30
    while time.monotonic() < finish and Path(f"/proc/{pid}").exists() and "Z" not in _state(pid):
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists() or "Z" in _state(pid)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_how_a_child_ends(tmp_path: Path) -> None:
    def end(code: str) -> str:
        return run_child([sys.executable, "-c", code], tmp_path / "log", 60.0, {"SAID": "here"}, tmp_path)

    assert end("import os, sys; print(os.environ['SAID']); sys.exit(3)") == "exit 3"
    assert end("import os; os.kill(os.getpid(), 11)") == "signal 11"
    assert (tmp_path / "log").read_text() == "here\n"


def test_items_are_gone_through_once_and_on_behind_what_spoiled_the_process(tmp_path: Path) -> None:
    asked = PartArguments("large", "cpu", str(tmp_path), 1.0)
    done = []

    def item(name: str) -> Finding:
        done.append(name)
        if name == "raises":
            raise ValueError("no\nmore")
        if name == "spoils":
            raise RuntimeError("CUDA error: an illegal memory access")
        return Finding("large", name, PASSED)

    items = {name: lambda name=name: item(name) for name in ("fine", "raises", "spoils", "last")}
    with pytest.raises(SystemExit) as ended:
        go_through(asked, items)
    assert ended.value.code == SPOILED
    go_through(asked, items)
    assert done == list(items)
    told = asked.ledger.read("large")
    assert [(each.result, each.said) for each in told.found][:2] == [(PASSED, ""), (NOT_RUN, "ValueError: no")]
    assert told.planned == list(items)
    assert told.unfinished == []


@pytest.fixture
def script(tmp_path: Path) -> command._Script:
    return command._Script(tmp_path, "cuda", {}, MACHINE, ["laws", "large", "figures"], 9.5)


def test_a_part_that_dies_goes_on_and_ends_no_other(script: command._Script, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def child(words: list[str], log: Path, seconds: float, *rest: object) -> str:
        part = words[3]
        started.append(words[2])
        names = ["a", "b", "c"]
        script.ledger.plan(part, names)
        begun = script.ledger.read(part).begun
        if part == "laws":
            return "exit 1"
        for name in names[len(begun) :]:
            script.ledger.begin(part, name)
            if name == "b":
                return "signal 11"
            script.ledger.add(Finding(part, name, PASSED))
        return "exit 0" if part == "large" else OUT_OF_TIME

    monkeypatch.setattr(command, "run_child", child)
    assert script.run(time.monotonic() + 60) == 3
    modules = ["laws", "large", "large", "figures", "figures"]
    assert started == [f"{PACKAGE}.{module}" for module in modules]
    text = (script.out / "gpu.md").read_text()
    assert "exit 1 after 0 of 3" in text
    assert "out of time after 3 of 3; 1 could not be run" in text
    assert "- not run: b: the process of this part ended here with signal 11" in text
    assert "a GPU, 128 GiB, driver 570.1, CUDA 12.8" in text
    assert DRY not in text


def test_what_a_part_leaves_goes_to_those_after_it(script: command._Script, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    monkeypatch.setattr(command, "run_child", lambda words, log, seconds, *rest: given.append(seconds) or "exit 0")
    script.run(time.monotonic() + 310)
    shares = [PARTS[name].share for name in script.names]
    assert given == [pytest.approx(310 * share / sum(shares[index:]), rel=0.05) for index, share in enumerate(shares)]


def test_an_interruption_is_summed_up(script: command._Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def child(*words: object) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return "exit 0"

    monkeypatch.setattr(command, "run_child", child)
    with command._interruptible():
        assert script.run(time.monotonic() + 60) == 3
    text = (script.out / "gpu.md").read_text()
    assert "interrupted" in text
    assert text.count("not begun") == 2


def test_figures_are_shares_of_the_copy() -> None:
    figures = {
        "shape": "text [B=4, S=2048, V=128256]",
        "hidden": None,
        "dtype": "bfloat16",
        "contender": "torch",
        "limit_ms": 1.0,
        "logits_bytes": 2e9,
        "returned_bytes": 2e9,
        "milliseconds": 8.0,
        "yardstick_ms": 1.25,
        "ratio": 6.4,
        "low": 6.3,
        "high": 6.5,
        "pairs": 20,
        "peak": 12e9,
        "yardstick_peak": None,
    }
    found = [Finding("figures", "torch", PASSED, figures=figures)]
    text = page(MACHINE, {"figures": Progress(["torch"], ["torch"], found, "exit 0", 2.0)}, dry=True, minutes=9.5)
    assert "a copy at 4.00 TB/s" in text
    assert "| yardstick | 1.250 | 80% | – | 1 |" in text
    assert "| torch | 8.000 | 12% | 6.00 | 6.40 (6.30 to 6.50) |" in text
    assert DRY in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--list"], 0, "figures"),
        (["--parts", "laws,lawz"], 2, "'lawz'"),
        (["--minutes", "0"], 2, "--minutes"),
        (["--device", "tpu"], 2, "--device"),
    ],
)
def test_usage(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(command.main(arguments))
    assert ended.value.code == code
    assert said in "".join(capsys.readouterr())


def test_what_is_missing_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "einops.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert command.main(["--out", str(tmp_path / "out"), "--dry-run"]) == 3
    assert capsys.readouterr().err.strip().endswith("has no einops: pip install einops")


def test_a_driver_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "glob", lambda pattern: [])
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(driver.SAID, raising=False)
    assert driver.missing().startswith("no NVIDIA GPU")
    monkeypatch.setenv(driver.SAID, "here")
    assert driver.missing() == ""
    monkeypatch.delenv(driver.SAID)
    monkeypatch.setattr(driver, "glob", lambda pattern: [pattern] if "nvidia" in pattern else [])
    assert driver.missing() == ""


def test_laid_out_it_is_as_if_it_were_installed(tmp_path: Path) -> None:
    lay_out(tmp_path)
    code = (
        "import shiftproof.harness.worker.device as here, shiftproof_tests.gpu.parts, importlib.metadata as told;"
        "print(here.__file__, told.version('shiftproof'), [p.value for p in told.entry_points(group='pytest11')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert str(tmp_path) in done.stdout, done.stderr
    assert "shiftproof.harness.pytest_plugin.plugin" in done.stdout


def test_a_dry_run_in_processes(tmp_path: Path) -> None:
    command_line = [sys.executable, str(ROOT / "tests" / "gpu" / "run.py"), "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run([*command_line, "--parts", "large"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "large: passed" in done.stdout
    text = (tmp_path / "gpu.md").read_text()
    assert DRY in text
    assert "| large: " in text
    assert Ledger(tmp_path / "findings.jsonl").read("large").ended == "exit 0"
    assert all(json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines())
