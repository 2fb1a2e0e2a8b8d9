"""Failing cases on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from shiftproof.harness.candidates.declaration import Candidate, UsageError
from shiftproof.harness.cases.recipe import Ids, Mask, Recipe
from shiftproof.harness.judge.store import Stored, load

CASE = Stored(
    candidate=Candidate(
        name="text", call="m:f", spec="sum", dtypes=("float32", "float16"), devices=("cpu",), rename={"logits": "x"}
    ),
    spec="sum",
    device="cpu",
    law="ALIGN-1",
    features=("moved: +1", "missing"),
    message="2 of 4 logit rows: …",
    recipe=Recipe(rows=2, length=3, masks=(Mask.NONE, Mask.ALL), ids=Ids.SEEDED, seed=7),
)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    id = CASE.save(folder)
    assert load(id, folder) == CASE
    assert [path.name for path in folder.iterdir()] == [f"{id}.json"]


def test_ids_stay_the_same_from_release_to_release() -> None:
    assert CASE.id == "7aafe350"


@pytest.mark.parametrize(
    "change",
    [
        {"candidate": replace(CASE.candidate, call="m:g")},
        {"spec": "torchtune"},
        {"device": "cuda"},
        {"law": "ALIGN-2"},
        {"recipe": replace(CASE.recipe, seed=8)},
    ],
)
def test_another_case_has_another_id(change: dict[str, object]) -> None:
    assert replace(CASE, **change).id != CASE.id  # type: ignore[arg-type]


def test_how_it_failed_is_no_part_of_the_id() -> None:
    assert replace(CASE, message="", features=(), candidate=replace(CASE.candidate, name="t")).id == CASE.id


def test_an_unknown_id_names_the_nearest(tmp_path: Path) -> None:
    id = CASE.save(tmp_path)
    wrong = id[:-1] + ("0" if id[-1] != "0" else "1")
    with pytest.raises(UsageError, match=rf"no stored case '{wrong}': .* holds 1 cases.* \(did you mean '{id}'\?\)"):
        load(wrong, tmp_path)


def test_an_unknown_id_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"no stored case 'abcd': .* holds no cases; run replay in the folder in which you ran check"
    ):
        load("abcd", tmp_path / "nowhere")


def corrupted(folder: Path, text: bytes) -> str:
    id = CASE.save(folder)
    (folder / f"{id}.json").write_bytes(text)
    return id


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"candidate": 1}', b"3", b"null", b'"text"'])
def test_a_file_that_cannot_be_read_back(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(UsageError, match=r"\.json cannot be read \(.*\); delete it and run check again"):
        load(corrupted(tmp_path, text), tmp_path)


@pytest.mark.parametrize("part", ["candidate", "features", "recipe", "law", "spec", "message", "device"])
def test_a_file_with_a_part_missing_or_unknown(tmp_path: Path, part: str) -> None:
    id = CASE.save(tmp_path)
    path = tmp_path / f"{id}.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    for broken in ({k: v for k, v in whole.items() if k != part}, {**whole, f"{part}_2": 1}):
        path.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(UsageError, match="cannot be read"):
            load(id, tmp_path)


def test_a_recipe_from_another_release_is_no_crash(tmp_path: Path) -> None:
    id = CASE.save(tmp_path)
    path = tmp_path / f"{id}.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seeded"', '"dealt"'), encoding="utf-8")
    with pytest.raises(UsageError, match="'dealt' is not a valid Ids"):
        load(id, tmp_path)


def test_a_folder_that_cannot_be_written_to_still_gives_the_id(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert CASE.save(tmp_path / "file") == CASE.id
