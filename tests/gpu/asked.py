"""What the process of one part is told, and how it goes through its items."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .findings import Finding, Ledger, Result

SPOILED = 75
"""The exit code of a process that is no longer fit for the items that are left: it wants to be started again."""

Item = Callable[[], Finding]


@dataclass(frozen=True)
class PartArguments:
    """Which part is asked for, of which device (``cuda``, or ``cpu`` for a dry run), and where its findings go."""

    part: str
    device: str
    out: str
    seconds: float

    @classmethod
    def of_arguments(cls) -> PartArguments:
        part, device, out, seconds = sys.argv[1:]
        return cls(part, device, out, float(seconds))

    @property
    def arguments(self) -> list[str]:
        return [str(value) for value in asdict(self).values()]

    @property
    def is_dry(self) -> bool:
        return self.device == "cpu"

    @property
    def ledger(self) -> Ledger:
        return Ledger(Path(self.out) / "findings.jsonl")


def go_through(asked: PartArguments, items: Mapping[str, Item]) -> None:
    """Each item that no process before this one has begun. An item that raises could not be run; where it took the
    device along, this process ends, and wants to be started again."""
    ledger = asked.ledger
    ledger.plan(asked.part, list(items))
    begun = set(ledger.read(asked.part).begun)
    for name in items:
        if name in begun:
            continue
        ledger.begin(asked.part, name)
        started = time.monotonic()
        try:
            finding = items[name]()
        except Exception as error:
            print(f"--- {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
            said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            ledger.add(Finding(asked.part, name, Result.NOT_RUN, said, time.monotonic() - started))
            if "CUDA error" in str(error) or type(error).__name__ == "AcceleratorError":
                sys.exit(SPOILED)
            continue
        print(f"{finding.result}: {name} {finding.said}", flush=True)
        ledger.add(finding)
