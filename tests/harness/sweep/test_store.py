"""The file of a sweep: what is in it is not judged again, and what is not its own is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.report.sweep import SCHEMA
from shiftproof.harness.sweep.result import Outcome, Row
from shiftproof.harness.sweep.store import Header, Store

HEADER = Header(
    shiftproof="0.1.0",
    package="lib",
    versions={"lib": "5.18.0", "torch": "2.13.0"},
    python="",
    patterns=("Git*",),
    seed=3,
    profile="quick",
    device="cpu",
    dtype="float32",
)
ROWS = [Row(f"lib:Right{index}", Outcome.CONFORMS) for index in range(3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a header and three rows, as one that was killed leaves it."""
    path = tmp_path / "folder" / "sweep.jsonl"
    with Store(path, HEADER) as store:
        for row in ROWS:
            store.append(row)
    return path


def lines(path: Path) -> list[tuple[str, Any]]:
    """Kind and content of each line, all of them valid by the schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    read = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in read:
        jsonschema.validate(line, schema)
    return [next(iter(line.items())) for line in read]


def test_a_sweep_from_header_to_footer(path: Path) -> None:
    with Store(path, HEADER) as store:
        footer = store.finish(1.23456, finished=True)
    assert [kind for kind, _ in lines(path)] == ["header", "row", "row", "row", "footer"]
    assert lines(path)[0][1]["versions"] == {"lib": "5.18.0", "torch": "2.13.0"}
    assert lines(path)[-1][1] == {"counts": dict(footer.counts), "seconds": 1.235, "finished": True}
    assert footer.counts == {"conforms": 3, "fails": 0, "unshifted": 0, "no-pairs": 0, "not-built": 0, "not-judged": 0}


def test_a_row_is_on_disk_at_once(tmp_path: Path) -> None:
    with Store(tmp_path / "s.jsonl", HEADER) as store:
        store.append(ROWS[0])
        assert [kind for kind, _ in lines(tmp_path / "s.jsonl")] == ["header", "row"]


def test_it_goes_on_where_it_was_left(path: Path) -> None:
    with Store(path, HEADER) as store:
        assert list(store.rows.values()) == ROWS
        store.finish(1.0, finished=False)
    with Store(path, HEADER) as store:
        assert list(store.rows.values()) == ROWS
        store.append(Row("lib:Right3", Outcome.CONFORMS))
        store.finish(1.0, finished=True)
    assert [kind for kind, _ in lines(path)] == ["header", *["row"] * 4, "footer"]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_line_is_dropped(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    with Store(path, HEADER) as store:
        assert list(store.rows.values()) == ROWS[:2]
        store.append(ROWS[2])
    assert [kind for kind, _ in lines(path)] == ["header", "row", "row", "row"]


def test_a_header_that_was_torn_is_begun_again(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])
    with Store(path, HEADER) as store:
        assert store.rows == {}
    assert [kind for kind, _ in lines(path)] == ["header"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 4}, "seed 3, not 4"),
        ({"versions": {"lib": "6"}}, "versions .*5.18.0.*, not .*6"),
        ({"patterns": ()}, r"patterns \['Git\*'\], not \[\]"),
        ({"python": "/other/python"}, "python '', not '/other/python'"),
        ({"shiftproof": "0.2"}, "shiftproof '0.1.0', not '0.2'"),
    ],
)
def test_another_sweep_is_refused_and_left_alone(path: Path, changes: dict[str, Any], words: str) -> None:
    before = path.read_bytes()
    with pytest.raises(UsageError, match=f"holds another sweep .*{words}.*--fresh"):
        Store(path, replace(HEADER, **changes))
    assert path.read_bytes() == before


def test_unless_it_is_to_be_begun_anew(path: Path) -> None:
    with Store(path, replace(HEADER, seed=4), fresh=True) as store:
        assert store.rows == {}
    assert [content["seed"] for _, content in lines(path)] == [4]


@pytest.mark.parametrize("line", ["{}", "[1]", '{"row": {}}', '{"footer": {}}', "words", '{"header": {}}'])
def test_what_is_no_sweep_is_refused(path: Path, line: str) -> None:
    text = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*text[:2], line, *text[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"line 3 of .* is not a line of a sweep; .*--fresh"):
        Store(path, HEADER)


def test_two_sweeps_do_not_write_to_one_file(path: Path) -> None:
    with Store(path, HEADER), pytest.raises(UsageError, match="another sweep is writing to"):
        Store(path, HEADER)
    Store(path, HEADER).__exit__()


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written.*--out"):
        Store(tmp_path / "file" / "s.jsonl", HEADER)


def test_without_a_file_each_header_has_its_own() -> None:
    assert HEADER.default_path == replace(HEADER).default_path
    assert HEADER.default_path != replace(HEADER, seed=4).default_path
    assert HEADER.default_path.name.startswith("lib-5.18.0-")
