"""The folder beside a user's code: what is in it, and for how long."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shiftproof.harness.judge.folder import KEPT, make, prune

from .test_store import CASE


def old(folder: Path, many: int) -> list[Path]:
    """Files of earlier runs, the oldest first."""
    files = [folder / f"{number:08x}.json" for number in range(many)]
    for age, file in enumerate(files):
        file.write_text("{}")
        os.utime(file, (1_000_000 + age, 1_000_000 + age))
    return files


def test_git_ignores_it(tmp_path: Path) -> None:
    CASE.save(tmp_path / ".shiftproof" / "replays")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    command = ["git", "-C", str(tmp_path), "status", "--porcelain"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == ""


def test_what_the_user_wrote_into_its_gitignore_stays(tmp_path: Path) -> None:
    (tmp_path / ".shiftproof").mkdir()
    (tmp_path / ".shiftproof" / ".gitignore").write_text("sweeps\n")
    make(tmp_path / ".shiftproof" / "replays")
    assert (tmp_path / ".shiftproof" / ".gitignore").read_text() == "sweeps\n"


def test_another_folder_gets_no_gitignore(tmp_path: Path) -> None:
    make(tmp_path / "sweeps")
    assert list((tmp_path / "sweeps").iterdir()) == []


def test_the_newest_cases_stay(tmp_path: Path) -> None:
    files = old(tmp_path, KEPT + 5)
    (tmp_path / "notes.txt").write_text("not ours")
    id = CASE.save(tmp_path)
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {f"{id}.json", "notes.txt", *(file.name for file in files[6:])}


def test_what_this_run_stored_stays_whatever_its_number(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.json").write_text("{}")
    prune(tmp_path, "*.json", kept=2)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_that_cannot_be_deleted_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old(tmp_path, 3)

    def refuse(file: Path) -> None:
        raise PermissionError(file)

    monkeypatch.setattr(Path, "unlink", refuse)
    prune(tmp_path, "*.json", kept=1)
    assert len(list(tmp_path.iterdir())) == 3
