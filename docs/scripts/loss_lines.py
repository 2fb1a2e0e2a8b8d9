"""Find where classes of an installed library make their loss.

``sweep_page.py`` runs this under the interpreter that has the library. It reads targets as JSON from standard input,
and writes {target: [file, first line, lines]} to standard output.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys

_MOST = 24
_BEGINS = re.compile(r"\s+\w*loss = None")
_IF_LABELS = re.compile(r"\s+if labels is not None")
_MAKES = re.compile(r"loss.*=.*\(")
_ENDS = re.compile(r"\s+(if not return_dict|return |if use_cache|output = )")


def lines_of(target: str) -> tuple[str, int, list[str]]:
    package, _, name = target.partition(":")
    model = getattr(importlib.import_module(package), name)
    lines, first = inspect.getsourcelines(inspect.unwrap(model.forward))
    start = _first(lines)
    found: list[str] = []
    for line in lines[start:]:
        if found and _ENDS.match(line):
            break
        if line.strip():
            found.append(line.rstrip())
    file = inspect.getsourcefile(model) or ""
    return file[file.index(package) :], first + start, found[:_MOST]


def _first(lines: list[str]) -> int:
    for at, line in enumerate(lines):
        near = any("loss" in other for other in lines[at : at + 8])
        if _BEGINS.match(line) or (_IF_LABELS.match(line) and near):
            return at
    return next((at for at, line in enumerate(lines) if _MAKES.search(line)), len(lines) - 1)


if __name__ == "__main__":
    json.dump({target: lines_of(target) for target in json.load(sys.stdin)}, sys.stdout)
