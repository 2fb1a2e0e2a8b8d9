"""Sabotage the judge, one edit of `harness/` at a time, and see whether a fast test notices.

    nox -s mutation -- judge                                     # all, and mutmut on small files of the judge
    python tests/mutation/sabotage.py --only "a candidate lost"  # those whose kind or name has these words

The table is sabotages.toml. The edits are made while a module is imported, in a forked process that has torch and
pytest already: no file changes, and a sabotage takes as long as its tests.
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("sabotages.toml")
LAWS = "harness/laws"
BUILDER_LAWS = "harness/label_builders/laws.py"
KINDS = (
    "a law that raises",
    "a law missing",
    "a law that always passes",
    "a bound too wide",
    "a kind of case dropped",
    "a branch forgotten",
    "a verdict swapped",
    "a comparison inverted",
    "a candidate lost",
    "an exit code changed",
)
NEEDED = (
    "torch",
    "einops",
    "hypothesis.strategies",
    "jsonschema",
    "numpy.random",
    "pytest",
    "rich.console",
    "rich.progress",
    "rich.table",
    "safetensors.torch",
    "sympy",
    "shiftproof.reference.builders",
    "shiftproof.reference.oracle",
    "shiftproof.reference.profiles",
)
"""What the tests of a sabotage import besides the judge."""
_SECONDS = 300.0  # that a sabotage's tests may take; one that hangs is noticed too
_SECONDS_OF_ALL = 1800.0  # that a whole file of tests may take without any sabotage
_SURVIVED, _KILLED = 0, 1  # pytest's own codes; every other means that the tests could not be run


class Sabotage(NamedTuple):
    """One edit of one file, and the tests that have to notice it, as arguments of pytest.

    ``survives`` says why none does, of what is known to survive.
    """

    kind: str
    name: str
    file: str
    before: str
    after: str
    tests: str
    survives: str = ""

    @property
    def module(self) -> str:
        return "shiftproof." + self.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def edited(self, source: str) -> str:
        """The source with the edit.

        Raises:
            ValueError: when what it replaces is not there exactly once.
        """
        if source.count(self.before) != 1:
            raise ValueError(f"{self.name}: {self.file} has {source.count(self.before)} times {self.before!r}")
        return source.replace(self.before, self.after)


class Outcome(NamedTuple):
    """What became of a sabotage: ``code`` is pytest's, ``noticed`` the first test that failed."""

    sabotage: Sabotage
    code: int
    noticed: str
    seconds: float
    output: str = ""

    @property
    def status(self) -> str:
        return {_SURVIVED: "survived", _KILLED: "killed"}.get(self.code, "not run")


# The table ------------------------------------------------------------------------------------------------------------


def sabotages() -> list[Sabotage]:
    """Those of the table. An entry with ``each`` stands for one of every law."""
    found = []
    read = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    for entry in read["sabotage"]:
        each = entry.pop("each", "")
        entry["tests"] = " ".join(read["tests"].get(word, word) for word in entry["tests"].split(" "))
        if not each:
            found.append(Sabotage(**entry))
            continue
        for law in laws(of_builders=each == "builder"):
            found.append(Sabotage(**{name: text.replace("{law}", law) for name, text in entry.items()}))
    return found


def laws(of_builders: bool) -> list[str]:
    """The ids of the laws, read and not imported."""
    files = [ROOT / BUILDER_LAWS] if of_builders else sorted(set((ROOT / LAWS).glob("*.py")) - {ROOT / BUILDER_LAWS})
    found = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "law":
                    found.append(ast.literal_eval(decorator.args[0]))
    return found


# The run --------------------------------------------------------------------------------------------------------------


class Edited(importlib.machinery.SourceFileLoader):
    """Loads a module with a sabotage in it."""

    def __init__(self, sabotage: Sabotage) -> None:
        super().__init__(sabotage.module, str(ROOT / sabotage.file))
        self.sabotage = sabotage

    def get_code(self, fullname: str) -> Any:
        source = self.sabotage.edited(Path(self.path).read_text(encoding="utf-8"))
        return compile(source, self.path, "exec", dont_inherit=True)


class Saboteur(importlib.abc.MetaPathFinder):
    """Finds the one module that is sabotaged; ``came`` says whether it was imported."""

    def __init__(self, sabotage: Sabotage) -> None:
        self.sabotage = sabotage
        self.came = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.sabotage.module:
            return None
        self.came = True
        return importlib.util.spec_from_file_location(
            fullname,
            ROOT / self.sabotage.file,
            loader=Edited(self.sabotage),
            submodule_search_locations=[str((ROOT / self.sabotage.file).parent)] if self.is_package else None,
        )

    @property
    def is_package(self) -> bool:
        return self.sabotage.file.endswith("/__init__.py")


class FirstFailure:
    """A plugin of pytest that keeps the name of the first test that fails."""

    name = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.name:
            self.name = report.nodeid


def run_tests(sabotage: Sabotage) -> tuple[int, str]:
    """Run the tests under the sabotage, in this process: the code, and the first that failed."""
    import pytest

    saboteur, first = Saboteur(sabotage), FirstFailure()
    if sabotage.before:
        sys.meta_path.insert(0, saboteur)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    quietly = [
        "-x",
        "-q",
        "--tb=line",
        "-m",
        "not slow and not timed and not gpu and not peers and not benchmark",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:unraisableexception",
        "--rootdir",
        str(ROOT),
    ]
    code = int(pytest.main([*quietly, *shlex.split(sabotage.tests)], plugins=[first]))
    if sabotage.before and not saboteur.came:
        return 99, "its module was not imported"
    if code == pytest.ExitCode.INTERRUPTED and first.name:
        code = _KILLED  # a file of tests that cannot be imported
    return code, first.name


def forked(sabotage: Sabotage) -> tuple[int, int]:
    """Start the tests in a process of their own: its id, and where to read what it says."""
    reads, writes = os.pipe()
    child = os.fork()
    if child:
        os.close(writes)
        return child, reads
    code = 98
    try:
        os.close(reads)
        os.chdir(ROOT)
        for stream in (1, 2):
            os.dup2(writes, stream)
        code, noticed = run_tests(sabotage)
        print(f"\nnoticed: {noticed}", flush=True)
    finally:
        os._exit(code)


def collect(sabotage: Sabotage) -> Outcome:
    """Run a sabotage's tests in a process of their own. One that takes too long is ended, and has noticed."""
    started = time.perf_counter()
    child, reads = forked(sabotage)
    overdue = threading.Timer(_SECONDS if sabotage.before else _SECONDS_OF_ALL, os.kill, (child, signal.SIGKILL))
    overdue.start()
    with os.fdopen(reads, "rb") as pipe:
        output = pipe.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    overdue.cancel()
    noticed = output.rpartition("\nnoticed: ")[2].strip()
    if status == -signal.SIGKILL:
        status, noticed = _KILLED, "its tests do not end"
    return Outcome(sabotage, status, noticed, time.perf_counter() - started, output)


def run(chosen: Sequence[Sabotage], processes: int = 1) -> Iterator[Outcome]:
    """Run sabotages, a few at once. What they all need is imported once, the judge in each anew."""
    for name in NEEDED:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    gc.freeze()  # so that a process that looks for garbage copies nothing of what they share
    assert not [name for name in sys.modules if name.startswith("shiftproof.harness")]
    with ThreadPool(processes) as pool:
        yield from pool.imap(collect, chosen)


def unsabotaged(chosen: Iterable[Sabotage]) -> list[Sabotage]:
    """One for each file of tests, that edits nothing: its tests have to pass."""
    tests = dict.fromkeys(word for sabotage in chosen for word in sabotage.tests.split() if word.endswith(".py"))
    return [Sabotage("none", f"none, {each}", "harness/results.py", "", "", each) for each in tests]


# The report -----------------------------------------------------------------------------------------------------------


def table(outcomes: Sequence[Outcome]) -> str:
    """How many of each kind were noticed."""
    lines = ["| kind | sabotages | killed | survived |", "| --- | ---: | ---: | ---: |"]
    for kind in [*KINDS, "all"]:
        of = [outcome.status for outcome in outcomes if kind in (outcome.sabotage.kind, "all")]
        if of:
            lines.append(f"| {kind} | {len(of)} | {of.count('killed')} | {of.count('survived')} |")
    return "\n".join(lines)


def listing(outcomes: Sequence[Outcome]) -> str:
    """Every sabotage and the test that noticed it; those of every law in a line."""
    lines = ["| kind | sabotage | noticed by |", "| --- | --- | --- |"]
    of_laws: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        kind, name = outcome.sabotage.kind, outcome.sabotage.name
        each = re.sub(r"\b[A-Z]+-\d+\b", "{law}", name)
        if each != name and outcome.status == "killed":
            of_laws.setdefault((kind, each), []).append(outcome)
        else:
            noticed = f"`{short(outcome.noticed)}`" if outcome.status == "killed" else f"**{outcome.status}**"
            lines.append(f"| {kind} | {name} | {noticed} |")
    for (kind, each), some in of_laws.items():
        files = sorted({f"`{short(outcome.noticed).partition('::')[0]}`" for outcome in some})
        lines.append(f"| {kind} | {each.replace('{law}', f'each of {len(some)} laws')} | {', '.join(files)} |")
    return "\n".join(lines)


def short(test: str) -> str:
    """A test without its folder and its parameters."""
    return re.sub(r"\[.*", "", test.rpartition("/")[2] if "::" not in test else re.sub(r"^.*/(?=[^/]*::)", "", test))


def report(outcomes: Sequence[Outcome]) -> str:
    killed = sum(outcome.status == "killed" for outcome in outcomes)
    parts = [f"{killed} of {len(outcomes)} sabotages are noticed.", table(outcomes), listing(outcomes)]
    for outcome in outcomes:
        if outcome.status != "killed":
            why = outcome.sabotage.survives or "**Unexplained.**"
            parts.append(f"{outcome.sabotage.name} ({outcome.sabotage.file}): {outcome.status}. {why}")
    return "\n\n".join(parts)


def unexpected(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that survive without a reason, or are killed in spite of one, or whose tests could not be run."""
    return [each for each in outcomes if each.status != ("survived" if each.sabotage.survives else "killed")]


def chosen_by(words: Sequence[str]) -> list[Sabotage]:
    return [
        sabotage
        for sabotage in sabotages()
        if not words or any(word in f"{sabotage.kind}: {sabotage.name}" for word in words)
    ]


def judged(words: Sequence[str] = (), processes: int = 1, *, checked: bool = True) -> list[Outcome]:
    """Run the sabotages that ``words`` choose, after their tests without any; say what comes of each.

    Raises:
        SystemExit: when a test fails that nothing was done to.
    """
    chosen = chosen_by(words)
    if not chosen:
        sys.exit(f"no sabotage has any of {words} in its kind or name")
    first = unsabotaged(chosen) if checked else []
    outcomes = []
    for outcome in run([*first, *chosen], processes):
        sabotage, noticed = outcome.sabotage, short(outcome.noticed) or "–"
        print(f"{outcome.status:8} {outcome.seconds:5.1f} s  {sabotage.kind}: {sabotage.name}  ({noticed})", flush=True)
        if not sabotage.before and outcome.code:
            sys.exit(f"{outcome.output}\nthese tests fail, or are none, without any sabotage")
        if sabotage.before and outcome.status == "not run":
            print(outcome.output)
        if sabotage.before:
            outcomes.append(outcome)
    return outcomes


def kept(work: Path, processes: int, *, ask: bool = True) -> list[Outcome]:
    """What was found, once it is asked again; it is kept beside what is known of mutants, without what tests said.

    Raises:
        SystemExit: when the sabotages could not be run.
    """
    file = work / "sabotages.json"
    if ask:
        file.unlink(missing_ok=True)
        # In a process of its own, because this one may have imported the judge.
        command = [sys.executable, __file__, "--processes", str(processes), "--json", str(file)]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
    if not file.exists():
        sys.exit("the sabotages were not run; what is said above is the reason")
    read = json.loads(file.read_text(encoding="utf-8"))
    return [Outcome(Sabotage(*each), *rest) for each, *rest in read]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="WORDS", help="of a kind or a name; repeatable")
    parser.add_argument("--processes", type=int, default=1, help="how many at once")
    parser.add_argument("--unchecked", action="store_true", help="leave out the tests without any sabotage")
    parser.add_argument("--json", metavar="FILE", help="write what was found")
    asked = parser.parse_args()
    outcomes = judged(asked.only, asked.processes, checked=not asked.unchecked)
    print(table(outcomes))
    if asked.json:
        found = [(outcome.sabotage, outcome.code, outcome.noticed, outcome.seconds) for outcome in outcomes]
        Path(asked.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if wrong := unexpected(outcomes):
        sys.exit("\n".join(f"{outcome.status}: {outcome.sabotage.name}" for outcome in wrong))


if __name__ == "__main__":
    main()
