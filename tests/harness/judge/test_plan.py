"""From options to a plan: the command line wins, and what is misspelt is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shiftproof.harness.candidates.declaration import Candidate, UsageError
from shiftproof.harness.judge.plan import candidates_of, from_options, plan

TOML = """
[tool.shiftproof.candidates.text]
call = "m:f"
spec = "sum"
dtypes = ["bfloat16"]
precision = "native"

[tool.shiftproof.candidates.other]
call = "m:g"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that declares two candidates."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(TOML)
    return tmp_path


def test_a_declared_name() -> None:
    (found,) = candidates_of(["text"])
    assert (found.call, found.spec, found.dtypes, found.precision) == ("m:f", "sum", ("bfloat16",), "native")
    assert found.cwd == str(Path.cwd())


def test_all_that_are_declared_each_once() -> None:
    assert [c.name for c in candidates_of([], all_declared=True)] == ["text", "other"]
    assert [c.name for c in candidates_of(["other", "m:h"], all_declared=True)] == ["other", "m:h", "text"]


def test_the_command_line_wins() -> None:
    (found,) = candidates_of(
        ["text"],
        spec="torchtune",
        devices=["cpu", "cuda:1"],
        dtypes=["float16"],
        precision="strict",
        no_gradient=True,
        pythons=["/other/python"],
    )
    assert (found.spec, found.devices, found.dtypes) == ("torchtune", ("cpu", "cuda:1"), ("float16",))
    assert (found.precision, found.gradient, found.python) == ("strict", False, "/other/python")


def test_each_candidate_under_each_interpreter_once() -> None:
    found = candidates_of(["text", "m:h"], pythons=["old/python", "new/python", "old/python"])
    assert [(each.name, each.python) for each in found] == [
        (name, python) for name in ("text", "m:h") for python in ("old/python", "new/python")
    ]


def test_another_file_of_declarations(folder: Path) -> None:
    (folder / "mine.toml").write_text('[tool.shiftproof.candidates.third]\ncall = "m:h"\n')
    assert [c.name for c in candidates_of([], all_declared=True, config="mine.toml")] == ["third"]
    with pytest.raises(UsageError, match="'text' is neither"):
        candidates_of(["text"], config="mine.toml")


def test_no_declarations_are_no_harm(folder: Path) -> None:
    (folder / "pyproject.toml").unlink()
    assert [c.name for c in candidates_of(["m:f"])] == ["m:f"]
    with pytest.raises(UsageError, match="nothing to judge"):
        candidates_of([], all_declared=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtypes": ["float23"]}, r"no dtype is called 'float23' \(did you mean 'float32'"),
        ({"dtypes": ["float32", "half"]}, "no dtype is called 'half'"),
        ({"precision": "nativ"}, "did you mean 'native'"),
        ({"devices": ["cpuu"]}, "did you mean 'cpu'"),
        ({"devices": ["mps"]}, "no device is called 'mps'"),
        ({"config": "nowhere.toml"}, "nowhere.toml does not exist"),
    ],
)
def test_misspelt(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        candidates_of(["text"], **options)


def test_a_misspelt_name_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'texts' is neither .* \(did you mean 'text'\?\)"):
        candidates_of(["texts"])


ONE = [Candidate("text", "m:f", spec="sum")]


def test_a_plan() -> None:
    made = plan(ONE, seed=7, in_process=True, deadline=2.0)
    assert (made.seed, made.profile.name, made.options.in_process, made.options.deadline) == (7, "quick", True, 2.0)
    assert [job.name for job in made.jobs] == ["text"]


def test_a_seed_is_drawn_unless_the_profile_is_repeatable() -> None:
    assert len({plan(ONE).seed for _ in range(4)}) == 4
    assert plan(ONE, profile="ci").seed == 0
    assert plan(ONE, profile="ci", seed=3).seed == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"profile": "fast"}, "no profile is called 'fast'"),
        ({"seed": -1}, "seed is -1"),
        ({"deadline": 0.0}, "deadline is 0"),
        ({"deadline": float("nan")}, "deadline is nan"),
    ],
)
def test_what_cannot_be_planned(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(ONE, **options)


def options(**changes: Any) -> dict[str, Any]:
    """The plugin's options where none is given, and some changes."""
    given: dict[str, Any] = dict.fromkeys(("spec", "config", "precision", "seed"))
    given |= {"device": [], "python": [], "dtype": [], "no_gradient": False, "in_process": False, "declared": False}
    given |= {
        "requires": [],
        "allow": [],
        "shape": [],
        "rename": [],
        "init": [],
        "kwarg": [],
        "profile": "quick",
        "branches": "named",
        "deadline": 10.0,
        **changes,
    }
    return {"shiftproof": given.pop("targets", []), **{f"shiftproof_{name}": value for name, value in given.items()}}


def test_from_the_options_of_the_plugin() -> None:
    made = from_options(options(targets=["m:f"], spec="sum", dtype=["float32", "float16"], seed=4, deadline=1.5))
    assert [job.name for job in made.jobs] == ["m:f[float32]", "m:f[float16]"]
    assert (made.seed, made.options.deadline, made.all_branches) == (4, 1.5, False)


def test_all_branches_are_due_if_asked_for_and_in_a_complete_profile() -> None:
    assert from_options(options(targets=["m:f"], spec="sum", branches="all")).all_branches
    assert from_options(options(targets=["m:f"], spec="sum", profile="ci")).all_branches


def test_a_candidate_without_a_spec_is_not_planned() -> None:
    with pytest.raises(UsageError, match="other has no spec; give one, or run `shiftproof identify other`"):
        from_options(options(declared=True))
