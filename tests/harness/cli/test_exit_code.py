"""The exit code: 0 and 1 are said of what was judged, and of nothing else."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.cli import exit_code
from shiftproof.harness.cli.exit_code import Terminated, exit_code_of, verdict_code
from shiftproof.harness.results import CandidateResult, NamedBug, Overall

CONFORMS, FAILS, USAGE, UNJUDGED = 0, 1, 2, 3


def test_the_codes_are_those_that_are_documented() -> None:
    found = (exit_code.CONFORMS, exit_code.FAILS, exit_code.USAGE, exit_code.UNJUDGED)
    assert found == (CONFORMS, FAILS, USAGE, UNJUDGED)


# --- of verdicts ------------------------------------------------------------------------------------------------------


def result(verdict: Overall, expect: str = "conforms", **rest: Any) -> CandidateResult:
    return CandidateResult("text", "m:f", "sum", "cpu", "float32", verdict, expect=expect, **rest)


CODES = {
    ("conforms", Overall.CONFORMS): CONFORMS,
    ("conforms", Overall.FAILS): FAILS,
    ("conforms", Overall.INCONCLUSIVE): UNJUDGED,
    ("conforms", Overall.PARTIAL): UNJUDGED,
    ("conforms", Overall.VALUES_ONLY): UNJUDGED,
    ("conforms", Overall.ERROR): UNJUDGED,
    ("fails", Overall.CONFORMS): FAILS,
    ("fails", Overall.FAILS): CONFORMS,
    ("fails", Overall.INCONCLUSIVE): UNJUDGED,
    ("fails", Overall.PARTIAL): UNJUDGED,
    ("fails", Overall.VALUES_ONLY): UNJUDGED,
    ("fails", Overall.ERROR): UNJUDGED,
}


def test_the_table_has_every_verdict() -> None:
    assert set(CODES) == {(expect, verdict) for expect in ("conforms", "fails") for verdict in Overall}


@pytest.mark.parametrize(("expect", "verdict"), CODES)
def test_one_candidate(expect: str, verdict: Overall) -> None:
    assert verdict_code([result(verdict, expect)]) == CODES[expect, verdict]


@pytest.mark.parametrize(("one", "other"), list(permutations(CODES, 2)))
def test_of_two_candidates_the_wrong_one_and_then_the_unjudged_one_decides(
    one: tuple[str, Overall], other: tuple[str, Overall]
) -> None:
    codes = {CODES[one], CODES[other]}
    found = verdict_code([result(verdict, expect) for expect, verdict in (one, other)])
    assert found == next(code for code in (FAILS, UNJUDGED, CONFORMS) if code in codes)


@pytest.mark.parametrize(("expect", "verdict"), CODES)
def test_what_is_declared_away_for_nothing_is_a_mistake_of_usage(expect: str, verdict: Overall) -> None:
    assert verdict_code([result(verdict, expect, stale=("GRAD-5 (why)",))]) == USAGE
    assert verdict_code([result(Overall.CONFORMS, stale=("GRAD-5 (why)",)), result(verdict, expect)]) == USAGE


def test_another_name_is_another_bug() -> None:
    named = {"expect": "fails", "expected_diagnosis": "no-shift"}
    bug = NamedBug("double-shift", 1.0, "", "", "")
    assert verdict_code([result(Overall.FAILS, **named, diagnosis=(bug,))]) == FAILS
    assert verdict_code([result(Overall.FAILS, **named)]) == FAILS


def test_nothing_that_was_judged_does_not_conform() -> None:
    assert verdict_code([]) == UNJUDGED
    assert verdict_code(iter([result(Overall.FAILS)])) == FAILS, "what is read once is read once"


# --- of what is raised ------------------------------------------------------------------------------------------------


def raises(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text either")


RAISED = [
    (KeyboardInterrupt(), 130, "interrupted"),
    (Terminated(), 143, "terminated"),
    (UsageError("no such loss"), USAGE, "no such loss"),
    (OSError(28, "No space left on device"), UNJUDGED, "the judge could not go on: [Errno 28] No space left on device"),
    (PermissionError("not yours"), UNJUDGED, "the judge could not go on: not yours"),
    (MemoryError(), UNJUDGED, "the judge ran out of memory"),
    (RuntimeError("broken"), UNJUDGED, "the judge itself failed (RuntimeError); no verdict follows from that"),
    (AssertionError(), UNJUDGED, "the judge itself failed (AssertionError); no verdict follows from that"),
    (RecursionError(), UNJUDGED, "the judge itself failed (RecursionError); no verdict follows from that"),
    (SystemExit(0), UNJUDGED, "the judge itself failed (SystemExit); no verdict follows from that"),
    (SystemExit(1), UNJUDGED, "the judge itself failed (SystemExit); no verdict follows from that"),
    (GeneratorExit(), UNJUDGED, "the judge itself failed (GeneratorExit); no verdict follows from that"),
    (pytest.skip.Exception("no"), UNJUDGED, "the judge itself failed (Skipped); no verdict follows from that"),
    (Unprintable(), UNJUDGED, "the judge itself failed (Unprintable); no verdict follows from that"),
]


@pytest.fixture(autouse=True)
def _stdout_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be written to, it is replaced for good; not the one of these tests."""
    monkeypatch.setattr(exit_code, "_drop_output", lambda: None)


@pytest.mark.parametrize(("error", "code", "sentence"), RAISED, ids=lambda value: type(value).__name__)
def test_what_a_command_raises(
    error: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(raises(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == f"shiftproof: {sentence}"
    traced = "the judge itself failed" in sentence
    assert err.startswith("Traceback (most recent call last):\n  File ") == traced
    assert len(err.splitlines()) == 1 or traced
    assert "" not in err.splitlines()


@pytest.mark.parametrize(("error", "code"), [(OSError("full"), UNJUDGED), (BrokenPipeError(), 141)])
def test_stdout_may_be_no_file(error: OSError, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert exit_code_of(raises(error)) == code


@pytest.mark.parametrize("error", [OSError("full"), BrokenPipeError()])
def test_what_is_left_to_be_printed_goes_nowhere(
    error: OSError, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Python would flush it at its end, and exit with 120 where that fails."""
    monkeypatch.undo()
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        exit_code_of(raises(error))
        file.write("CONFORMS")
    assert (tmp_path / "out").read_text() == ""


def test_where_nobody_reads_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(raises(BrokenPipeError())) == 141
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("code", [CONFORMS, FAILS, USAGE, UNJUDGED])
def test_what_a_command_returns(code: int) -> None:
    assert exit_code_of(lambda: code) == code


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("I/O operation on closed file")])
def test_the_code_is_the_same_where_stderr_is_gone(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> None:
            raise error

    monkeypatch.setattr(sys, "stderr", Gone())
    assert exit_code_of(raises(RuntimeError("broken"))) == UNJUDGED
    assert exit_code_of(raises(UsageError("broken"))) == USAGE


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def handler() -> Iterator[Callable[..., None]]:
    """A handler of SIGTERM that was there before the command."""

    def before(*arguments: object) -> None: ...

    kept = signal.signal(signal.SIGTERM, before)
    yield before
    signal.signal(signal.SIGTERM, kept)


def test_sigterm_ends_the_command_and_its_handler_is_put_back(handler: Callable[..., None]) -> None:
    def command() -> int:
        assert signal.getsignal(signal.SIGTERM) not in (handler, signal.SIG_DFL)  # which would end these tests
        os.kill(os.getpid(), signal.SIGTERM)
        return CONFORMS

    assert exit_code_of(command) == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    assert exit_code_of(lambda: CONFORMS) == CONFORMS
    assert signal.getsignal(signal.SIGTERM) is handler


def test_in_another_thread_signals_are_left_alone(handler: Callable[..., None]) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(exit_code_of(lambda: FAILS)))
    thread.start()
    thread.join()
    assert found == [FAILS]
    assert signal.getsignal(signal.SIGTERM) is handler


# --- stdout -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [CONFORMS, FAILS])
def test_what_cannot_be_flushed_was_not_judged(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert exit_code_of(lambda: code) == UNJUDGED


PRINTS = """
import sys
from shiftproof.harness.cli.exit_code import exit_code_of
def command():
    print("CONFORMS")
    return int(sys.argv[1])
sys.exit(exit_code_of(command))
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full is here")
@pytest.mark.parametrize("code", ["0", "1"])
def test_what_cannot_be_printed_was_not_judged(code: str) -> None:
    """Python itself would exit with 120."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTS, code], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == UNJUDGED
    assert done.stderr == "shiftproof: the judge could not go on: [Errno 28] No space left on device\n"


def test_what_nobody_reads_ends_as_by_a_signal() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = subprocess.run(
        [sys.executable, "-c", PRINTS, "0"], stdout=writes, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")
