"""Judge the declared candidates and the losses of tests/candidates/doors.py, and write the tables of docs/branches.md.

``nox -s branches`` runs it. It takes twice as long as ``nox -s conformance``.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from page import check_marks, fill_in, table

DOCS = Path(__file__).resolve().parents[1]
DOORS = DOCS.parent / "tests" / "candidates" / "doors.py"
_SHOWN = 2  # exceptions in a cell
_AXES = ("rows", "length", "classes", "codebooks")


def judged(*arguments: str) -> list[dict[str, Any]]:
    """The candidates of one run of ``shiftproof check``."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "shiftproof", "check", "--seed", "0", "--json", str(report), *arguments]
        subprocess.run(command, cwd=DOCS.parent, stdout=subprocess.DEVNULL, check=False)
        found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["candidates"]
    return found


def of_candidate(result: Mapping[str, Any]) -> list[str]:
    """The row of one candidate."""
    return [result["candidate"], result["verdict"], *of_branches(result["branches"])]


def of_branches(branches: Mapping[str, Any] | None) -> list[str]:
    """How many branches ran, how many of them both ways, regions, traces, seconds a trace, and what is left."""
    if branches is None:
        return ["–"] * 5 + ["not watched"]
    reached = [each for each in branches["found"] if any(each["ran"])]
    both = [
        each
        for each in reached
        if all(ran or raises for ran, raises in zip(each["ran"], each["only_raises"], strict=True))
    ]
    seconds = f"{branches['trace_seconds'] / branches['traces']:.2f}" if branches["traces"] else "–"
    left = branches["exceptions"]
    more = [f"and {len(left) - _SHOWN} more"] if len(left) > _SHOWN else []
    stopped = [f"trace stopped: {branches['sizes_unread']}"] if branches["sizes_unread"] else []
    words = "; ".join([*left[:_SHOWN], *more, *stopped]) or ("–" if branches["is_named"] else "in the JSON report only")
    numbers = [len(reached), len(both), branches["regions"], branches["traces"]]
    return [*map(str, numbers), seconds, words.replace("|", "\\|").replace("\n", " ")]


def doors() -> Iterator[tuple[str, str, str]]:
    """Name, spec and kind of each loss with a door."""
    spec = importlib.util.spec_from_file_location("doors", DOORS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield from ((name, promised, "wrong, found") for name, promised in module.FOUND.items())
    yield from ((name, "hf.causal_lm", "wrong, named") for name in module.NAMED)
    yield from ((name, "hf.causal_lm", "right") for name in module.RIGHT)


def of_doors() -> Iterable[list[str]]:
    for name, spec, kind in doors():
        (result,) = judged(f"{DOORS}:{name}", "--spec", spec)
        counterexample = next((law["counterexample"] for law in result["laws"] if law["counterexample"]), None)
        shown = "–"
        if counterexample is not None:
            recipe = counterexample["recipe"]
            shown = ", ".join(
                f"{axis}={recipe[axis]}" for axis in ("rows", "length", "classes", "codebooks") if axis in recipe
            )
        yield [name, kind, result["verdict"], shown, *of_branches(result["branches"])]


def main() -> None:
    page = DOCS / "branches.md"
    check_marks(page, ("candidates", "doors"))
    of_branches_head = ("branches", "both ways", "regions", "traces", "s a trace", "left")
    candidates = table(("candidate", "verdict", *of_branches_head), map(of_candidate, judged()))
    head = ("loss", "it is", "verdict", "counterexample", *of_branches_head)
    fill_in(page, {"candidates": candidates, "doors": table(head, of_doors())})


if __name__ == "__main__":
    main()
