"""A command as a user runs it, for the tests beside this file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from shiftproof.harness.report.json_report import SCHEMA
from shiftproof.harness.report.speed import SCHEMA as SPEED_SCHEMA

CANDIDATES = Path(__file__).parents[2] / "candidates"
MISBEHAVING = CANDIDATES / "misbehaving.py"
BREAKING = CANDIDATES / "breaking.py"

GOOD = """
import torch.nn.functional as F
def loss(logits, labels):
    return F.cross_entropy(logits[:, :-1].float().reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))
"""
DOUBLE_SHIFT = GOOD.replace("[:, :-1]", "[:, :-2]").replace("[:, 1:]", "[:, 2:]")


GOOD_CHECK = ("check", "good.py:loss", "--spec", "hf.causal_lm")


@dataclass(frozen=True)
class Ran:
    """What a command did. ``report`` is its --json, valid by the schema."""

    code: int
    out: str
    err: str
    report: Any = None

    @property
    def candidates(self) -> dict[str, Any]:
        return {candidate["candidate"].rpartition(":")[2]: candidate for candidate in self.report["candidates"]}


Run = Callable[..., Ran]


EXTRA: dict[str, str] = {}  # variables that a test adds


def environment() -> dict[str, str]:
    """This one's, without what the pytest that runs these tests put into it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COVERAGE", "COV_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120", **EXTRA}


def briefly(*arguments: str) -> tuple[str, ...]:
    """The arguments; a check that names no profile draws few cases."""
    if arguments[:1] != ("check",) or "--profile" in arguments:
        return arguments
    return ("check", "--profile", "brief", *arguments[1:])


def ran(folder: Path, arguments: tuple[str, ...], code: int, out: str, err: str) -> Ran:
    assert "Traceback" not in err, err
    path = folder / arguments[arguments.index("--json") + 1] if "--json" in arguments else None
    schema = SPEED_SCHEMA if arguments[0] == "speed" else SCHEMA
    report = read_report(path, schema) if path is not None and path.is_file() else None
    return Ran(code, out, err, report)


def read_report(path: Path, schema: Path = SCHEMA) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    jsonschema.validate(report, json.loads(schema.read_text(encoding="utf-8")))
    return report


def one_sentence(err: str) -> str:
    (line,) = err.strip().splitlines()
    return line


def shows(err: str, *words: str) -> bool:
    assert [word for word in words if word not in err] == [], err
    return True
