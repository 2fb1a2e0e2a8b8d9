"""What is told of one candidate: all that decides the verdict, and no more than a screen of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shiftproof.harness.branches import Branches
from shiftproof.harness.report.failure import few
from shiftproof.harness.report.findings import SCREEN, as_html, as_text
from shiftproof.harness.results import (
    CandidateResult,
    Comparison,
    Counterexample,
    Coverage,
    Difference,
    LawResult,
    Level,
    NamedBug,
    Overall,
    Verdict,
)

from .made_up import BAD, DRAWING, GOOD, MESSAGE, NEVER, RECIPE, lines, whole


def test_the_picture_comes_first() -> None:
    assert lines(as_text(BAD)) == [
        "bad.py:loss against hf.causal_lm: DOES NOT CONFORM · cpu · float32 · 83 cases · 2.0 s",
        "pairing of logits, labels [[0, 1, 2]]",
        *DRAWING.splitlines(),
        "smallest counterexample (ALIGN-1)",
        "rows=1, length=3, classes=6, dtype=float32, seed=0",
        MESSAGE,
        "the bug is called double-shift (k = 2)",
        "CE(z_t, y_{t+2})",
        "it happened in: open-instruct#1549",
        "it gives the same results as: another-one",
        "2 more MUST laws fail because ALIGN-1 fails",
        "again: shiftproof replay f340a7fb",
    ]


# --- a screen ---------------------------------------------------------------------------------------------------------

NUMBERS = ", ".join(map(str, range(900)))
TALL = "\n".join([*("row 0 logit 0  " + "-  " * 90 for _ in range(90)), "● right"])
BUG = NamedBug("double-shift", 1.0, NUMBERS, NUMBERS, NUMBERS, tuple(f"bug-{number}" for number in range(90)))
LONG = {**RECIPE, "masks": ["none"] * 200, "ids": "x" * 900, "dtype": "bfloat16"}
LARGE = replace(
    BAD,
    dtypes=("float32", "bfloat16"),
    message=NUMBERS,
    scope=(NUMBERS, NUMBERS),
    laws=(
        replace(BAD.laws[1], message=NUMBERS, counterexample=Counterexample("f340a7fb", LONG)),
        *(LawResult(f"GRAD-{n}", "g", Level.MUST, Verdict.FAIL, message=NUMBERS) for n in range(90)),
        *(LawResult(f"EDGE-{n}", "g", Level.SHOULD, Verdict.FAIL, message=NUMBERS) for n in range(90)),
        *(LawResult(f"STATE-{n}", "g", Level.MUST, Verdict.REFUSED, message=NUMBERS) for n in range(90)),
        *(LawResult(f"LATE-{n}", "g", Level.MUST, Verdict.UNJUDGED, message=NUMBERS) for n in range(90)),
    ),
    diagnosis=(BUG, BUG),
    pairing=replace(BAD.pairing, drawing=TALL, labels=[[1024] * 900] * 90),  # type: ignore[type-var]
)
UNKNOWN = Difference(
    *(8, 133, 42, 1, {f"+{number}": 3 for number in range(1, 90)}, 499, 490, (1.25, 3.5)),
    value=NUMBERS,
    patterns=(NUMBERS,) * 9,
)
BUILT = Comparison(RECIPE, "shift.pad", [[0]], [[1]], TALL)


@pytest.mark.parametrize(
    "large",
    [
        LARGE,
        replace(LARGE, diagnosis=(BUG,)),
        replace(LARGE, diagnosis=(), difference=UNKNOWN),
        replace(LARGE, pairing=None, built=BUILT),
        replace(LARGE, pairing=None),
    ],
    ids=["two bugs", "one bug", "no bug", "label builder", "no picture"],
)
def test_a_failure_fits_a_screen_whatever_its_counterexample(large: CandidateResult) -> None:
    text = whole(large)
    assert len(text) <= SCREEN == 40
    assert max(map(len, text)) <= 120
    said = "\n".join(text)
    assert "(-v shows all)" in said
    assert text[-1] == "  again:  shiftproof replay f340a7fb"
    assert ("● right" in said) == (large.pairing is not None or large.built is not None)
    assert "smallest counterexample (ALIGN-1)" in said
    everything = as_text(large, verbosity=1)
    assert len(everything.splitlines()) > 100
    assert "(-v shows all)" not in everything
    assert everything.count(" 899") > 3


def test_of_a_long_case_only_the_first_labels_are_printed() -> None:
    assert few([[0, 1, 2]]) == "[[0, 1, 2]]"
    assert few([list(range(30))] * 5).count("23, …]") == 4
    assert few([[0]] * 5) == "[[0], [0], [0], [0], …]"


# --- what has no name -------------------------------------------------------------------------------------------------


def test_one_without_a_name_says_so() -> None:
    assert "no known bug: see the findings above" in as_text(replace(BAD, diagnosis=(), pairing=None))


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (
            Difference(8, 133, 42, 1, {"+1": 3, "another row": 2}, 499, 490, (1.25, 3.5)),
            "of 133 pairs on 8 cases: 42 missing, 1 added, 5 moved (3 to the label +1, 2 to another row)",
        ),
        (
            Difference(2, 9, 0, 0, {}, 30, 30, (2.0, 2.0)),
            "0 moved 30 of 30 weights of right pairs are off: 2 times what they should be",
        ),
        (Difference(2, 9, 1, 0, {}, 30, 0, None), "0 moved all 30 weights of right pairs are right"),
    ],
)
def test_one_without_a_name_says_how_it_differs(difference: Difference, said: str) -> None:
    told = " ".join(as_text(replace(BAD, diagnosis=(), difference=difference)).split())
    assert "no known bug: here is the pairing and its difference from the spec" in told
    assert said in told


def test_two_bugs_at_once_are_both_told() -> None:
    (one,) = BAD.diagnosis
    told = as_text(replace(BAD, diagnosis=(one, replace(one, mutant="denominator-all"))))
    assert "no single bug explains this; these two together explain every case" in told
    assert "one of them is called double-shift" in told
    assert "one of them is called denominator-all" in told


# --- what decides a verdict -------------------------------------------------------------------------------------------


def test_one_that_could_not_be_judged() -> None:
    broken = replace(GOOD, verdict=Overall.ERROR, laws=(), message="importing it raised [red]ValueError[/red]")
    assert lines(as_text(broken)) == [
        "good.py:loss against hf.causal_lm: COULD NOT BE JUDGED · cpu · float32 · 0 cases · 2.0 s",
        "importing it raised [red]ValueError[/red]",
    ]


@pytest.mark.parametrize(
    ("verdict", "overall", "said"),
    [
        (Verdict.REFUSED, Overall.INCONCLUSIVE, "MUST laws refused: GRAD-1, GRAD-2"),
        (Verdict.INCONCLUSIVE, Overall.INCONCLUSIVE, "MUST laws undecided: GRAD-1, GRAD-2"),
        (Verdict.VACUOUS, Overall.INCONCLUSIVE, "MUST laws of which no case proved anything: GRAD-1, GRAD-2"),
        (Verdict.TIMEOUT, Overall.ERROR, "MUST laws past their deadline: GRAD-1, GRAD-2"),
        (Verdict.UNJUDGED, Overall.ERROR, "not judged: GRAD-1, GRAD-2"),
    ],
)
def test_each_law_that_leaves_a_verdict_open_is_named(verdict: Verdict, overall: Overall, said: str) -> None:
    laws = tuple(LawResult(f"GRAD-{n}", "gradient", Level.MUST, verdict, message="why") for n in (1, 2))
    text = as_text(replace(GOOD, verdict=overall, laws=(*GOOD.laws, *laws), message="a reason"))
    assert lines(text)[1:3] == ["a reason", said]


def test_where_no_law_was_judged_they_are_counted() -> None:
    laws = tuple(LawResult(f"GRAD-{n}", "gradient", Level.MUST, Verdict.UNJUDGED, message="why") for n in (1, 2))
    assert "  not judged: all 2 laws\n" in as_text(replace(GOOD, verdict=Overall.ERROR, laws=laws))


def test_cells_that_are_due_are_named() -> None:
    some = Coverage(dict.fromkeys("abcd", 0) | {"e": 7}, due_after=3)
    text = as_text(replace(GOOD, verdict=Overall.INCONCLUSIVE, coverage=some))
    assert "the judgement is not complete; there was no case of: a; b; c; d" in text
    many = replace(some, counts={f"left padding × calm × float32 × {number}": 0 for number in range(900)})
    text = as_text(replace(GOOD, verdict=Overall.INCONCLUSIVE, coverage=many))
    assert len(text.splitlines()) <= 23
    assert "(-v shows all)" in text


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    odd = "[bold]x[/bold] [0, 1] [/]"
    laws = (LawResult("A-1", "t", Level.MUST, Verdict.FAIL, message=odd, counterexample=Counterexample("0" * 8, {})),)
    found = replace(BAD, candidate=odd, laws=laws, pairing=replace(BAD.pairing, drawing=odd))  # type: ignore[type-var]
    assert as_text(found).count(odd) == 3  # the name, the law's message, the drawing
    assert as_text(found, verbosity=1).count(odd) == 4


@pytest.mark.parametrize(("dtype", "is_told"), [("bfloat16", True), ("float32", False)])
def test_one_that_fails_in_the_second_dtype_may_not_be_meant_for_it(dtype: str, is_told: bool) -> None:
    laws = tuple(
        replace(law, counterexample=Counterexample("f340a7fb", {**RECIPE, "dtype": dtype}))
        if law.counterexample is not None
        else law
        for law in BAD.laws
    )
    text = as_text(replace(BAD, dtypes=("float32", "bfloat16"), laws=laws))
    assert ("judge it with --dtype float32" in text) is is_told


# --- more of it -------------------------------------------------------------------------------------------------------


def test_more_shows_the_laws() -> None:
    text = lines(as_text(BAD, verbosity=1))
    assert text[-5:] == [
        "law verdict cases",
        "CONTRACT-1 MUST pass 70 answers",
        f"ALIGN-1 MUST fail 6 {MESSAGE.removesuffix(' 1]')}",
        "1]",
        "2 more fail 7 expected, because ALIGN-1 fails: VALUE-1, GRAD-1",
    ]
    assert "ALIGN-1 MUST pass 129 every row on its own label (2 vacuous)" in lines(as_text(GOOD, verbosity=1))
    assert "skip" not in as_text(GOOD, verbosity=1)


def test_still_more_shows_skips_cells_sizes_branches_and_effort() -> None:
    found = replace(
        GOOD,
        coverage=Coverage(dict.fromkeys("abcd", 0) | {"e": 7}, sizes={"S small": 1, "S large": 0}),
        branches=Branches((NEVER, replace(NEVER, ran=(True, True))), sizes_unread="KeyError: 3", regions=4),
    )
    text = lines(as_text(found, verbosity=2))
    assert text[-6:] == [
        "144 cases (150 calls) in 2.0 s, 72 a second; 50% of the time in the harness, the rest in candidate and oracle",
        "coverage: 1 of 5 cells (structure × regime × dtype × reduction)",
        "not hit: a; b; and 2 more (--json has them all)",
        "sizes: 1 of 2 pairs of size classes (--json has them all)",
        "branches: 1 of 2 of its code ran both ways, judged at 4 sizes or ids at which its code may take another way",
        "what it asks of sizes was not read, or not all of it: KeyError: 3",
    ]
    assert "ALIGN-2 skip its gradient shows the same" in text
    assert "5 laws skip no such case" in lines(as_text(BAD, verbosity=2))
    unread = replace(GOOD, branches=Branches(unread="it is a function of torch"))
    assert "branches: not read: it is a function of torch" in lines(as_text(unread, verbosity=2))


def test_html_has_all_of_the_text_and_escapes_it() -> None:
    odd = replace(BAD, candidate="<script>.py:loss")
    page = as_html(odd)
    assert page.startswith("<pre ")
    assert page.endswith("</pre>")
    assert "&lt;script&gt;.py:loss" in page
    assert "<script>" not in page
    assert "double-shift" in page
    assert 'style="' in page.partition(">")[2]
