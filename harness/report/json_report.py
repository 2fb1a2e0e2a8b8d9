"""The JSON report. Its schema is ``report.schema.json`` beside this file."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..judge.environments import comparisons
from ..results import CandidateResult, Overall
from .events import Event, RunFinished

SCHEMA = Path(__file__).with_name("report.schema.json")
VERSION = 3


STDOUT = "-"
"""The file that stands for standard output."""


class JsonReport:
    """Writes the whole run to one file, or to standard output, at its end."""

    def __init__(self, file: str | Path) -> None:
        self.file = file

    def tell(self, event: Event) -> None:
        if isinstance(event, RunFinished):
            write_json(as_json(event), self.file)


def write_json(data: Any, file: str | Path) -> None:
    """Write data as JSON to a file, or to standard output if ``file`` is "-". It is ASCII, so any stream takes it."""
    text = json.dumps(data, indent=1, allow_nan=False) + "\n"
    if file == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(file).write_text(text, encoding="utf-8")


def as_json(run: RunFinished) -> dict[str, Any]:
    """Return the report as plain data. Numbers that JSON cannot express (NaN) become null."""
    return {
        "schema": VERSION,
        "shiftproof": run.version,
        "verdict": str(worst_of(run.results)),
        "seed": run.seed,
        "profile": run.profile,
        "cases": sum(result.cases for result in run.results),
        "seconds": round(run.seconds, 3),
        "candidates": [_plain(result.to_json()) for result in run.results],
        "comparisons": [comparison.to_json() for comparison in comparisons(run.results)],
    }


def worst_of(results: Iterable[CandidateResult]) -> Overall:
    """Return the worst of the candidates' verdicts, or inconclusive if there is none."""
    found = {result.verdict for result in results}
    return next((verdict for verdict in _WORST_FIRST if verdict in found), Overall.INCONCLUSIVE)


_WORST_FIRST = (
    Overall.FAILS,
    Overall.ERROR,
    Overall.INCONCLUSIVE,
    Overall.PARTIAL,
    Overall.VALUES_ONLY,
    Overall.CONFORMS,
)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, str) else value
