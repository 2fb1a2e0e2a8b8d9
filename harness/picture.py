"""A pairing drawn as text: logit places down, label places across."""

from __future__ import annotations

from collections.abc import Mapping

from shiftproof.reference.pairing import Place

from .cases import Case
from .probe import Positions
from .verdict import Picture

_LEGEND = "● right   ○ missing   × wrong   - no target"
_WIDEST = 24


def draw(case: Case, expected: Positions, found: Positions) -> Picture:
    """Expected against found, on one small case (wider ones are cut at the right)."""
    labels = case.batch.shift_labels if case.batch.shift_labels is not None else case.batch.labels
    return Picture(
        recipe=case.recipe.to_json(),
        labels=labels.tolist(),
        expected=_listed(expected),
        found=_listed(found),
        drawing=_grid(case, expected, found),
    )


def _listed(positions: Positions) -> list[dict[str, object]]:
    return [{"logits": list(at), "labels": [list(place) for place in places]} for at, places in positions.items()]


def _grid(case: Case, expected: Positions, found: Positions) -> str:
    rows, length = case.batch.labels.shape
    columns = [(row, position) for row in range(rows) for position in range(length)][:_WIDEST]
    trained = {place for places in expected.values() for place in places}
    lines = [
        " " * 15 + "".join(f"{'│ ' if at == 0 and row else ''}{at:<3d}" for row, at in columns) + "label position",
    ]
    for row, position in _logit_places(case, found)[:_WIDEST]:
        here = (row, position)
        cells = ""
        for place in columns:
            cells += "│ " if place[1] == 0 and place[0] else ""
            cells += f"{_cell(place, expected.get(here, ()), found.get(here, ()), trained):<3s}"
        beyond = [place for place in found.get(here, ()) if place[0] < 0]
        lines.append(f"row {row} logit {position:<3d}" + cells + ("× off the batch" if beyond else ""))
    return "\n".join([*lines, _LEGEND])


def _logit_places(case: Case, found: Mapping[Place, object]) -> list[Place]:
    rows, length, _ = case.pairing.logits_shape
    return [(row, position) for row in range(rows) for position in range(length)]


def _cell(place: Place, right: tuple[Place, ...], theirs: tuple[Place, ...], trained: set[Place]) -> str:
    if place in right:
        return "●" if place in theirs else "○"
    if place in theirs:
        return "×"
    return "·" if place in trained else "-"
