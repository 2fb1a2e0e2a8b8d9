"""Mutate parts of the package with mutmut, and compare the mutants that survive with those that are explained.

    nox -s mutation                                   # reference/, with the tests of tests/reference
    nox -s mutation -- judge                          # the judge: sabotage.py, and its small files with their tests
    nox -s mutation -- --processes 2 --fresh          # in two processes, forgetting what earlier runs found
    nox -s mutation -- harness/bounds/rounding.py --tests tests/harness/bounds/test_rounding.py

Everything happens in a copy of the tree under ``.mutation/``, in the layout of an installed package, which is where
mutmut expects a module to be. mutmut mutates the bodies of functions alone, so what else is worth mutating is put into
functions on the way to the copy, line for line: see :func:`undecorated` and :func:`declared`.

What was found is kept: a later run tests the functions that changed, and, after a change of the tests, the survivors.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

try:
    from . import sabotage
except ImportError:  # as a script
    import sabotage  # type: ignore[no-redef]

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
EXPLAINED = HERE / "explained.toml"
REPORT = ROOT / "docs" / "mutation.md"
PACKAGES: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
FOLDER_OF = {folder: Path("src", *package.split(".")) for package, folder in PACKAGES.items()}
TESTS = "tests/reference"
# What of the judge is pure and small enough to be mutated line by line. The rest of it is sabotaged.
JUDGE = (
    "harness/results.py",
    "harness/branches.py",
    "harness/judge/conclusion.py",
    "harness/cli/exit_code.py",
    "harness/candidates/requires.py",
    "harness/candidates/allowance.py",
)
JUDGE_TESTS = tuple(f"tests/{Path(file).parent}/test_{Path(file).stem}.py" for file in JUDGE)
PARTS = "\n## The judge\n"  # of the report: before it the reference, and after it the judge
# What is there to be timed is no reference: the laws judge it as any candidate. It is mutated when asked for.
TIMED = (Path("reference", "yardstick"), Path("reference", "eager.py"))


class Mutant(NamedTuple):
    """One mutant: where it is, what became of it, and its change, by which it is known in explained.toml."""

    file: str
    function: str
    status: str
    before: str
    after: str

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return self.file, self.function, self.before, self.after


def main() -> None:
    asked = arguments()
    is_judge = asked.paths == ["judge"]
    if is_judge:
        asked.paths, asked.tests = [*JUDGE], [*JUDGE_TESTS]
    targets = [file for path in asked.paths for file in python_files(path)]
    is_reference = asked.paths == ["reference"] and asked.tests == [TESTS]
    name = "reference" if is_reference else "judge" if is_judge else re.sub(r"\W+", "-", " ".join(asked.paths))
    work = ROOT / ".mutation" / name
    if asked.fresh:
        shutil.rmtree(work, ignore_errors=True)
    if not asked.report_only:
        prepare(work, targets, asked.tests)
        mutate(work, asked.processes)
    mutants = list(results(work, targets))
    unexplained, stale = compare(mutants, targets)
    sabotages = sabotage.kept(work, asked.processes, ask=not asked.report_only) if is_judge else []
    if is_reference:
        write_part(report(mutants, targets), None)
    elif is_judge:
        write_part(None, judge_report(mutants, targets, sabotages))
    else:
        (work / "report.md").write_text(report(mutants, targets))
    print(table(mutants, targets))
    for mutant in unexplained:
        print(f"\nunexplained: {mutant.file} {mutant.function}: {mutant.status}\n{diff(mutant)}")
    for file, function, before, after in stale:
        print(f"\nstale explanation, no such mutant survives: {file} {function}\n{before}\n->\n{after}")
    wrong = sabotage.unexpected(sabotages)
    for outcome in wrong:
        print(f"\nsabotage that is {outcome.status}: {outcome.sabotage.kind}: {outcome.sabotage.name}")
    unchecked = sum(mutant.status == "not checked" for mutant in mutants)
    counted = [mutant for mutant in unexplained if is_judge or mutant.file.startswith("reference/")]
    if counted or stale or unchecked or wrong:
        sys.exit(f"{len(counted)} unexplained, {len(stale)} stale, {unchecked} not checked, {len(wrong)} sabotages")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "paths", nargs="*", default=["reference"], help="judge, or files or folders to mutate, from the root"
    )
    parser.add_argument("--tests", nargs="+", default=[TESTS], help="tests to run, from the root")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many mutants to test at once")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs found")
    parser.add_argument("--report-only", action="store_true", help="report what earlier runs found, and run nothing")
    return parser.parse_args()


def python_files(path: str) -> list[str]:
    found = ROOT / path
    files = [file.relative_to(ROOT) for file in ([found] if found.is_file() else sorted(found.rglob("*.py")))]
    if not files:
        sys.exit(f"{path}: no Python file is there")
    asked = {Path(path), *Path(path).parents}
    apart = [timed for timed in TIMED if timed not in asked]
    return [file.as_posix() for file in files if not {file, *file.parents} & set(apart)]


# The copy -------------------------------------------------------------------------------------------------------------


def prepare(work: Path, targets: list[str], tests: list[str]) -> None:
    """Bring the copy up to date. A file that did not change is left alone, and with it what is known of its mutants."""
    for folder, package in FOLDER_OF.items():
        for file in sorted((ROOT / folder).rglob("*")):
            name = file.relative_to(ROOT).as_posix()
            if file.is_dir() or "__pycache__" in file.parts or ".egg-info" in name:
                continue
            to = work / package / file.relative_to(ROOT / folder)
            write(to, in_functions(name, file.read_text()).encode() if name in targets else file.read_bytes())
    forget_half_written(work / "mutants")
    shutil.copy(HERE / "in_copy.py", work / "conftest.py")
    for folder in (work / "tests", work / "mutants" / "tests"):
        shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tests", work / "tests", ignore=ignored)
    shutil.copytree(ROOT / "examples", work / "examples", ignore=ignored, dirs_exist_ok=True)
    config = (ROOT / "pyproject.toml").read_text()
    selected = [*tests, f"--ignore={Path('tests', TIMED[0])}"]
    chosen = {"only_mutate": [in_copy(file) for file in targets], "pytest_add_cli_args_test_selection": selected}
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in chosen.items())
    write(work / "pyproject.toml", config.replace("[tool.mutmut]\n", f"[tool.mutmut]\n{lines}").encode())


def forget_half_written(mutants: Path) -> None:
    """Remove what a run that was interrupted left half written: mutmut takes each file that is there for complete."""
    for file in mutants.rglob("*.py"):
        try:
            is_complete = file.stat().st_size > 0 and bool(ast.parse(file.read_bytes()))
        except SyntaxError:
            is_complete = False
        if not is_complete:
            for each in file.parent.glob(f"{file.name}*"):
                each.unlink()


def write(file: Path, content: bytes) -> None:
    if not file.exists() or file.read_bytes() != content:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def in_copy(file: str) -> str:
    """Where a file of the tree is in the copy."""
    folder, _, rest = file.partition("/")
    return (FOLDER_OF[folder] / rest).as_posix()


def in_functions(name: str, source: str) -> str:
    return declared(source) if name == "reference/profiles.py" else undecorated(source)


def undecorated(source: str) -> str:
    """``@d`` above ``def f`` as ``f = d(f)`` below it: the same, but mutmut leaves decorated functions alone."""
    lines = source.splitlines()
    for node in sorted(ast.walk(ast.parse(source)), key=lambda node: -getattr(node, "lineno", 0)):
        names = {ast.unparse(decorator) for decorator in getattr(node, "decorator_list", [])}
        if not isinstance(node, ast.FunctionDef) or not names or names & {"staticmethod", "classmethod"}:
            continue
        assert node.end_lineno is not None
        first = node.decorator_list[0].lineno - 1
        indent = " " * node.col_offset
        below = [f"{indent}{node.name} = {ast.unparse(each)}({node.name})" for each in reversed(node.decorator_list)]
        lines[first : node.end_lineno] = [*lines[node.lineno - 1 : node.end_lineno], "", *below]
    return "\n".join(lines) + "\n"


def declared(source: str) -> str:
    """The table of profiles as a function a profile, each called below it."""
    lines, out = source.splitlines(), []
    for node in ast.parse(source).body:
        assert node.end_lineno is not None
        text = lines[node.lineno - 1 : node.end_lineno]
        match node:
            case ast.Expr(value=ast.Call(args=[ast.Constant(value=str(profile)), *_])):
                name, head = f"declare_{re.sub(r'[^a-z0-9]', '_', profile)}", []
            case ast.Assign(targets=[ast.Name(id=constant)]):
                name, head = f"declare{constant}", [f"    global {constant}"]
            case _:
                out += [*text, ""]
                continue
        out += [f"def {name}() -> None:", *head, *(f"    {line}" for line in text), "", f"{name}()", ""]
    return "\n".join(out) + "\n"


# The run --------------------------------------------------------------------------------------------------------------


def mutate(work: Path, processes: int) -> None:
    """Run mutmut over what is not known yet; after a change of the tests, over the survivors as well.

    mutmut forks a process that has imported everything already. A mutant that survives there is tested once more with
    everything imported under it, since what a test module made of the code at its head was made without the mutant.
    """
    tests = hashlib.sha256(b"".join(file.read_bytes() for file in sorted((work / "tests").rglob("*.py")))).hexdigest()
    seen, survived_afresh = work / "tests.sha256", work / "survived-afresh.json"
    if not seen.exists() or seen.read_text() != tests:
        forget(work, survivors(work))
        survived_afresh.write_text("[]")
        (work / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
        seen.write_text(tests)
    run_mutmut(work, processes)
    known = set(json.loads(survived_afresh.read_text()))
    if new := [key for key in survivors(work) if key not in known]:
        print(f"\n{len(new)} survivors, once more, with everything imported under the mutant", flush=True)
        forget(work, new)
        run_mutmut(work, processes, SHIFTPROOF_IMPORT_AFRESH="1")
        survived_afresh.write_text(json.dumps(survivors(work)))


def survivors(work: Path) -> list[str]:
    """The mutants that are known and were not killed, each with the hash of its function."""
    found = []
    for file in (work / "mutants").rglob("*.meta"):
        meta = json.loads(file.read_text())
        for name, code in meta["exit_code_by_key"].items():
            if code is not None and code not in (1, 3):
                function = name.rpartition(".")[2].partition("__mutmut_")[0]
                found.append(f"{name} {meta['hash_by_function_name'].get(function)}")
    return found


def forget(work: Path, mutants: Iterable[str]) -> None:
    names = {each.partition(" ")[0] for each in mutants}
    for file in (work / "mutants").rglob("*.meta"):
        meta = json.loads(file.read_text())
        codes = meta["exit_code_by_key"]
        meta["exit_code_by_key"] = {name: None if name in names else code for name, code in codes.items()}
        file.write_text(json.dumps(meta))


def run_mutmut(work: Path, processes: int, **variables: str) -> None:
    # What a test starts in a process of its own imports the copy too. A folder that was not there when Python started
    # is passed over in imports even after mutmut has made it, and the installed package would be tested instead.
    (work / "mutants" / "src").mkdir(parents=True, exist_ok=True)
    found = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(work / "mutants" / "src"), **variables}
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", str(processes)]
    done = subprocess.run(command, cwd=work, env=os.environ | found, check=False)
    if done.returncode:
        sys.exit(f"mutmut ended with {done.returncode}")


def results(work: Path, targets: list[str]) -> Iterator[Mutant]:
    """Every mutant of the targets; the change of one that was killed is not looked up."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code

    with contextlib.chdir(work):
        for file in targets:
            meta = Path("mutants", in_copy(file) + ".meta")
            codes = json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}
            for name, code in codes.items():
                status = status_by_exit_code[code]
                qualified = name.rpartition(".")[2].partition("__mutmut_")[0]
                function = qualified.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
                lines = [] if status == "killed" else get_diff_for_mutant(name, path=in_copy(file)).split("\n")[2:]
                before = "\n".join(line[1:].strip() for line in lines if line.startswith("-"))
                after = "\n".join(line[1:].strip() for line in lines if line.startswith("+"))
                yield Mutant(file, function, status, before, after)


# The report -----------------------------------------------------------------------------------------------------------


def explanations() -> dict[tuple[str, str, str, str], str]:
    """Why a mutant survives, by its identity. An entry explains one change, or several of the same lines."""
    found = {}
    for each in tomllib.loads(EXPLAINED.read_text()).get("mutant", []):
        for after in [each["after"]] if isinstance(each["after"], str) else each["after"]:
            found[each["file"], each["function"], each["before"], after] = each["reason"]
    return found


def survived(mutant: Mutant) -> bool:
    return mutant.status not in ("killed", "not checked", "timeout")


def compare(mutants: Iterable[Mutant], targets: list[str]) -> tuple[list[Mutant], list[tuple[str, str, str, str]]]:
    """The survivors without an explanation, and the explanations without a survivor."""
    explained = explanations()
    survivors = {mutant.identity: mutant for mutant in mutants if survived(mutant)}
    unexplained = [mutant for identity, mutant in survivors.items() if identity not in explained]
    return unexplained, [each for each in explained if each[0] in targets and each not in survivors]


def table(mutants: list[Mutant], targets: list[str]) -> str:
    explained = explanations()
    heads = ("file", "mutants", "killed", "timeout", "survived, explained", "survived, unexplained", "not checked")
    rows = []
    for file in [*targets, "all"]:
        chosen = [mutant for mutant in mutants if file in (mutant.file, "all")]
        if chosen:
            by = Counter(
                ("explained" if mutant.identity in explained else "unexplained") if survived(mutant) else mutant.status
                for mutant in chosen
            )
            states = ("killed", "timeout", "explained", "unexplained", "not checked")
            rows.append((file, str(len(chosen)), *(str(by[state]) for state in states)))
    lines = [heads, ("---", *["---:"] * (len(heads) - 1)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def diff(mutant: Mutant) -> str:
    removed = [f"- {line}" for line in mutant.before.split("\n")]
    return "\n".join([*removed, *(f"+ {line}" for line in mutant.after.split("\n"))])


def write_part(reference: str | None, judge: str | None) -> None:
    """Write one part of the page, and leave the other as it is."""
    before, _, after = REPORT.read_text().partition(PARTS)
    before = before.rstrip() if reference is None else reference.rstrip()
    after = after if judge is None else judge
    REPORT.write_text(f"{before}\n{PARTS}{after}" if after else f"{before}\n")


def report(mutants: list[Mutant], targets: list[str]) -> str:
    return "\n\n".join([(HERE / "head.md").read_text().rstrip(), *found(mutants, targets)]) + "\n"


def judge_report(mutants: list[Mutant], targets: list[str], outcomes: list[sabotage.Outcome]) -> str:
    head, between = (HERE / "judge.md").read_text().split("\n---\n")
    parts = [head.strip(), sabotage.report(outcomes), between.strip(), *found(mutants, targets, "###")]
    return "\n" + "\n\n".join(parts) + "\n"


def found(mutants: list[Mutant], targets: list[str], heading: str = "##") -> list[str]:
    """The table, and every survivor with its reason."""
    explained = explanations()
    parts = [table(mutants, targets)]
    for file in targets:
        survivors = [mutant for mutant in mutants if mutant.file == file and survived(mutant)]
        if survivors:
            parts.append(f"{heading} Survivors in {file}")
        for mutant in survivors:
            reason = explained.get(mutant.identity, "**Unexplained.**")
            parts += [f"`{mutant.function}`: {reason}", f"```diff\n{diff(mutant)}\n```"]
    return parts


if __name__ == "__main__":
    main()
