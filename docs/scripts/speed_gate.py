"""Try the gate of ``shiftproof speed`` on this machine, and write docs/speed-*.csv and the table of docs/speed.md.

Two candidates (tests/candidates/planted.py) race a hundred times each: the rival's own code, and the same code with 5%
more work. How often does the gate call the first one different from the rival, and how often does it detect the second?
Run it with ``nox -s speed_gate``. It takes 45 minutes; a busy machine makes the test harder. The argument ``same`` or
``slower`` runs only that candidate, and ``table`` writes the table of the existing results.
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

from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.speed.baseline import Contender
from shiftproof.harness.speed.bench import CANDIDATE, RIVAL, Bench, Terms
from shiftproof.harness.speed.decision import Outcome
from shiftproof.harness.speed.race import Race, run_race
from shiftproof.harness.speed.shapes import Shape
from shiftproof.reference.profiles import PROFILES

DOCS = Path(__file__).resolve().parents[1]
PLANTED = DOCS.parent / "tests" / "candidates" / "planted.py"
RUNS = 100
SECONDS = 14.0  # for one race: the part of the 20 s of ``shiftproof speed`` that its self-test leaves
SETS = {"same": "the same code", "slower": "5% slower"}
TERMS = Terms(PROFILES["hf.causal_lm"], Shape("own", 1, 128, 32000))


class Run(NamedTuple):
    """One race: its outcome, its duration, and the load of the machine."""

    load: float
    pairs: int
    ratio: float
    low: float
    high: float
    outcome: str
    seconds: float


def races(bench: Bench, candidate: str, runs: int = RUNS, seconds: float = SECONDS) -> Iterator[Run]:
    """Yield races on a bench, each with its own inputs and at most ``seconds`` long."""
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
    """Write a row for each race as soon as it is over."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        rows = csv.writer(lines, lineterminator="\n")
        rows.writerow(Run._fields)
        for run in runs:
            rows.writerow(run)
            lines.flush()


def write(runs: dict[str, list[Run]], docs: Path) -> None:
    """Write the table of speed.md."""
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
