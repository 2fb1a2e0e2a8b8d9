"""The expected and the found output of a builder, drawn as text: one line per row, with a mark where they differ."""

from __future__ import annotations

from itertools import product, zip_longest

from torch import Tensor

from shiftproof.reference.builders import BuilderBatch

from ..results import Comparison
from .cases import BuilderCase

_AXES = {"B": "row", "1": "row", "K": "codebook", "B·K": "row·codebook"}
_WIDEST, _MOST_ROWS = 24, 12
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
    lines: list[str] = []

    def line(name: str, what: str, cells: list[str]) -> None:
        cut = " …" if len(cells) > _WIDEST else ""
        lines.append(f"{name:<{margin}}  {what:<8}" + "".join(f"{cell:>{width}}" for cell in cells[:_WIDEST]) + cut)

    for name, (right, theirs) in list(zip(names, pairs.values(), strict=True))[:_MOST_ROWS]:
        line(name, "expected" if right != theirs else "right", [_sign(value, case.batch) for value in right])
        if right != theirs:
            line("", "found", [_sign(value, case.batch) for value in theirs])
            line("", "", [" " if one == other else "×" for one, other in zip_longest(right, theirs)])
    if len(pairs) > _MOST_ROWS:
        lines.append(f"… and {len(pairs) - _MOST_ROWS} more rows")
    words = {word_for(value, case.batch) for value in values}
    legend = [f"{sign} {word}" for word, sign in _SIGNS.items() if word in words]
    return Comparison(
        recipe=case.recipe.to_json(),
        of=case.spec.name,
        expected=list(expected.values()),
        found=list(found.values()),
        drawing="\n".join([*(text.rstrip() for text in lines), "   ".join(["× another", *legend])]),
    )


def _rows(tensor: Tensor) -> dict[tuple[int, ...], list[int]]:
    """Return each row along the last axis, keyed by its place on the other axes."""
    places = product(*map(range, tensor.shape[:-1]))
    return {place: tensor[place].long().tolist() for place in places}


def _sign(value: int, batch: BuilderBatch) -> str:
    word = word_for(value, batch)
    return _SIGNS[word] if word else str(value)
