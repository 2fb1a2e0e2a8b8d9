"""Pairs drawn as text."""

from __future__ import annotations

from shiftproof.harness.cases import build_case
from shiftproof.harness.picture import draw
from shiftproof.harness.recipe import Mask, Recipe, ShiftLabels
from shiftproof.reference.profiles import PROFILES

SPEC = PROFILES["torchtune"]
LEGEND = "● right   ○ missing   × wrong   - no target\n"


def lines(text: str) -> str:
    """A drawing without the blanks at the ends of its lines."""
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def test_a_double_shift_is_two_off_the_diagonal() -> None:
    case = build_case(SPEC, Recipe(rows=1, length=4, classes=7))
    expected = {(0, t): ((0, t + 1),) for t in range(3)}
    found = {(0, t): ((0, t + 2),) for t in range(2)}
    picture = draw(case, expected, found)
    assert (
        lines(picture.drawing)
        == (
            "               0  1  2  3  label position\n"
            "row 0 logit 0  -  ○  ×  ·\n"
            "row 0 logit 1  -  ·  ○  ×\n"
            "row 0 logit 2  -  ·  ·  ○\n"
            "row 0 logit 3  -  ·  ·  ·\n"
        )
        + LEGEND
    )
    assert picture.expected == [{"logits": [0, t], "labels": [[0, t + 1]]} for t in range(3)]
    assert picture.found == [{"logits": [0, t], "labels": [[0, t + 2]]} for t in range(2)]
    assert picture.labels == [[0, 1, 2, 3]]
    assert picture.recipe == case.recipe.to_json()


def test_right_pairs_in_two_rows_with_a_prompt() -> None:
    case = build_case(SPEC, Recipe(rows=2, length=3, classes=7, masks=(Mask.NONE, Mask.PROMPT)))
    right = {(0, 0): ((0, 1),), (0, 1): ((0, 2),), (1, 1): ((1, 2),)}
    assert (
        lines(draw(case, right, right).drawing)
        == (
            "               0  1  2  │ 0  1  2  label position\n"
            "row 0 logit 0  -  ●  ·  │ -  -  ·\n"
            "row 0 logit 1  -  ·  ●  │ -  -  ·\n"
            "row 0 logit 2  -  ·  ·  │ -  -  ·\n"
            "row 1 logit 0  -  ·  ·  │ -  -  ·\n"
            "row 1 logit 1  -  ·  ·  │ -  -  ●\n"
            "row 1 logit 2  -  ·  ·  │ -  -  ·\n"
        )
        + LEGEND
    )


def test_what_stands_at_no_label_is_off_the_batch() -> None:
    case = build_case(SPEC, Recipe(rows=1, length=2, classes=7))
    drawing = draw(case, {(0, 0): ((0, 1),)}, {(0, 0): ((0, 1),), (0, 1): ((-1, 6),)}).drawing
    assert lines(drawing).splitlines()[1:3] == ["row 0 logit 0  -  ●", "row 0 logit 1  -  ·  × off the batch"]


def test_extra_logits_have_lines_of_their_own() -> None:
    case = build_case(PROFILES["hf.prefix_lm"], Recipe(rows=1, length=2, classes=5, extra=2))
    drawing = draw(case, {(0, 2): ((0, 1),)}, {}).drawing
    assert [line[:13] for line in drawing.splitlines()[1:-1]] == [f"row 0 logit {at}" for at in range(4)]


def test_wide_cases_are_cut() -> None:
    case = build_case(SPEC, Recipe(rows=2, length=17, classes=5))
    drawing = draw(case, {}, {}).drawing.splitlines()
    assert len(drawing) == 1 + 24 + 1
    assert drawing[0].split()[-3:] == ["6", "label", "position"]
    assert len(draw(case, {}, {}).labels[0]) == 17


def test_labels_shown_are_those_scored() -> None:
    case = build_case(PROFILES["hf.causal_lm"], Recipe(1, 3, 7, shift_labels=ShiftLabels.PADDED))
    assert draw(case, {}, {}).labels == [[0, 1, -100]]
