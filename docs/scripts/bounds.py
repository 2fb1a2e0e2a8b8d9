"""Draw docs/bounds.png and docs/bounds.svg, and write docs/bounds.csv and the tables of docs/bounds.md.

``bounds_judged.py`` defines what is judged, ``bounds_chart.py`` draws it. Run it with ``nox -s figures`` or ``python
docs/scripts/bounds.py``. It takes one core and two minutes. The numbers are the same on every run of one machine.
"""

from __future__ import annotations

from pathlib import Path

import torch
from bounds_chart import draw
from bounds_judged import alarms, measure_all, vacuous, write
from right_losses import other_losses, text_losses

from shiftproof.reference.profiles import PROFILES

DOCS = Path(__file__).resolve().parents[1]


def main() -> None:
    torch.set_num_threads(1)
    found = measure_all(text_losses(), list(other_losses()))
    draw(found, DOCS)
    write(found, list(vacuous(PROFILES.values(), draws=6)), DOCS)
    if wrong := alarms(found):
        raise SystemExit(f"{len(wrong)} right evaluations are out of bounds, such as {wrong[0]}")


if __name__ == "__main__":
    main()
