"""Write docs/benchmark.json and the tables of docs/benchmark.md, and draw docs/benchmark.png and .svg.

The argument is the path of the JSON of pytest-benchmark. ``nox -s benchmark`` makes it and then runs this script.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmark_chart import draw
from benchmark_page import machine, rows_of, write

DOCS = Path(__file__).resolve().parents[1]


def main(path: str) -> None:
    recorded = json.loads(Path(path).read_text(encoding="utf-8"))
    write(recorded, DOCS)
    draw(rows_of(recorded), machine(recorded), DOCS)


if __name__ == "__main__":
    main(*sys.argv[1:])
