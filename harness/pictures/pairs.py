"""A pairing drawn as text: logit places down, label places across."""

from __future__ import annotations

from dataclasses import dataclass

from shiftproof.reference.pairing import Place, labels_of
from shiftproof.reference.spec import Axis, Heads, LossTerm

from ..cases.build import Case
from ..probe.read import Positions, Site
from ..results import Picture

_LEGEND = "● right   ○ missing   × wrong   - no target"
_WIDEST, _TALLEST = 24, 14  # cells
_MARGIN = 15  # columns, as of most names of rows
_COLUMNS = 90  # of names and cells; beside them there is room for a target that is no label of the drawing
_CONTEXT = 2  # places before the first one that is wrong

Flat = tuple[int, int]


@dataclass(frozen=True)
class _Slice:
    """The part of a case that one drawing shows.

    It is one head of one array of logits over time. If the shift is along the codebooks, it is the heads of one frame.
    """

    term: LossTerm
    head: int | None  # the head of the logits, if they have several
    frame: Place | None  # for axis=codebook

    @property
    def title(self) -> str:
        if self.frame is not None:
            return f"{self.term.logits}, frame [{self.frame[0]}, {self.frame[1]}]"
        kind = "head" if self.term.heads is Heads.AHEAD else "codebook"
        return self.term.logits if self.head is None else f"{self.term.logits}, {kind} {self.head}"

    def logit(self, site: Site) -> Flat | None:
        """The (row, column) of a logit site, or None if it is not in this drawing."""
        name, *place = site
        row, position, *head = place
        if name != self.term.logits:
            return None
        if self.frame is not None:
            return (0, head[0]) if (row, position) == self.frame else None
        return (row, position) if not head or head[0] == self.head else None

    def label(self, place: Place) -> Flat | None:
        """The (row, column) of a label place, or None if it is not in this drawing."""
        row, position, *book = place if len(place) > 1 else (-1, -1)
        if self.frame is not None:
            return (0, book[0]) if book and (row, position) == self.frame else None
        mine = 0 if self.term.heads is Heads.FIRST else self.head
        return (row, position) if row >= 0 and (not book or book[0] == mine) else None


def draw(case: Case, expected: Positions, found: Positions) -> Picture:
    """Draw expected and found pairs of one case. Of a large one, draw the part around the first wrong pair.

    If there are several heads or streams, draw the first on which the two differ.
    """
    chosen = _choose(case, expected, found)
    labels = labels_of(chosen.term, case.batch)
    if chosen.frame is not None:
        labels = labels[chosen.frame][None]
    elif labels.dim() == 3:
        labels = labels[..., 0 if chosen.term.heads is Heads.FIRST else chosen.head]
    shape = case.pairing.shapes[chosen.term.logits]
    extent = (1, shape[2]) if chosen.frame is not None else (shape[0], shape[1])
    right, theirs = _of_slice(chosen, expected), _of_slice(chosen, found)
    return Picture(
        recipe=case.recipe.to_json(),
        of=chosen.title,
        labels=labels.tolist(),
        expected=_listed(chosen, right),
        found=_listed(chosen, theirs),
        drawing=_grid(chosen, extent, (labels.shape[0], labels.shape[1]), right, theirs),
    )


def _choose(case: Case, expected: Positions, found: Positions) -> _Slice:
    sites = [*(site for site in sorted({*expected, *found}) if expected.get(site) != found.get(site)), *expected]
    for name in case.spec.logits:
        of_name = [site for site in sites if site[0] == name]
        if of_name and (of_name[0] == sites[0]):
            return _slice_of(case, of_name[0])
    first = case.pairing.shapes[case.spec.logits[0]]
    return _slice_of(case, (case.spec.logits[0], *(0 for _ in first[:-1])))


def _slice_of(case: Case, site: Site) -> _Slice:
    name, *place = site
    row, position, *head = place
    term = next(term for term in case.spec.terms if term.logits == name)
    if term.axis is Axis.CODEBOOK:
        return _Slice(term, None, (row, position))
    return _Slice(term, head[0] if head else None, None)


def _of_slice(chosen: _Slice, positions: Positions) -> dict[Flat, tuple[Place, ...]]:
    return {at: places for site, places in positions.items() if (at := chosen.logit(site)) is not None}


def _listed(chosen: _Slice, positions: dict[Flat, tuple[Place, ...]]) -> list[dict[str, object]]:
    return [
        {"logits": list(at), "labels": [list(chosen.label(place) or (-1, -1)) for place in places]}
        for at, places in positions.items()
    ]


def _grid(
    chosen: _Slice,
    logits: Flat,
    labels: Flat,
    expected: dict[Flat, tuple[Place, ...]],
    found: dict[Flat, tuple[Place, ...]],
) -> str:
    across = "codebook" if chosen.frame is not None else "label position"
    down = "head " if chosen.frame is not None else "logit"
    places = [(row, position) for row in range(logits[0]) for position in range(logits[1])]
    wrong = next((at for at in places if expected.get(at) != found.get(at)), places[0] if places else (0, 0))
    above, shown, below = _window(places, wrong, _TALLEST)
    names = {here: f"row {here[0]} {down} {here[1]:<3d}" for here in shown}
    margin = max([_MARGIN, *(len(name) for name in names.values())])
    columns = [(row, position) for row in range(labels[0]) for position in range(labels[1])]
    cell = max(3, len(str(max(labels[1] - 1, 0))) + 1)
    bars = min(labels[0], _WIDEST) - 1
    first = [at for place in (*expected.get(wrong, ()), *found.get(wrong, ())) if (at := chosen.label(place))]
    most = max((_COLUMNS - margin - 2 * bars) // cell, 4)
    left, columns, right_of = _window(columns, min(first, default=(0, 0)), min(most, _WIDEST))
    trained = {chosen.label(place) for places in expected.values() for place in places}
    before = "… " if left else ""
    heading = "".join(f"{'│ ' if at == 0 and row else ''}{at:<{cell}d}" for row, at in columns)
    lines = [" " * margin + before + heading + ("… " if right_of else "") + across]
    if above:
        lines.append(f"… {above} rows above (--json has all)")
    for here in shown:
        right = {chosen.label(place) for place in expected.get(here, ())}
        theirs = [chosen.label(place) for place in found.get(here, ())]
        cells = " " * len(before)
        for place in columns:
            cells += "│ " if place[1] == 0 and place[0] else ""
            cells += f"{_cell(place, right, theirs, trained):<{cell}s}"
        strays = [_stray(place) for place in found.get(here, ()) if chosen.label(place) not in columns]
        lines.append(names[here].ljust(margin) + cells + "".join(strays[:1]))
    if below:
        lines.append(f"… {below} rows below (--json has all)")
    return "\n".join([*lines, _LEGEND])


def _window(places: list[Flat], wrong: Flat, most: int) -> tuple[int, list[Flat], int]:
    """Return at most ``most`` places in a row, with ``wrong`` near their beginning, and how many are left out."""
    at = places.index(wrong) if wrong in places else 0
    start = max(0, min(at - _CONTEXT, len(places) - most)) if len(places) > most else 0
    shown = places[start : start + most]
    return start, shown, len(places) - start - len(shown)


def _stray(place: Place) -> str:
    if place[0] < 0:
        return f"× class {place[1]}, no label" if place[1] >= 0 else "× off the batch"
    book = f", codebook {place[2]}" if len(place) > 2 else ""
    return f"× label [{place[0]}, {place[1]}{book}]"


def _cell(place: Flat, right: set[Flat | None], theirs: list[Flat | None], trained: set[Flat | None]) -> str:
    if place in right:
        return "●" if place in theirs else "○"
    if place in theirs:
        return "×"
    return "·" if place in trained else "-"
