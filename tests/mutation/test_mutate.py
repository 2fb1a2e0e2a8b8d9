"""The small form of `nox -s mutation`, which needs mutmut: all but the run itself."""

from __future__ import annotations

import ast
import importlib
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from shiftproof.reference.profiles import PROFILES

from . import mutate

TARGETS = mutate.python_files("reference")
JUDGE = [file for path in mutate.JUDGE for file in mutate.python_files(path)]
IN_COPY = ast.parse(mutate.HERE.joinpath("in_copy.py").read_text(encoding="utf-8"))


def functions_of(source: str) -> dict[str, str]:
    """Every function and method of a module by its name in explained.toml, with its text, unindented."""
    tree, lines, found = ast.parse(source), source.splitlines(), {}
    for owner in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        for node in owner.body:
            if isinstance(node, ast.FunctionDef):
                name = f"{owner.name}.{node.name}" if isinstance(owner, ast.ClassDef) else node.name
                found[name] = "\n".join(line.strip() for line in lines[node.lineno - 1 : node.end_lineno])
    return found


def read(file: str) -> str:
    return mutate.in_functions(file, (mutate.ROOT / file).read_text(encoding="utf-8"))


def test_the_reference_is_mutated_but_for_what_is_there_to_be_timed() -> None:
    assert {"reference/oracle.py", "reference/profiles.py"} <= set(TARGETS)
    assert all((mutate.ROOT / timed).exists() for timed in mutate.TIMED)
    assert not [file for file in TARGETS if "yardstick" in file or file.endswith("eager.py")]
    assert mutate.python_files("reference/eager.py") == ["reference/eager.py"], "when it is asked for"


@pytest.mark.parametrize("identity", mutate.explanations(), ids=lambda identity: f"{identity[1]}-{identity[3][:30]}")
def test_an_explanation_is_of_lines_that_are_there(identity: tuple[str, str, str, str]) -> None:
    file, function, before, _ = identity
    assert file in [*TARGETS, *JUDGE]
    assert before in functions_of(read(file))[function]


def test_the_profiles_are_the_same_when_each_is_declared_in_a_function() -> None:
    """As mutmut needs them. The functions are there to be called again, which makes the same once more."""
    module = ModuleType("shiftproof.reference.declared")
    module.__dict__["__package__"] = "shiftproof.reference"
    exec(compile(read("reference/profiles.py"), "declared", "exec"), module.__dict__)
    assert module.PROFILES == PROFILES
    module.PROFILES.clear()
    for declare in [each for name, each in vars(module).items() if name.startswith("declare")]:
        declare()
    assert module.PROFILES == PROFILES


def test_a_decorator_stands_below_what_it_decorates() -> None:
    source = "@first\n@second(1)\ndef f():\n    pass\n\nclass C:\n    @staticmethod\n    def g():\n        pass\n"
    assert mutate.undecorated(source).startswith("def f():\n    pass\n\nf = second(1)(f)\nf = first(f)\n")
    assert "@staticmethod" in mutate.undecorated(source), "which mutmut knows"
    for file in TARGETS:
        compile(read(file), file, "exec")


def test_what_an_interrupted_run_left_half_written_is_made_again(tmp_path: Path) -> None:
    texts = {"whole.py": "x = 1\n", "empty.py": "", "cut.py": "def f(", "cut.py.meta": "{}", "whole.py.meta": "{}"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    mutate.forget_half_written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole.py", "whole.py.meta"]


def test_the_copy_has_what_mutmut_and_the_tests_need(tmp_path: Path) -> None:
    mutate.prepare(tmp_path, TARGETS, [mutate.TESTS])
    config = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    assert all((tmp_path / file).is_file() for file in config["only_mutate"])
    assert all((tmp_path / file).exists() for file in [*config["source_paths"], *config["also_copy"]])
    for chosen in config["pytest_add_cli_args_test_selection"]:
        assert (tmp_path / chosen.removeprefix("--ignore=")).is_dir()
    for file in ("spec.py", "yardstick/rows.py"):
        assert (tmp_path / "src" / "shiftproof" / "reference" / file).is_file()


def test_what_is_made_when_it_is_imported_is_there() -> None:
    """The names by which in_copy.py finds what it has to make anew."""
    constants = {
        node.targets[0].id: node.value
        for node in IN_COPY.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    profiles = ast.literal_eval(constants["PROFILES"])
    assert hasattr(importlib.import_module(profiles), "PROFILES")
    entries = eval(compile(ast.Expression(constants["AT_IMPORT"]), "in_copy.py", "eval"), {"PROFILES": profiles})
    assert entries
    for prefix, test in entries.items():
        module, _, start = prefix.partition(".x_")
        source = read(f"reference/{module.rpartition('.')[2]}.py")
        assert [name for name in functions_of(source) if name.startswith(start)], prefix
        assert (mutate.ROOT / mutate.TESTS / test).is_file()


def test_the_report_tells_survivors_apart() -> None:
    (file, function, before, after), reason = next(iter(mutate.explanations().items()))
    explained = mutate.Mutant(file, function, "survived", before, after)
    mutants = [
        explained,
        explained._replace(after="something else"),
        explained._replace(status="killed", before="", after=""),
        explained._replace(status="timeout"),
    ]
    unexplained, stale = mutate.compare(mutants, [file])
    assert unexplained == [mutants[1]]
    assert explained.identity not in stale
    assert set(stale) == {each for each in mutate.explanations() if each[0] == file} - {explained.identity}
    report = mutate.report(mutants, [file])
    assert f"| {file} | 4 | 1 | 1 | 1 | 1 | 0 |" in report
    assert f"`{function}`: {reason}" in report
    assert f"`{function}`: **Unexplained.**" in report
    head = mutate.HERE.joinpath("head.md").read_text(encoding="utf-8")
    assert report.startswith(head)
    assert mutate.REPORT.read_text(encoding="utf-8").startswith(head), "the page in docs/ has another head"


def test_the_small_files_of_the_judge_have_tests() -> None:
    assert [*mutate.JUDGE] == JUDGE
    assert all((mutate.ROOT / tests).is_file() for tests in mutate.JUDGE_TESTS)
    for file in JUDGE:
        compile(read(file), file, "exec")
