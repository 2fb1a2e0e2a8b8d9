"""The expected and the found output of a builder, drawn as text: one line per row, with a mark where they differ."""

from __future__ import annotations

from itertools import product, zip_longest

from torch import Tensor

from shiftproof.reference.builders import BuilderBatch

from ..results import Comparison
from .cases import BuilderCase

_AXES = {"B": "row", "1": "row", "K": "codebook", "B·K": "row·codebook"}
_WIDEST, _MOST_LINES = 24, 18
_COLUMNS = 96  # of a row's name and its cells
_CONTEXT = 2  # cells before the first one that is wrong
_SIGNS = {"ignored": "·", "BOS": "B", "EOS": "E", "PAD": "P"}


def word_for(value: int, batch: BuilderBatch) -> str | None:
    """Return the name of a special id, or None for an ordinary id."""
    words = {
        batch.pad_token_id: "PAD",
        batch.bos_token_id: "BOS",
        batch.eos_token_id: "EOS",  # can also be the pad id
        batch.ignore_index: "ignored",
    }
    return words.get(value)


def draw(case: BuilderCase, returned: Tensor) -> Comparison | None:
    """Draw expected over found on one small case. Return None if the rows cannot be compared."""
    if returned.dim() != case.expected.dim() or returned.dim() == 0:
        return None
    expected, found = _rows(case.expected), _rows(returned)
    axes = [_AXES[letter] for letter in case.spec.output.split()[:-1]]
    pairs = {place: (expected.get(place, []), found.get(place, [])) for place in {**expected, **found}}
    names = [" ".join(f"{axis} {at}" for axis, at in zip(axes, place, strict=True)) for place in pairs]
    margin = max(map(len, names), default=0)
    values = {value for pair in pairs.values() for row in pair for value in row}
    width = max((len(_sign(value, case.batch)) for value in values), default=1) + 1
    most = max(min(_WIDEST, (_COLUMNS - margin) // width), 4)
    start = _start(list(pairs.values()), most)
    lines: list[str] = []

    def line(name: str, what: str, cells: list[str]) -> None:
        shown = cells[start : start + most]
        before, after = " …" if start and what else "  " if start else "", " …" if len(cells) > start + most else ""
        lines.append(f"{name:<{margin}}  {what:<8}{before}" + "".join(f"{cell:>{width}}" for cell in shown) + after)

    rows = list(zip(names, pairs.values(), strict=True))
    above = _first_wrong(list(pairs.values())) if sum(map(_height, pairs.values())) > _MOST_LINES else 0
    if above:
        lines.append(f"… {above} rows above, which are right")
    drawn = above
    for name, (right, theirs) in rows[above:]:
        if drawn > above and len(lines) + _height((right, theirs)) > _MOST_LINES:
            break
        drawn += 1
        line(name, "expected" if right != theirs else "right", [_sign(value, case.batch) for value in right])
        if right != theirs:
            line("", "found", [_sign(value, case.batch) for value in theirs])
            line("", "", [" " if one == other else "×" for one, other in zip_longest(right, theirs)])
    if drawn < len(rows):
        lines.append(f"… and {len(rows) - drawn} more rows (--json has all)")
    words = {word_for(value, case.batch) for value in values}
    legend = [f"{sign} {word}" for word, sign in _SIGNS.items() if word in words]
    return Comparison(
        recipe=case.recipe.to_json(),
        of=case.spec.name,
        expected=list(expected.values()),
        found=list(found.values()),
        drawing="\n".join([*(text.rstrip() for text in lines), "   ".join(["× another", *legend])]),
    )


Pair = tuple[list[int], list[int]]


def _height(pair: Pair) -> int:
    """The lines that a row takes: a wrong one has what was found, and marks."""
    return 1 if pair[0] == pair[1] else 3


def _first_wrong(pairs: list[Pair]) -> int:
    return next((index for index, (right, theirs) in enumerate(pairs) if right != theirs), 0)


def _start(pairs: list[Pair], most: int) -> int:
    """Return the cell at which drawing starts: 0, or in long rows a little before the first wrong one."""
    right, theirs = pairs[_first_wrong(pairs)] if pairs else ([], [])
    wrong = next((at for at, (one, other) in enumerate(zip_longest(right, theirs)) if one != other), 0)
    longest = max(len(right), len(theirs))
    return max(0, min(wrong - _CONTEXT, longest - most)) if longest > most else 0


def _rows(tensor: Tensor) -> dict[tuple[int, ...], list[int]]:
    """Return each row along the last axis, keyed by its place on the other axes."""
    places = product(*map(range, tensor.shape[:-1]))
    return {place: tensor[place].long().tolist() for place in places}


def _sign(value: int, batch: BuilderBatch) -> str:
    word = word_for(value, batch)
    return _SIGNS[word] if word else str(value)
