"""What is declared away: how it is read, what it does to a law's result, and when it matches nothing any more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shiftproof.harness.candidates.allowance import Allowance, parse_allowance, read_allowances
from shiftproof.harness.judge.conclusion import stale
from shiftproof.harness.results import CandidateResult, LawResult, Level, Overall, Verdict

LAW = {"law": "GRAD-5", "reason": "called once a step"}
REFUSES = {"refuses": "32768 classes", "reason": "one block"}


def test_reading() -> None:
    assert read_allowances([LAW, REFUSES]) == (
        Allowance("called once a step", law="GRAD-5"),
        Allowance("one block", refuses="32768 classes"),
    )
    assert read_allowances([]) == ()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (["GRAD-5"], "allow holds 'GRAD-5'; expected tables such as"),
        ([{"lwa": "GRAD-5", "reason": "x"}], "allow has no key 'lwa' .did you mean 'law'"),
        ([{"law": 5, "reason": "x"}], "allow.law is 5; expected a string"),
        ([{"law": "GRAD-5"}], "allow 'GRAD-5' has no reason"),
        ([{"law": "GRAD-5", "reason": " "}], "allow 'GRAD-5' has no reason"),
        ([{"reason": "x"}], "allow takes one of law, refuses and branch"),
        *(
            ([{"branch": key, "reason": "x"}], "allow.branch is .*; expected function.condition., or 'not read'")
            for key in ("S > 67", "loss(S > 67", "S > 67)")
        ),
        ([{**LAW, **REFUSES}], "allow takes one of law, refuses and branch"),
    ],
)
def test_what_cannot_be_read(entries: list[Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_allowances(entries)


def test_on_the_command_line() -> None:
    assert parse_allowance("law=GRAD-5: called once a step") == LAW
    assert parse_allowance("refuses=32768 classes: one block") == REFUSES
    long = "branch=loss(x[a: b] is None): it is never None: it has a default"
    assert parse_allowance(long) == {"branch": "loss(x[a: b] is None)", "reason": "it is never None: it has a default"}
    assert parse_allowance("branch=not read: a kernel") == {"branch": "not read", "reason": "a kernel"}
    for text in ("GRAD-5: why", "law=: why", "size=3: why"):
        with pytest.raises(ValueError, match="cannot be read; write 'law=GRAD-5: reason'"):
            parse_allowance(text)


def law(verdict: Verdict, id: str = "GRAD-5", message: str = "because") -> LawResult:
    return LawResult(id, "a law", Level.MUST, verdict, message=message)


def result(*laws: LawResult) -> CandidateResult:
    return CandidateResult("text", "m:f", "sum", "cpu", "float32", Overall.CONFORMS, laws=laws)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ((Verdict.PASS,), True),
        ((Verdict.SKIP,), True),
        ((Verdict.ALLOWED,), False),
        ((Verdict.PASS, Verdict.ALLOWED), False),  # of two dtypes, it is needed in one
        ((Verdict.UNJUDGED,), False),
        ((Verdict.NOT_ASKED,), False),
    ],
)
def test_an_allowed_law_that_holds_is_told(verdicts: tuple[Verdict, ...], expected: bool) -> None:
    allowance = Allowance("called once a step", law="GRAD-5")
    assert stale(allowance, [result(law(verdict), law(Verdict.PASS, "ALIGN-1")) for verdict in verdicts]) is expected


def test_an_allowed_refusal_that_never_came_is_told() -> None:
    allowance = Allowance("one block", refuses="32768 classes")
    never = result(law(Verdict.PASS))
    assert stale(allowance, [never])
    assert not stale(allowance, [never, result(law(Verdict.PASS, message=f"refused, as declared: {allowance}"))])
    assert not stale(allowance, [result(replace(law(Verdict.FAIL), message="wrong"))])
    assert not stale(allowance, [result()])


def test_only_the_first_of_each_sign_on_the_command_line_divides() -> None:
    assert parse_allowance("refuses=n = 3: because: two") == {"refuses": "n = 3", "reason": "because: two"}
