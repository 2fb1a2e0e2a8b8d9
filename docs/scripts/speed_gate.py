"""Try the gate of ``shiftproof speed`` on this machine, and write docs/speed-*.csv and the table of docs/speed.md.

Two candidates (tests/candidates/planted.py) race a hundred times each: the rival's own code, and that with 5% more.
How often is the first told apart from the rival, and how often is the second found?
Run by ``nox -s speed_gate``; three quarters of an hour, and the busier the machine, the harder it is. ``same`` or
``slower`` as an argument runs that one alone, and ``table`` writes the table of what there is.
"""

from __future__ import annotations

import csv
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from page import fill_in
from page import table as as_table

from shiftproof.harness.candidate import Candidate
from shiftproof.harness.speed.bench import CANDIDATE, RIVAL, Bench, Terms
from shiftproof.harness.speed.contender import Contender
from shiftproof.harness.speed.decision import Outcome
from shiftproof.harness.speed.pairs import Race, run_race
from shiftproof.harness.speed.shapes import Shape
from shiftproof.reference.profiles import PROFILES

DOCS = Path(__file__).resolve().parents[1]
PLANTED = DOCS.parent / "tests" / "candidates" / "planted.py"
RUNS = 100
SECONDS = 14.0  # for one race: of the 20 s of ``shiftproof speed``, what its self-test leaves
SETS = {"same": "the same code", "slower": "5% slower"}
TERMS = Terms(PROFILES["hf.causal_lm"], Shape("own", 1, 128, 32000))


class Run(NamedTuple):
    """One race: what came of it, how long it took, and how busy the machine was."""

    load: float
    pairs: int
    ratio: float
    low: float
    high: float
    outcome: str
    seconds: float


def races(bench: Bench, candidate: str, runs: int = RUNS, seconds: float = SECONDS) -> Iterator[Run]:
    """Races on a bench, each with inputs of its own and of so many seconds at most."""
    seeds = itertools.count(1)

    def settled(race: Race) -> bool:
        return race.ratio("both").outcome is not Outcome.INCONCLUSIVE

    planted = Candidate(candidate, f"{PLANTED}:{candidate}", spec=bench.terms.spec.name)
    bench.seat(RIVAL, Contender("eager", kind="eager"))
    bench.seat(CANDIDATE, Contender(candidate, candidate=planted))
    for part in (CANDIDATE, RIVAL) * 3:
        bench.call(part, next(seeds))
    for _ in range(runs):
        started = time.monotonic()
        ratio = run_race(bench, (CANDIDATE, RIVAL), seeds, settled, seconds).ratio("both")
        numbers = (round(each, 4) for each in (ratio.ratio, ratio.low, ratio.high))
        took = round(time.monotonic() - started, 1)
        yield Run(round(os.getloadavg()[0], 1), ratio.pairs, *numbers, str(ratio.outcome), took)


def read(file: Path) -> list[Run]:
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            Run(*(kind(row[name]) for name, kind in zip(Run._fields, _KINDS, strict=True)))
            for row in csv.DictReader(lines)
        ]


_KINDS = (float, int, float, float, float, str, float)


def table(runs: dict[str, list[Run]]) -> str:
    columns = ("candidate", "races", *Outcome, "median ratio", "ratios", "median pairs")
    columns += ("seconds, median and most", "load, median and most")
    rows = []
    for candidate, some in runs.items():
        ratios, seconds, loads = ([getattr(run, name) for run in some] for name in ("ratio", "seconds", "load"))
        cells = [
            SETS[candidate],
            len(some),
            *(sum(run.outcome == outcome for run in some) for outcome in Outcome),
            f"{median(ratios):.3f}",
            f"{min(ratios):.3f} to {max(ratios):.3f}",
            f"{median(run.pairs for run in some):g}",
            f"{median(seconds):.0f}, {max(seconds):.0f}",
            f"{median(loads):.1f}, {max(loads):.1f}",
        ]
        rows.append(list(map(str, cells)))
    return as_table(columns, rows)


def record(runs: Iterable[Run], file: Path) -> None:
    """A row for each race, as soon as it is over."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        rows = csv.writer(lines, lineterminator="\n")
        rows.writerow(Run._fields)
        for run in runs:
            rows.writerow(run)
            lines.flush()


def write(runs: dict[str, list[Run]], docs: Path) -> None:
    """The table of speed.md."""
    fill_in(docs / "speed.md", {"gate": table(runs)})


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    parts = {candidate: DOCS / f"speed-{candidate}.csv" for candidate in SETS}
    for candidate in arguments or SETS:
        if candidate != "table":
            with Bench(TERMS) as bench:
                record(races(bench, candidate), parts[candidate])
    write({candidate: read(file) for candidate, file in parts.items() if file.is_file()}, DOCS)


if __name__ == "__main__":
    main(sys.argv[1:])
