"""What is said of a candidate follows from its laws, and no record contradicts itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from shiftproof.harness.branches import Branch, Branches
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
    Picture,
    Verdict,
    merge,
    overall,
)

FAILURES = (Verdict.FAIL, Verdict.ERROR, Verdict.CRASH, Verdict.TIMEOUT)
OTHERS = (
    *(Verdict.PASS, Verdict.SKIP, Verdict.VACUOUS, Verdict.REFUSED, Verdict.INCONCLUSIVE),
    *(Verdict.UNJUDGED, Verdict.NOT_ASKED),
)


def law(verdict: Verdict, level: Level = Level.MUST, **rest: Any) -> LawResult:
    return LawResult("X-1", "a law", level, verdict, message="because", **rest)


MUST, SHOULD = Level.MUST, Level.SHOULD


@pytest.mark.parametrize(
    ("laws", "expected"),
    [
        ([(Verdict.PASS, MUST)], Overall.CONFORMS),
        ([(Verdict.PASS, MUST), (Verdict.SKIP, MUST)], Overall.CONFORMS),
        *[([(Verdict.PASS, MUST), (failure, MUST)], Overall.FAILS) for failure in FAILURES[:3]],
        ([(Verdict.PASS, MUST), (Verdict.TIMEOUT, MUST)], Overall.ERROR),
        ([(Verdict.FAIL, MUST), (Verdict.TIMEOUT, MUST)], Overall.FAILS),
        ([(Verdict.TIMEOUT, MUST), (Verdict.SKIP, MUST)], Overall.ERROR),
        ([(Verdict.TIMEOUT, MUST), (Verdict.VACUOUS, MUST)], Overall.ERROR),
        ([(Verdict.TIMEOUT, MUST), (Verdict.FAIL, SHOULD)], Overall.ERROR),
        ([(Verdict.UNJUDGED, MUST), (Verdict.INCONCLUSIVE, MUST)], Overall.ERROR),
        ([(Verdict.UNJUDGED, MUST), (Verdict.TIMEOUT, MUST)], Overall.ERROR),
        ([(Verdict.PASS, MUST), (Verdict.UNJUDGED, MUST)], Overall.ERROR),
        ([(Verdict.PASS, MUST), (Verdict.UNJUDGED, SHOULD)], Overall.ERROR),
        ([(Verdict.FAIL, MUST), (Verdict.UNJUDGED, MUST)], Overall.FAILS),
        ([(Verdict.NOT_ASKED, MUST), (Verdict.UNJUDGED, MUST)], Overall.ERROR),
        ([(Verdict.PASS, MUST), (Verdict.NOT_ASKED, MUST)], Overall.PARTIAL),
        ([(Verdict.PASS, MUST), (Verdict.NOT_ASKED, SHOULD)], Overall.PARTIAL),
        ([(Verdict.FAIL, MUST), (Verdict.NOT_ASKED, MUST)], Overall.FAILS),
        ([(Verdict.PASS, MUST), (Verdict.REFUSED, MUST)], Overall.INCONCLUSIVE),
        ([(Verdict.PASS, MUST), (Verdict.REFUSED, SHOULD)], Overall.CONFORMS),
        ([(Verdict.PASS, MUST), (Verdict.ALLOWED, MUST)], Overall.CONFORMS),
        ([(Verdict.ALLOWED, MUST)], Overall.INCONCLUSIVE),
        *[([(Verdict.PASS, MUST), (failure, SHOULD)], Overall.CONFORMS) for failure in FAILURES],
        ([(Verdict.PASS, MUST), (Verdict.VACUOUS, MUST)], Overall.INCONCLUSIVE),
        ([(Verdict.PASS, MUST), (Verdict.INCONCLUSIVE, MUST)], Overall.INCONCLUSIVE),
        ([(Verdict.PASS, MUST), (Verdict.VACUOUS, SHOULD)], Overall.CONFORMS),
        ([(Verdict.INCONCLUSIVE, MUST), (Verdict.FAIL, MUST)], Overall.FAILS),
        ([(Verdict.SKIP, MUST)], Overall.INCONCLUSIVE),
        ([(Verdict.PASS, SHOULD)], Overall.INCONCLUSIVE),
        ([(Verdict.FAIL, SHOULD)], Overall.INCONCLUSIVE),
        ([], Overall.INCONCLUSIVE),
    ],
)
def test_the_verdict_on_a_candidate(laws: list[tuple[Verdict, Level]], expected: Overall) -> None:
    results = tuple(law(verdict, level) for verdict, level in laws)
    assert overall(results) is expected
    assert overall(results[::-1]) is expected


def test_what_counts_as_a_failure() -> None:
    assert {verdict for verdict in Verdict if verdict.is_failure} == set(FAILURES)
    assert {*FAILURES, *OTHERS, Verdict.ALLOWED} == set(Verdict)


EXAMPLE = Counterexample("0123abcd", {"rows": 1})


@pytest.mark.parametrize("verdict", FAILURES)
def test_a_failure_may_have_a_counterexample(verdict: Verdict) -> None:
    assert law(verdict, counterexample=EXAMPLE).counterexample == EXAMPLE


@pytest.mark.parametrize("verdict", OTHERS)
def test_nothing_else_may(verdict: Verdict) -> None:
    with pytest.raises(ValueError, match=f"law X-1: a counterexample belongs to a failure, .* is {verdict}"):
        law(verdict, counterexample=EXAMPLE)


@pytest.mark.parametrize(
    "verdict", [Verdict.SKIP, Verdict.REFUSED, Verdict.ALLOWED, Verdict.UNJUDGED, Verdict.NOT_ASKED]
)
def test_what_was_not_judged_needs_its_reason(verdict: Verdict) -> None:
    with pytest.raises(ValueError, match=f"law X-1: {verdict} needs its reason"):
        LawResult("X-1", "a law", Level.MUST, verdict)


def test_what_is_declared_away_may_have_a_counterexample() -> None:
    assert law(Verdict.ALLOWED, counterexample=EXAMPLE).counterexample == EXAMPLE


def test_values_alone_are_no_conformance_unless_declared() -> None:
    assert overall((law(Verdict.PASS),), values_only="its logits are a copy") is Overall.VALUES_ONLY
    assert overall((law(Verdict.PASS), law(Verdict.FAIL)), values_only="its logits are a copy") is Overall.FAILS


def result(verdict: Overall, **rest: Any) -> CandidateResult:
    return CandidateResult("text", "m:f", "sum", "cpu", ("float32",), verdict, **rest)


def bug(name: str, *also: str) -> NamedBug:
    return NamedBug(name, 1.0, "", "", "", also)


@pytest.mark.parametrize("verdict", Overall)
@pytest.mark.parametrize("expect", ["conforms", "fails"])
def test_a_candidate_is_as_expected_if_its_verdict_is(verdict: Overall, expect: str) -> None:
    assert result(verdict, expect=expect).as_expected is (str(verdict) == expect)


@pytest.mark.parametrize(
    ("diagnosis", "expected"),
    [
        ((bug("double-shift"),), True),
        ((bug("no-shift"), bug("double-shift")), True),
        ((bug("no-shift", "double-shift"),), True),
        ((bug("no-shift"),), False),
        ((), False),
    ],
)
def test_a_known_bug_must_be_called_by_its_name(diagnosis: tuple[NamedBug, ...], expected: bool) -> None:
    found = result(Overall.FAILS, expect="fails", expected_diagnosis="double-shift", diagnosis=diagnosis)
    assert found.as_expected is expected


def test_the_right_name_does_not_save_the_wrong_verdict() -> None:
    found = result(Overall.CONFORMS, expect="fails", expected_diagnosis="x", diagnosis=(bug("x"),))
    assert not found.as_expected


def test_parts_of_a_run_cover_together_what_both_do() -> None:
    one, other = law(Verdict.PASS), replace(law(Verdict.PASS), id="OTHER-1")
    parts = [
        result(Overall.CONFORMS, laws=(one,), coverage=Coverage({"a": 2, "b": 0}, {"n": 1}, due_after=2)),
        result(Overall.CONFORMS, laws=(other,), coverage=Coverage({"a": 1, "b": 3, "c": 0}, due_after=2)),
    ]
    whole = merge(*parts)
    assert whole.coverage == Coverage({"a": 3, "b": 3, "c": 0}, {"n": 1}, due_after=2)
    assert overall(whole.laws, whole.coverage) is Overall.INCONCLUSIVE
    assert whole.gaps == ("c",)
    assert merge(result(Overall.ERROR), parts[0]).coverage == parts[0].coverage
    assert [part.gaps for part in parts] == [(), ()]
    assert CandidateResult.from_json(whole.to_json()).coverage == whole.coverage


def test_json_holds_what_is_derived_too() -> None:
    found = result(Overall.CONFORMS, laws=(law(Verdict.PASS, cases=3, vacuous=9), law(Verdict.SKIP, cases=4)))
    assert found.cases == 7
    data = found.to_json()
    assert (data["cases"], data["as_expected"], data["verdict"]) == (7, True, "conforms")
    assert [entry["verdict"] for entry in data["laws"]] == ["pass", "skip"]


# --- records as they travel between processes -------------------------------------------------------------------------

DIFFERENCE = Difference(1, 2, 3, 4, {"+1": 5}, 6, 7, (0.5, 2.0))
WHOLE = CandidateResult(
    "text",
    "m:f",
    "sum",
    "cpu",
    ("float32",),
    Overall.FAILS,
    laws=(law(Verdict.FAIL, counterexample=EXAMPLE, cases=3), law(Verdict.REFUSED, refused=2, refusals=("a", "b"))),
    diagnosis=(bug("no-shift", "double-shift"),),
    pairing=Picture({"rows": 1}, "logits", [[1]], [{}], [{}], "drawn"),
    difference=DIFFERENCE,
    built=Comparison({"rows": 1}, "shift", [[1]], [[2]], "drawn"),
    coverage=Coverage({"a": 2, "b": 0}, {"n": 1}, due_after=2),
    message="a message",
    calls=5,
    seconds=2.0,
    seconds_in_candidate=0.5,
    seconds_in_oracle=0.25,
    environment={"torch": "2"},
    scope=("one", "two"),
    stale=("three",),
    values_only="a copy",
)
BARE = result(Overall.ERROR)


@pytest.mark.parametrize(
    "record", [WHOLE, BARE, replace(WHOLE, difference=replace(DIFFERENCE, factors=None))], ids=["whole", "bare", "none"]
)
def test_a_record_is_read_back_as_it_was(record: CandidateResult) -> None:
    back = CandidateResult.from_json(json.loads(json.dumps(record.to_json())))
    assert back == record
    assert back.verdict is record.verdict


def test_the_record_of_coverage_says_what_follows_from_it() -> None:
    data = Coverage({"a": 2, "b": 0, "c": 1}).to_json()
    assert (data["demanded"], data["hit"], data["missing"]) == (3, 2, ["b"])
    assert BARE.gaps == ()


@pytest.mark.parametrize("parts", [(WHOLE, BARE), (BARE, WHOLE)], ids=["first", "second"])
def test_what_one_part_of_a_run_found_is_found(parts: tuple[CandidateResult, CandidateResult]) -> None:
    whole = merge(*parts)
    assert replace(whole, verdict=WHOLE.verdict, laws=WHOLE.laws, environment=WHOLE.environment) == WHOLE
    assert [each.id for each in whole.laws] == ["X-1"], "a law once, as it was found last"


def test_what_both_parts_of_a_run_did_is_added_up() -> None:
    whole = merge(WHOLE, replace(WHOLE, seconds=1.0, scope=("two", "four"), stale=("five",), message="another"))
    assert (whole.calls, whole.seconds, whole.seconds_in_candidate, whole.seconds_in_oracle) == (10, 2.0, 1.0, 0.5)
    assert (whole.scope, whole.stale, whole.message) == (("one", "two", "four"), ("three", "five"), "a message")


def test_what_is_costly_to_ask_again() -> None:
    assert {each for each in Verdict if each.is_costly} == {Verdict.CRASH, Verdict.TIMEOUT, Verdict.UNJUDGED}


def branches(ran: tuple[bool, bool], due: bool) -> Branches:
    one = Branch("losses.py", 52, 7, "loss", "S > 67", ("true", "false"), ran, (False, False))
    return Branches((one,), is_due=due)


def test_a_branch_that_never_ran_leaves_the_verdict_open_if_it_is_due() -> None:
    right = (law(Verdict.PASS),)
    assert overall(right, branches=branches((False, True), due=True)) is Overall.INCONCLUSIVE
    assert overall(right, branches=branches((False, True), due=False)) is Overall.CONFORMS
    assert overall(right, branches=branches((True, True), due=True)) is Overall.CONFORMS
    assert overall((law(Verdict.FAIL),), branches=branches((False, True), due=True)) is Overall.FAILS


def test_branches_travel_with_their_candidate() -> None:
    blank = CandidateResult("text", "m:f", "hf.causal_lm", "cpu", ("float32",), Overall.ERROR)
    for found in (blank, replace(blank, branches=branches((False, True), due=True))):
        assert CandidateResult.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_what_ran_in_either_of_two_processes_ran() -> None:
    blank = CandidateResult("text", "m:f", "hf.causal_lm", "cpu", ("float32",), Overall.ERROR)
    one, other = (replace(blank, branches=branches(ran, due=True)) for ran in ((False, True), (True, False)))
    for found in (merge(one, other), merge(other, one)):
        assert found.branches is not None
        assert found.branches.never == ()
    assert merge(one, blank).branches == merge(blank, one).branches == one.branches


def test_pairs_of_size_classes_without_a_case_are_missing() -> None:
    covered = Coverage({}, sizes={"B 1 to 1 × S 2 to 17": 3, "B 2 to 8 × S 127 to 513": 0})
    assert covered.sizes_missing == ("B 2 to 8 × S 127 to 513",)
    assert covered.with_that_of(replace(covered, sizes={"B 2 to 8 × S 127 to 513": 2})).sizes_missing == ()
    assert Coverage.from_json(covered.to_json()) == covered


def test_the_largest_sizes_of_both_parts_are_kept() -> None:
    one, other = Coverage({}, largest={"B": 5, "S": 17, "K": 0}), Coverage({}, largest={"B": 64, "S": 9, "V": 257})
    assert one.with_that_of(other).largest == {"B": 64, "S": 17, "V": 257, "K": 0}
    assert Coverage.from_json(one.to_json()) == one


def test_the_modes_are_the_states_in_which_it_was_right() -> None:
    asked = LawResult("STATE-3", "t", Level.MUST, Verdict.PASS, cases=5, refused=4, mode="autocast")
    laws = (
        asked,
        replace(asked, id="STATE-4", refused=5, mode="torch.compile"),  # refused, so not judged
        replace(asked, id="MODE-1", verdict=Verdict.FAIL, message="off", mode="no_grad"),
        replace(asked, id="VALUE-1", mode=""),
    )
    found = CandidateResult("text", "m:f", "sum", "cpu", ("float32",), Overall.FAILS, laws=laws)
    assert found.modes == ("autocast",)
    assert found.to_json()["modes"] == ["autocast"]
