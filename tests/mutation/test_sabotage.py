"""The small form of `nox -s mutation -- judge`: the table can be applied, and a few sabotages are made and noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from shiftproof.harness.label_builders.laws import BUILDER_LAWS
from shiftproof.harness.laws import LAWS

from . import mutate, sabotage
from .sabotage import Outcome, Sabotage

ALL = sabotage.sabotages()


@pytest.mark.parametrize("each", ALL, ids=lambda each: f"{each.kind}: {each.name}")
def test_a_sabotage_can_be_made(each: Sabotage) -> None:
    """Its text is there once, what comes of it is Python and something else, and its tests are there."""
    source = (mutate.ROOT / each.file).read_text(encoding="utf-8")
    edited = each.edited(source)
    assert edited != source
    compile(edited, each.file, "exec")
    files = [word for word in each.tests.split() if word.endswith(".py")]
    assert files
    assert all((mutate.ROOT / file).is_file() for file in files)
    assert each.kind in sabotage.KINDS


def test_there_are_several_of_every_kind() -> None:
    counts = Counter(each.kind for each in ALL)
    assert set(counts) == set(sabotage.KINDS)
    assert min(counts.values()) >= 5
    assert len({(each.kind, each.name) for each in ALL}) == len(ALL)


def test_every_law_is_sabotaged() -> None:
    names = {each.name.split()[0] for each in ALL if each.kind == "a law that always passes"}
    assert names == {*LAWS, *BUILDER_LAWS}


def test_what_is_not_there_once_is_no_sabotage() -> None:
    each = Sabotage("a verdict swapped", "x", "harness/results.py", "a", "b", "")
    assert each.edited("bac") == "bbc"
    for source in ("", "aa"):
        with pytest.raises(ValueError, match="times 'a'"):
            each.edited(source)


def run(*arguments: str, code: int) -> str:
    """Run the script; in a process of its own, because this one has imported the judge."""
    done = subprocess.run(
        [sys.executable, sabotage.__file__, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_sabotages_are_noticed() -> None:
    out = run("--only", "what has no result passes", "--only", "0 of nothing", code=0)
    assert "| all | 2 | 2 | 0 |" in out
    assert "test_exit_code.py::test_nothing_that_was_judged_does_not_conform" in out
    assert [line.split()[0] for line in out.splitlines() if "none, tests/" in line] == ["survived", "survived"]


def test_what_no_test_notices_survives_and_is_told() -> None:
    blind = Sabotage("a verdict swapped", "x", "harness/results.py", "a", "b", "")
    survived, killed = Outcome(blind, 0, "", 1.0), Outcome(blind, 1, "tests/a/test_b.py::test_c[d]", 1.0)
    lost = Outcome(blind, 5, "", 1.0)
    known = survived._replace(sabotage=blind._replace(survives="Equivalent."))
    assert sabotage.unexpected([survived, killed, lost, known]) == [survived, lost]
    assert sabotage.unexpected([killed._replace(sabotage=known.sabotage)])
    report = sabotage.report([survived, killed, known, lost])
    assert "1 of 4 sabotages are noticed." in report
    assert "| a verdict swapped | 4 | 1 | 2 |" in report
    assert "`test_b.py::test_c`" in report
    assert "x (harness/results.py): survived. Equivalent." in report
    assert "x (harness/results.py): not run. **Unexplained.**" in report


def test_what_was_found_of_every_law_is_one_line() -> None:
    outcomes = [Outcome(each, 1, "tests/x/test_laws.py::test_a[b]", 1.0) for each in ALL if each.name.endswith(" does")]
    (line,) = [line for line in sabotage.listing(outcomes).splitlines() if "does" in line]
    assert line == f"| a law that always passes | each of {len(outcomes)} laws does | `test_laws.py` |"


def test_the_page_quotes_what_was_found() -> None:
    before, _, after = mutate.REPORT.read_text(encoding="utf-8").partition(mutate.PARTS)
    assert before.startswith("# Mutants of the reference")
    head, between = (mutate.HERE / "judge.md").read_text(encoding="utf-8").split("\n---\n")
    assert after.strip().startswith(head.strip())
    assert between.strip() in after
    for kind, count in Counter(each.kind for each in ALL).items():
        assert f"| {kind} | {count} |" in after, "the table has changed since; run `nox -s mutation -- judge`"


def test_sabotages_that_could_not_be_run_are_no_empty_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sabotages.json").write_text("[]")  # of an earlier run
    monkeypatch.setattr(sabotage.subprocess, "run", lambda *command, **how: None)
    assert sabotage.kept(tmp_path, 1, ask=False) == []
    with pytest.raises(SystemExit, match="were not run"):
        sabotage.kept(tmp_path, 1)


def test_writing_one_part_leaves_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# old\n")
    monkeypatch.setattr(mutate, "REPORT", page)
    mutate.write_part(None, "\njudge\n")
    assert page.read_text() == "# old\n\n## The judge\n\njudge\n"
    mutate.write_part("# new\n", None)
    assert page.read_text() == "# new\n\n## The judge\n\njudge\n"
    mutate.write_part(None, "\nother\n")
    assert page.read_text() == "# new\n\n## The judge\n\nother\n"
