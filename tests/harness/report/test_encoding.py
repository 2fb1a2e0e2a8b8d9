"""What a terminal or pipe cannot print."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shiftproof.harness.report.encoding import in_ascii, print_what_it_can

ROOT = Path(__file__).parents[3]
PICTURE = "row 0 logit 0  -  ○  ×  ·  │ ●"
PRINTS = f"""
import sys
from shiftproof.harness.report.console import new_console
new_console().print({PICTURE!r})
new_console(stderr=True).print("S ≤ 67 → é …")
"""


def printed(**variables: str) -> tuple[bytes, bytes]:
    locale = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONUTF8", "PYTHONIOENCODING", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if name not in locale}
    done = subprocess.run([sys.executable, "-c", PRINTS], env={**kept, **variables}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}]
)
def test_a_pipe_of_ascii_gets_ascii(variables: dict[str, str]) -> None:
    assert printed(**variables) == (b"row 0 logit 0  -  o  x  .  | #", rb"S <= 67 -> \xe9 ...")


def test_other_pipes_get_what_they_can_print() -> None:
    assert printed(LANG="C.UTF-8")[0] == PICTURE.encode()
    assert printed(LANG="C", PYTHONUTF8="1")[0] == PICTURE.encode()
    assert printed(PYTHONIOENCODING="latin-1")[0] == "row 0 logit 0  -  o  ×  ·  | #".encode("latin-1")


def test_columns_stay_aligned() -> None:
    assert len(in_ascii(PICTURE)) == len(PICTURE)


def test_every_sign_of_the_source_has_a_replacement_that_can_be_read() -> None:
    files = [file for folder in ("harness", "reference") for file in (ROOT / folder).rglob("*.py")]
    signs = {sign for file in files for sign in file.read_text(encoding="utf-8") if ord(sign) > 127}
    assert {"●", "○", "×", "·", "…"} <= signs
    assert {sign for sign in signs if "\\" in in_ascii(sign)} == set()


def test_a_stream_that_is_not_pythons_own_is_left_alone() -> None:
    print_what_it_can(None)
    print_what_it_can(io.StringIO())


def test_bytes_of_a_path_that_are_no_text_are_printed() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    print_what_it_can(stream)
    stream.write("\udcff.py")
    stream.flush()
    assert stream.buffer.getvalue() == rb"\udcff.py"  # type: ignore[attr-defined]
