"""The file of a sweep: JSON lines with a header, one row per judged class, and a footer.

Each line is written at once. So an interrupted sweep loses only the classes that were on trial.
"""

from __future__ import annotations

import fcntl
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..candidates.declaration import UsageError
from ..cases.recipe import digest
from ..judge.folder import ROOT, make, prune
from .result import Outcome, Row

VERSION = 1


@dataclass(frozen=True)
class Header:
    """What was swept, and how. Rows under another header are not comparable.

    Attributes:
        shiftproof: the version of shiftproof.
        package: the library. ``versions`` has its version, torch's and Python's.
        python: the interpreter; "" is the judge's own.
        patterns: the requested classes, as globs; empty means all.
        seed, profile, device, dtype: as in Settings.
    """

    shiftproof: str
    package: str
    versions: Mapping[str, str]
    python: str
    patterns: tuple[str, ...]
    seed: int
    profile: str
    device: str
    dtype: str

    @property
    def default_path(self) -> Path:
        """The default file of a sweep: the same path for the same header."""
        version = self.versions.get(self.package, "unknown")
        return ROOT / "sweeps" / f"{self.package}-{version}-{digest(_line('header', self.to_json()))}.jsonl"

    def to_json(self) -> dict[str, Any]:
        return {"schema": VERSION, **asdict(self), "patterns": list(self.patterns)}

    def other_than(self, data: Mapping[str, Any]) -> list[str]:
        """Describe how this header differs from the header in ``data``."""
        mine = self.to_json()
        return [f"{name} {data.get(name)!r}, not {mine[name]!r}" for name in mine if data.get(name) != mine[name]]


@dataclass(frozen=True)
class Footer:
    """How a sweep ended: the number of classes per outcome, the seconds of its last run, and whether all are done."""

    counts: Mapping[str, int]
    seconds: float
    finished: bool


class Store:
    """The open file of a sweep. ``rows`` has the known rows by target. Leaving the context closes it.

    Raises:
        UsageError: if the file cannot be written, if another sweep is writing to it, or if it holds anything other than
            the beginning of this sweep.
    """

    def __init__(self, path: Path, header: Header, fresh: bool = False) -> None:
        self.path = path
        self.header = header
        self.rows: dict[str, Row] = {}
        try:
            make(path.parent)
            if path.parent == ROOT / "sweeps":  # a folder of the user's own may hold anything
                path.touch()  # so that it is the newest
                prune(path.parent, "*.jsonl")
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}; name another file with --out") from None
        try:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"another sweep is writing to {path}; let it end, or name another file") from None
            self._file.truncate(0 if fresh else self._read())
            if self._file.seek(0, 2) == 0:
                self._write("header", header.to_json())
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def append(self, row: Row) -> None:
        """Store a row. It is on disk before anything else happens."""
        self.rows[row.target] = row
        self._write("row", row.to_json())

    def finish(self, seconds: float, finished: bool) -> Footer:
        """Write the last line."""
        footer = Footer(counted(self.rows.values()), round(seconds, 3), finished)
        self._write("footer", asdict(footer))
        return footer

    def _write(self, kind: str, data: Mapping[str, Any]) -> None:
        self._file.write((_line(kind, data) + "\n").encode())
        self._file.flush()

    def _read(self) -> int:
        """Read the existing rows, and return the byte at which new lines start.

        A footer, and a line that was torn when the sweep was killed, are overwritten.
        """
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        end = 0
        for number, line in enumerate(lines, 1):
            last = number == len(lines)
            if last and not line.endswith(b"\n"):
                break
            try:
                ((kind, data),) = json.loads(line).items()
                if kind == "row" and number > 1:
                    row = Row.from_json(data)
                    self.rows[row.target] = row
                elif kind == "footer" and last:
                    break
                elif kind != "header" or number > 1:
                    raise ValueError
            except (ValueError, KeyError, TypeError, AttributeError):
                what = f"line {number} of {self.path} is not a line of a sweep"
                raise UsageError(f"{what}; name another file, or start it anew with --fresh") from None
            if number == 1 and (differ := self.header.other_than(data)):
                raise UsageError(
                    f"{self.path} holds another sweep ({'; '.join(differ)}); name another file, or start it anew "
                    "with --fresh"
                )
            end += len(line)
        return end


def counted(rows: Iterable[Row]) -> dict[str, int]:
    """Count the rows per outcome."""
    counts = Counter(row.outcome for row in rows)
    return {str(outcome): counts[outcome] for outcome in Outcome}


def _line(kind: str, data: Mapping[str, Any]) -> str:
    return json.dumps({kind: data}, ensure_ascii=False, allow_nan=False)
