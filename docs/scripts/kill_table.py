"""Write docs/kill-table.md: every known-wrong loss under twelve profiles. Arguments go to ``shiftproof mutants``."""

from __future__ import annotations

import sys
from pathlib import Path

from comparison import SPECS

from shiftproof.harness.cli.main import main

DOCS = Path(__file__).resolve().parents[1]


def arguments(further: list[str]) -> list[str]:
    """Those of the command; ``further`` ones come last, so that theirs count."""
    specs = [part for spec in SPECS for part in ("--spec", spec)]
    return ["mutants", *specs, "--seeds", "20", "--markdown", str(DOCS / "kill-table.md"), *further]


if __name__ == "__main__":
    raise SystemExit(main(arguments(sys.argv[1:])))
