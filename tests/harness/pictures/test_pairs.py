"""Pairs drawn as text."""

from __future__ import annotations

from shiftproof.harness.cases.build import build_case
from shiftproof.harness.cases.recipe import Mask, Recipe, ShiftLabels
from shiftproof.harness.laws.alignment import expected_positions
from shiftproof.harness.pictures.pairs import draw
from shiftproof.harness.probe.read import Positions, Site
from shiftproof.reference.profiles import PROFILES

SPEC = PROFILES["torchtune"]
FIRST: Site = ("logits", 0, 0)
LEGEND = "● right   ○ missing   × wrong   - no target\n"


def lines(text: str) -> str:
    """A drawing without the blanks at the ends of its lines."""
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def test_a_double_shift_is_two_off_the_diagonal() -> None:
    case = build_case(SPEC, Recipe(rows=1, length=4, classes=7))
    expected: Positions = {("logits", 0, t): ((0, t + 1),) for t in range(3)}
    found: Positions = {("logits", 0, t): ((0, t + 2),) for t in range(2)}
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
    assert picture.of == "logits"
    assert picture.labels == [[0, 1, 2, 3]]
    assert picture.recipe == case.recipe.to_json()


def test_right_pairs_in_two_rows_with_a_prompt() -> None:
    case = build_case(SPEC, Recipe(rows=2, length=3, classes=7, masks=(Mask.NONE, Mask.PROMPT)))
    right: Positions = {("logits", 0, 0): ((0, 1),), ("logits", 0, 1): ((0, 2),), ("logits", 1, 1): ((1, 2),)}
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
    for place, said in (((-1, 6), "class 6, no label"), ((-1, -1), "off the batch")):
        drawing = draw(case, {FIRST: ((0, 1),)}, {FIRST: ((0, 1),), ("logits", 0, 1): (place,)}).drawing
        assert lines(drawing).splitlines()[1:3] == ["row 0 logit 0  -  ●", f"row 0 logit 1  -  ·  × {said}"]


def test_extra_logits_have_lines_of_their_own() -> None:
    case = build_case(PROFILES["hf.prefix_lm"], Recipe(rows=1, length=2, classes=5, extra=2))
    drawing = draw(case, {("logits", 0, 2): ((0, 1),)}, {}).drawing
    assert [line[:13] for line in drawing.splitlines()[1:-1]] == [f"row 0 logit {at}" for at in range(4)]


def test_wide_cases_are_cut() -> None:
    case = build_case(SPEC, Recipe(rows=2, length=17, classes=5))
    drawing = draw(case, {}, {}).drawing.splitlines()
    assert len(drawing) == 1 + 14 + 2
    assert drawing[0].split()[-4:] == ["6", "…", "label", "position"]
    assert drawing[-2] == "… 20 rows below (--json has all)"
    assert len(draw(case, {}, {}).labels[0]) == 17


def test_of_a_long_case_the_part_around_the_first_wrong_pair_is_drawn() -> None:
    case = build_case(SPEC, Recipe(rows=1, length=1200, classes=5))
    right = expected_positions(case.pairing)
    wrong: Positions = {**right, ("logits", 0, 1005): ((0, 1007),), ("logits", 0, 1006): ((0, 3),)}
    heading, above, *rows, below, _ = draw(case, right, wrong).drawing.splitlines()
    assert (above, below) == ("… 1003 rows above (--json has all)", "… 183 rows below (--json has all)")
    assert heading.split()[:3] == ["…", "1004", "1005"]
    assert rows[2].startswith("row 0 logit 1005 ")
    assert rows[2].split()[4:8] == ["·", "·", "○", "×"]
    assert rows[3].endswith("× label [0, 3]")
    assert max(map(len, (heading, *rows))) <= 114


def test_many_codebooks_and_rows_of_one_position_fit() -> None:
    case = build_case(PROFILES["dia"], Recipe(rows=64, length=1, classes=20, codebooks=33))
    right = expected_positions(case.pairing)
    wrong = {**right, ("logits", 60, 0, 32): ((60, 0, 31),)}
    lines_of_it = draw(case, right, wrong).drawing.splitlines()
    assert len(lines_of_it) <= 18
    assert max(map(len, lines_of_it)) <= 114
    assert any(line.endswith("× label [60, 0, codebook 31]") for line in lines_of_it)


def test_labels_shown_are_those_scored() -> None:
    case = build_case(PROFILES["hf.causal_lm"], Recipe(1, 3, 7, shift_labels=ShiftLabels.PADDED))
    assert draw(case, {}, {}).labels == [[0, 1, -100]]


# --- Codebooks, heads and streams -------------------------------------------------------------------------------------

BOOKS = Recipe(rows=1, length=3, classes=20, codebooks=3)


def test_the_codebook_that_differs_is_drawn() -> None:
    case = build_case(PROFILES["dia"], BOOKS)
    right = expected_positions(case.pairing)
    late = {**right, ("logits", 0, 1, 2): ((0, 2, 2),)}
    picture = draw(case, right, late)
    assert picture.of == "logits, codebook 2"
    assert picture.labels == [[2, 5, 8]]
    assert (
        lines(picture.drawing)
        == (
            "               0  1  2  label position\n"
            "row 0 logit 0  ●  ·  ·\n"
            "row 0 logit 1  ·  ○  ×\n"
            "row 0 logit 2  ·  ·  ●\n"
        )
        + LEGEND
    )
    assert picture.expected == [{"logits": [0, t], "labels": [[0, t]]} for t in range(3)]
    assert picture.found == [{"logits": [0, t], "labels": [[0, at]]} for t, at in ((0, 0), (1, 2), (2, 2))]


def test_a_label_of_another_codebook_is_named_beside_the_drawing() -> None:
    case = build_case(PROFILES["dia"], BOOKS)
    right = expected_positions(case.pairing)
    next_book: Positions = {site: ((row, at, (book + 1) % 3),) for site, ((row, at, book),) in right.items()}  # type: ignore[misc]
    picture = draw(case, right, next_book)
    assert picture.of == "logits, codebook 0"
    assert lines(picture.drawing).splitlines()[1:4] == [
        "row 0 logit 0  ○  ·  ·  × label [0, 0, codebook 1]",
        "row 0 logit 1  ·  ○  ·  × label [0, 1, codebook 1]",
        "row 0 logit 2  ·  ·  ○  × label [0, 2, codebook 1]",
    ]
    assert picture.found == [{"logits": [0, t], "labels": [[-1, -1]]} for t in range(3)]


def test_what_is_right_in_every_codebook_shows_the_first() -> None:
    case = build_case(PROFILES["dia"], BOOKS)
    right = expected_positions(case.pairing)
    picture = draw(case, right, right)
    assert (picture.of, picture.labels) == ("logits, codebook 0", [[0, 3, 6]])
    assert "×" not in picture.drawing.splitlines()[1]


def test_the_stream_that_differs_is_drawn() -> None:
    case = build_case(PROFILES["higgs.hf"], BOOKS)
    right = expected_positions(case.pairing)
    silent = {site: places for site, places in right.items() if site[0] == "logits"}
    picture = draw(case, right, silent)
    assert picture.of == "audio_logits, codebook 0"
    assert lines(picture.drawing).splitlines()[1] == "row 0 logit 0  -  ○  ·"
    deaf = {site: places for site, places in right.items() if site[0] != "logits"}
    assert draw(case, right, deaf).of == "logits"


def test_a_shift_along_the_codebooks_is_drawn_frame_by_frame() -> None:
    case = build_case(PROFILES["csm"], BOOKS)
    right = expected_positions(case.pairing)
    own = {**right, ("depth_logits", 0, 1, 0): ((0, 1, 0),), ("depth_logits", 0, 1, 1): ((0, 1, 1),)}
    picture = draw(case, right, own)
    assert picture.of == "depth_logits, frame [0, 1]"
    assert picture.labels == [[3, 4, 5]]
    assert (
        lines(picture.drawing)
        == ("               0  1  2  codebook\nrow 0 head  0  ×  ○  ·\nrow 0 head  1  -  ×  ○\n") + LEGEND
    )
    assert picture.found == [{"logits": [0, head], "labels": [[0, head]]} for head in (0, 1)]


def test_the_backbone_is_drawn_on_its_own_codebook() -> None:
    case = build_case(PROFILES["csm"], BOOKS)
    right = expected_positions(case.pairing)
    picture = draw(case, right, {**right, ("logits", 0, 0): ((0, 0, 0),)})
    assert (picture.of, picture.labels) == ("logits", [[0, 3, 6]])
    assert lines(picture.drawing).splitlines()[1] == "row 0 logit 0  ×  ○  ·"
    stray = draw(case, right, {**right, ("logits", 0, 0): ((0, 1, 2),)})
    assert lines(stray.drawing).splitlines()[1] == "row 0 logit 0  -  ○  ·  × label [0, 1, codebook 2]"


def test_a_head_that_predicts_further_ahead_is_called_a_head() -> None:
    case = build_case(PROFILES["medusa"], Recipe(rows=1, length=5, classes=20, codebooks=2))
    right = expected_positions(case.pairing)
    nearer = {**right, ("mtp_logits", 0, 0, 1): ((0, 2),)}
    picture = draw(case, right, nearer)
    assert picture.of == "mtp_logits, head 1"
    assert lines(picture.drawing).splitlines()[1] == "row 0 logit 0  -  -  ×  ○  ·"


def test_segments_that_are_concatenated_are_drawn_as_one_row() -> None:
    case = build_case(PROFILES["higgs.boson"], Recipe(rows=2, length=2, classes=20, codebooks=2))
    right = expected_positions(case.pairing)
    picture = draw(case, right, {**right, ("audio_logits", 0, 1, 0): ((0, 2, 0),)})
    assert picture.of == "audio_logits, codebook 0"
    assert picture.labels == [[-100, 2, -100, 6]]
    assert [line.rstrip() for line in picture.drawing.splitlines()[1:5]] == [
        "row 0 logit 0  -  ●  -  ·",
        "row 0 logit 1  -  ·  ×  ·",
        "row 0 logit 2  -  ·  -  ●",
        "row 0 logit 3  -  ·  -  ·",
    ]
