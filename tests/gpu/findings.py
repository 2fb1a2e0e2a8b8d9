"""What is found, one JSON object a line, each written the moment it is known, by whichever process found it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Result(StrEnum):
    PASSED = "passed"
    WRONG = "wrong"
    """It was judged, and is wrong."""
    SKIPPED = "skipped"
    """It is not for this machine; what was found says why."""
    NOT_RUN = "not run"
    """It was to be judged, and could not be."""


@dataclass(frozen=True)
class Finding:
    """One of a part. ``seconds`` it took; ``figures`` are numbers by name, for the tables."""

    part: str
    name: str
    result: Result
    said: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass
class Progress:
    """How far a part is: what it plans, what it has begun and found; and how it ended, once it has."""

    planned: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    found: list[Finding] = field(default_factory=list)
    ended: str = ""
    seconds: float = 0.0

    @property
    def unfinished(self) -> list[str]:
        known = {finding.name for finding in self.found}
        return [name for name in self.begun if name not in known]


class Ledger:
    """The file that all findings go to. Several processes may write at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def plan(self, part: str, names: Sequence[str]) -> None:
        self._write({"part": part, "planned": list(names)})

    def begin(self, part: str, name: str) -> None:
        self._write({"part": part, "begun": name})

    def add(self, finding: Finding) -> None:
        self._write(vars(finding))

    def end(self, part: str, how: str, seconds: float) -> None:
        self._write({"part": part, "ended": how, "seconds": round(seconds, 1)})

    def read(self, part: str) -> Progress:
        progress = Progress()
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else ():
            said = json.loads(line)
            if said["part"] != part:
                continue
            if "planned" in said:
                progress.planned += [name for name in said["planned"] if name not in progress.planned]
            elif "begun" in said:
                progress.begun.append(said["begun"])
            elif "ended" in said:
                progress.ended, progress.seconds = said["ended"], said["seconds"]
            else:
                progress.found.append(Finding(**{**said, "result": Result(said["result"])}))
        return progress

    def _write(self, said: dict[str, Any]) -> None:
        # One write to a file that is appended to: lines of several processes never mix.
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, json.dumps(said, ensure_ascii=False).encode() + b"\n")
        finally:
            os.close(handle)
