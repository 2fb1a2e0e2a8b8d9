"""The sessions of noxfile.py, read and not run: what each names is there, and CONTRIBUTING.md tells of all of them."""

from __future__ import annotations

import ast
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MARKERS = {each.partition(":")[0]: each for each in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]}
del MARKERS["representatives(n)"]  # it makes some tests slow, and chooses none
SESSIONS = {
    node.name: node
    for node in ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8")).body
    if isinstance(node, ast.FunctionDef) and any("session" in ast.unparse(each) for each in node.decorator_list)
}
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in CONTRIBUTING.split("\n") if line[:3] == "| `"]


def strings(node: ast.AST) -> list[str]:
    """Every string in the arguments of calls; what is said to people is left out."""
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    found = (ast.walk(part) for call in calls for part in call.args)
    return [each.value for some in found for each in some if isinstance(each, ast.Constant) and type(each.value) is str]


def marks_of(session: str) -> list[str]:
    """The expressions that a session gives to pytest's -m."""
    texts = strings(SESSIONS[session])
    after = [text for flag, text in pairwise(texts) if flag == "-m"]
    return [text for text in after if text not in ("pip", "build", "venv", "shiftproof")]


def test_there_are_sessions() -> None:
    assert {"tests", "lint", "peers", "figures"} <= set(SESSIONS)


def test_the_session_of_ci_leaves_out_what_has_a_mark() -> None:
    assert ["not " + " and not ".join(MARKERS)] == [
        "not " + " and not ".join(sorted(expression.removeprefix("not ").split(" and not "), key=list(MARKERS).index))
        for expression in marks_of("tests")
    ]


def test_the_session_for_a_gpu_runs_the_marked_tests_by_its_script() -> None:
    assert "tests/gpu/run.py" in strings(SESSIONS["gpu"])
    assert '"-m", "gpu"' in (ROOT / "tests" / "gpu" / "marked.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("marker", [marker for marker in MARKERS if marker != "gpu"])
def test_a_mark_is_chosen_by_the_session_that_it_names(marker: str) -> None:
    [named] = re.findall(r"`nox -s (\w+)`", MARKERS[marker])
    # `versions` has the marked tests of one file, which skip themselves in `peers`.
    also = ["versions"] if marker == "peers" else []
    assert sorted(name for name in SESSIONS if marker in marks_of(name)) == sorted([named, *also])


def test_every_mark_is_carried_by_a_test() -> None:
    files = [file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("*.py")]
    assert set(MARKERS) <= {name for text in files for name in re.findall(r"pytest\.mark\.(\w+)", text)}


@pytest.mark.parametrize("session", SESSIONS)
def test_what_a_session_runs_and_installs_is_there(session: str) -> None:
    for text in strings(SESSIONS[session]):
        if re.fullmatch(r"(docs|tests|examples)(/[\w.-]+)+", text):
            assert (ROOT / text).exists(), text
    for call in [each for each in ast.walk(SESSIONS[session]) if isinstance(each, ast.Call)]:
        if ast.unparse(call.func) in ("install", "install_bare"):
            groups = {ast.literal_eval(each) for each in call.args[1:]}
            assert groups <= set(PYPROJECT["dependency-groups"])


def test_a_session_that_is_told_of_exists() -> None:
    files = [*ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/scripts/*")]
    files += [
        file for folder in ("tests", "harness", "reference", "examples") for file in (ROOT / folder).rglob("*.py")
    ]
    told = {name for file in files if file.is_file() for name in re.findall(r"`nox -s (\w+)", file.read_text("utf-8"))}
    assert {"tests", "peers"} <= told <= set(SESSIONS)


def test_contributing_tells_of_every_session_and_of_no_other() -> None:
    assert [row[0] for row in ROWS if len(row) == 5] == [row[0] for row in ROWS], "a row with another number of cells"
    assert sorted(row[0].strip("`") for row in ROWS) == sorted(SESSIONS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip("`"))
def test_what_a_row_of_contributing_names_is_there(row: list[str]) -> None:
    folder = Path()
    for cell in (row[1], row[3], row[4]):
        for name in re.findall(r"`([\w*./-]+)`", cell):
            if name in {*MARKERS, *SESSIONS} or name.startswith("-"):
                continue
            found = list(ROOT.glob(name)) or list((ROOT / folder).glob(name))
            assert found, name
            folder = Path(name).parent
