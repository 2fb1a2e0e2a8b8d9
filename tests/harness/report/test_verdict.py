"""The line of the verdict, and what the verdict covers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shiftproof.harness.branches import Branches
from shiftproof.harness.report.findings import as_text
from shiftproof.harness.results import Coverage, LawResult, Level, Overall, Verdict

from .made_up import BAD, COVERED, GOOD, KNOWN, NEVER, STATES, whole


def test_a_pass_takes_three_lines() -> None:
    assert whole(COVERED) == [
        "shiftproof 0.1.0 · seed 7 · profile quick",
        "good.py:loss against hf.causal_lm: CONFORMS · cpu · float32, bfloat16 · 120 cases · 2.0 s",
        f"  up to B=128 S=8193 V=128000; under {', '.join(STATES)}",
    ]


MUCH = replace(
    COVERED,
    candidate="mytrainer/losses/" + "deep/" * 4 + "text.py:loss",
    laws=(
        *COVERED.laws,
        *(LawResult(f"EDGE-{n}", "e", Level.SHOULD, Verdict.FAIL, cases=3, message="off") for n in range(9)),
    ),
    scope=tuple(f"allowed: GRAD-{number} ({'a long reason ' * 9})" for number in range(5)),
    branches=Branches((NEVER, *(replace(NEVER, line=n, condition="S > 67 and " * 9 + "B") for n in range(60, 64)))),
)


@pytest.mark.parametrize(
    "much", [MUCH, replace(MUCH, scope=()), replace(MUCH, branches=None), replace(MUCH, laws=COVERED.laws)]
)
def test_a_pass_with_much_to_say_takes_three_lines_or_four_with_limits(much: object) -> None:
    assert isinstance(much, type(MUCH))
    text = whole(much)
    assert len(text) == (4 if much.scope else 3)
    assert max(map(len, text)) <= 120
    said = " ".join(text)
    assert ("except " in said) == (much.branches is not None)
    assert ("only allowed: GRAD-0 (a long reason" in said) == bool(much.scope)
    assert ("… (-v shows all)" in said) == bool(much.scope)
    assert ("SHOULD" in said) == (len(much.laws) > len(COVERED.laws))
    for words in ("cpu · float32, bfloat16 · ", "up to B=128 S=8193 V=128000", "under "):
        assert words in said


def test_what_never_ran_is_on_the_verdict_line() -> None:
    judged = replace(GOOD, branches=Branches((NEVER, replace(NEVER, ran=(True, True), condition="B > 1"))))
    assert "CONFORMS, except losses.py:52 (S > 67 never true) · cpu" in as_text(judged).splitlines()[0]


def test_a_long_name_costs_the_condition_of_what_never_ran_but_not_under_v() -> None:
    judged = replace(MUCH, laws=COVERED.laws, scope=(), branches=Branches((replace(NEVER, condition="x > 67 " * 9),)))
    verdict, covers = as_text(judged).splitlines()
    assert verdict.endswith(": CONFORMS, except losses.py:52")
    assert covers.startswith("  cpu · float32, bfloat16 · 120 cases · 2.0 s; up to B=128")
    assert "x > 67 x > 67" in as_text(judged, verbosity=1)


def test_should_laws_that_fail_are_named() -> None:
    assert as_text(GOOD).splitlines()[1] == "  SHOULD laws that fail: EMPTY-1"
    follows = replace(GOOD, laws=tuple(replace(law, follows="ALIGN-1") for law in GOOD.laws))
    assert "SHOULD" not in as_text(follows)


def test_states_in_which_it_was_refused_or_wrong_are_not_told() -> None:
    autocast = LawResult("STATE-3", "under autocast", Level.MUST, Verdict.PASS, cases=9, refused=2, mode="autocast")
    refused = replace(autocast, id="STATE-4", refused=9, mode="torch.compile", message="9 of 9 cases were refused")
    failed = replace(autocast, id="MODE-1", level=Level.SHOULD, verdict=Verdict.FAIL, mode="no_grad", message="off")
    covered = Coverage({}, largest={"B": 64, "S": 4097, "V": 50257})
    both = ("float32", "bfloat16")
    found = replace(GOOD, device="cuda", dtypes=both, coverage=covered, laws=(autocast, refused, failed))
    verdict, judged = as_text(found).splitlines()
    assert "CONFORMS · cuda · float32, bfloat16 · 27 cases" in verdict
    assert judged == "  SHOULD laws that fail: MODE-1; up to B=64 S=4097 V=50257; under autocast"


def test_a_label_builder_has_no_dtypes() -> None:
    assert "CONFORMS · cpu · 144 cases" in as_text(replace(GOOD, spec="shift.pad", dtypes=("int64",)))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (KNOWN, "DOES NOT CONFORM as double-shift (as expected)"),
        (replace(KNOWN, expected_diagnosis="no-shift"), "DOES NOT CONFORM (expected to fail as no-shift)"),
        (replace(GOOD, expect="fails"), "CONFORMS (expected to fail)"),
    ],
)
def test_what_was_expected(result: object, words: str) -> None:
    assert isinstance(result, type(GOOD))
    assert words in as_text(result).splitlines()[0]


def test_what_is_too_long_for_one_line_goes_on_on_the_next() -> None:
    for long in (replace(BAD, candidate="x" * 90), replace(KNOWN, candidate="x" * 90)):
        first, second, *_ = as_text(long).splitlines()
        assert first.startswith("x" * 90 + " against hf.causal_lm: DOES NOT CONFORM")
        assert second == "  cpu · float32 · 83 cases · 2.0 s"


def test_as_expected_needs_no_explanation() -> None:
    assert len(whole(KNOWN)) == 2
    assert len(as_text(KNOWN, verbosity=1).splitlines()) > 10


def test_in_one_line() -> None:
    assert as_text(BAD, verbosity=-1) == (
        "bad.py:loss against hf.causal_lm: DOES NOT CONFORM (double-shift) · cpu · float32 · 83 cases · 2.0 s"
        " · shiftproof replay f340a7fb\n"
    )
    nameless = replace(BAD, diagnosis=(), laws=(replace(BAD.laws[1], message="was killed by SIGSEGV"),))
    assert "DOES NOT CONFORM (ALIGN-1: was killed by SIGSEGV)" in as_text(nameless, verbosity=-1)
    assert "COULD NOT BE JUDGED (it raised)" in as_text(
        replace(GOOD, verdict=Overall.ERROR, message="it raised"), verbosity=-1
    )
