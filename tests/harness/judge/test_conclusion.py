"""From results to the verdict: a law without a result is never a pass, and the message says what kept it from one."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from shiftproof.harness.branches import UNREAD, Branch, Branches
from shiftproof.harness.candidates.allowance import Allowance
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.given import Given
from shiftproof.harness.judge.conclusion import conclude, declared_scope, stale, without_result
from shiftproof.harness.laws.base import PASS, Law
from shiftproof.harness.results import CandidateResult, Coverage, LawResult, Level, Overall, Verdict

FOUND = CandidateResult("text", "m:f", "hf.causal_lm", "cpu", "float32", Overall.CONFORMS)


def law(id: str, level: Level = Level.MUST) -> Law[Any, Any]:
    return Law(id, f"title of {id}", level, "source", lambda trial, recipe: PASS, 1)


def result(id: str, verdict: Verdict, level: Level = Level.MUST, **rest: Any) -> LawResult:
    return LawResult(id, f"title of {id}", level, verdict, **{"message": f"{id} says so", **rest})


def concluded(
    *results: LawResult, planned: tuple[Law[Any, Any], ...] = (), found: CandidateResult = FOUND
) -> CandidateResult:
    """What follows from some results, where all that is ``planned`` besides never came."""
    laws = [*(law(each.id, each.level) for each in results), *planned]
    return conclude(found, laws, {each.id: each for each in results}, lambda id: (Verdict.UNJUDGED, f"{id} is lost"))


# --- a law without a result -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize(
    ("verdict", "overall"), [(Verdict.UNJUDGED, Overall.ERROR), (Verdict.NOT_ASKED, Overall.PARTIAL)]
)
def test_a_missing_law_is_never_a_pass(verdict: Verdict, overall: Overall, level: Level) -> None:
    planned = [law("A-1"), law("B-1", level)]
    found = conclude(FOUND, planned, {"A-1": result("A-1", Verdict.PASS)}, lambda id: (verdict, f"{id} is missing"))
    assert found.verdict is overall
    assert found.laws == (
        result("A-1", Verdict.PASS),
        LawResult("B-1", "title of B-1", level, verdict, message="B-1 is missing"),
    )


def test_only_of_a_missing_law_is_it_asked_why() -> None:
    asked = []

    def missing(id: str) -> tuple[Verdict, str]:
        asked.append(id)
        return Verdict.UNJUDGED, "lost"

    conclude(FOUND, [law("A-1"), law("B-1")], {"A-1": result("A-1", Verdict.PASS)}, missing)
    assert asked == ["B-1"]


def test_every_planned_law_has_a_result_in_the_order_of_the_plan() -> None:
    planned = [law("C-1"), law("A-1"), law("B-1")]
    found = conclude(FOUND, planned, {"B-1": result("B-1", Verdict.FAIL)}, lambda id: (Verdict.NOT_ASKED, "left out"))
    assert [(each.id, each.verdict) for each in found.laws] == [
        ("C-1", Verdict.NOT_ASKED),
        ("A-1", Verdict.NOT_ASKED),
        ("B-1", Verdict.FAIL),
    ]
    assert found.verdict is Overall.FAILS


def test_a_result_of_a_law_that_was_not_planned_decides_nothing() -> None:
    found = conclude(FOUND, [law("A-1")], {"Z-1": result("Z-1", Verdict.PASS)}, lambda id: (Verdict.UNJUDGED, "lost"))
    assert [each.id for each in found.laws] == ["A-1"]
    assert found.verdict is Overall.ERROR


def test_nothing_that_was_said_before_outlives_the_results() -> None:
    """The verdict comes from the results alone, whatever the candidate's record says."""
    assert concluded(result("A-1", Verdict.FAIL)).verdict is Overall.FAILS
    assert concluded().verdict is Overall.INCONCLUSIVE


def test_a_lost_law_among_many_that_pass_is_an_error_at_every_place() -> None:
    for place in range(5):
        planned = [law(f"A-{number}") for number in range(5)]
        results = {each.id: result(each.id, Verdict.PASS) for each in planned if each.id != f"A-{place}"}
        found = conclude(FOUND, planned, results, lambda id: (Verdict.UNJUDGED, "lost"))
        assert found.verdict is Overall.ERROR
        assert found.message == f"A-{place} could not be asked: lost"


def test_what_was_found_besides_decides_too() -> None:
    gap = Coverage({"a": 0}, due_after=1)
    found = concluded(result("A-1", Verdict.PASS), found=replace(FOUND, coverage=gap))
    assert found.verdict is Overall.INCONCLUSIVE
    found = concluded(result("A-1", Verdict.PASS), found=replace(FOUND, values_only="a copy"))
    assert (found.verdict, found.message) == (Overall.VALUES_ONLY, "a copy")


@pytest.mark.parametrize(
    ("verdict", "overall"),
    [
        (Verdict.PASS, Overall.ERROR),
        (Verdict.NOT_ASKED, Overall.ERROR),
        (Verdict.REFUSED, Overall.ERROR),
        (Verdict.UNJUDGED, Overall.ERROR),
        (Verdict.FAIL, Overall.FAILS),
    ],
)
def test_where_not_all_could_be_found_out_nothing_conforms(verdict: Verdict, overall: Overall) -> None:
    found = concluded(result("A-1", Verdict.PASS), result("B-1", verdict), found=replace(FOUND, message="no cells"))
    assert (found.verdict, found.message) == (overall, "no cells")


ORDER = (Overall.FAILS, Overall.ERROR, Overall.PARTIAL, Overall.INCONCLUSIVE, Overall.CONFORMS)
"""Of two laws, the verdict that each would get alone beside one that passes: the earlier here wins."""


@pytest.mark.parametrize(("one", "other"), list(product(Verdict, repeat=2)))
def test_of_two_laws_the_graver_decides(one: Verdict, other: Verdict) -> None:
    def verdict(*verdicts: Verdict) -> Overall:
        laws = (result(f"A-{place}", each) for place, each in enumerate((Verdict.PASS, *verdicts)))
        return concluded(*laws).verdict

    assert verdict(one, other) is min(verdict(one), verdict(other), key=ORDER.index)


# --- the message ------------------------------------------------------------------------------------------------------


def test_right_and_wrong_need_no_message() -> None:
    assert concluded(result("A-1", Verdict.PASS)).message == ""
    assert concluded(result("A-1", Verdict.FAIL)).message == ""
    assert concluded(result("A-1", Verdict.FAIL), planned=(law("B-1"),)).message == ""


def test_what_was_known_before_is_said_first() -> None:
    found = CandidateResult("text", "m:f", None, "cpu", "float32", Overall.ERROR, message="cannot be imported")
    assert concluded(planned=(law("A-1"),), found=found).message == "cannot be imported"


def test_one_law_that_could_not_be_asked() -> None:
    assert concluded(result("A-1", Verdict.PASS), planned=(law("B-1"),)).message == (
        "B-1 could not be asked: B-1 is lost"
    )


def test_several_that_could_not_be_asked_are_told_by_the_first() -> None:
    found = concluded(
        result("A-1", Verdict.UNJUDGED, message="what began it"),
        result("B-1", Verdict.UNJUDGED, message="what followed"),
        result("C-1", Verdict.UNJUDGED, message="what followed"),
        result("D-1", Verdict.PASS),
    )
    assert found.message == "A-1, and 2 more of 4 laws, could not be asked: what began it"
    two = concluded(result("A-1", Verdict.UNJUDGED, message="why"), planned=(law("B-1"),))
    assert two.message == "A-1, and 1 more of 2 laws, could not be asked: why"


def test_deadlines_alone() -> None:
    found = concluded(
        result("A-1", Verdict.TIMEOUT, Level.SHOULD),
        result("B-1", Verdict.TIMEOUT),
        result("C-1", Verdict.TIMEOUT),
    )
    assert found.verdict is Overall.ERROR
    assert found.message == ("nothing failed but deadlines, B-1 first: B-1 says so; allow more time with --deadline")


def test_a_deadline_of_one_that_fails_otherwise_is_no_matter() -> None:
    assert concluded(result("A-1", Verdict.FAIL), result("B-1", Verdict.TIMEOUT)).message == ""


def test_a_partial_judgement_counts_what_was_asked() -> None:
    found = concluded(result("A-1", Verdict.PASS), result("B-1", Verdict.NOT_ASKED), result("C-1", Verdict.SKIP))
    assert found.message == "no violation in 2 of 3 laws; the others were not asked"


def test_refusals_name_their_cells() -> None:
    found = concluded(
        result("A-1", Verdict.REFUSED, refused=2, refusals=("one", "two")),
        result("B-1", Verdict.REFUSED, refused=3, refusals=("two", "three")),
        result("C-1", Verdict.REFUSED, Level.SHOULD, refused=9, refusals=("four",)),
    )
    assert found.verdict is Overall.INCONCLUSIVE
    assert found.message.startswith(
        "the candidate refused 5 cases of 2 MUST laws; these were not judged: one; two; and 1 more. "
    )
    assert "allow the refusal" in found.message
    two = concluded(result("A-1", Verdict.REFUSED, refused=1, refusals=("one", "two"))).message
    assert "one; two. " in two


def test_what_is_undecided_without_a_refusal_says_nothing() -> None:
    assert concluded(result("A-1", Verdict.INCONCLUSIVE)).message == ""
    assert concluded(result("A-1", Verdict.PASS), result("B-1", Verdict.REFUSED, Level.SHOULD)).message == ""


@pytest.mark.parametrize("verdict", [Verdict.UNJUDGED, Verdict.NOT_ASKED])
def test_a_result_that_is_none_keeps_what_the_law_is(verdict: Verdict) -> None:
    assert without_result(law("A-1", Level.SHOULD), verdict, "why") == LawResult(
        "A-1", "title of A-1", Level.SHOULD, verdict, message="why"
    )
    with pytest.raises(ValueError, match="needs its reason"):
        without_result(law("A-1"), verdict, "")


# --- what a declaration takes away ------------------------------------------------------------------------------------


def test_the_scope_says_all_that_is_declared_away() -> None:
    assert declared_scope(Candidate("text", "m:f")) == ()
    candidate = Candidate(
        "text",
        "m:f",
        gradient=False,
        requires={"length": ">=8", "reason": "a tile"},
        allow=({"law": "GRAD-5", "reason": "called once"},),
    )
    assert declared_scope(candidate) == (
        "only its value, as declared (gradient = false)",
        "only sizes that it requires: length ≥ 8 (a tile)",
        "allowed: GRAD-5 (called once)",
    )


ALLOWED, REFUSAL = Allowance("why", law="A-1"), Allowance("why", refuses="too long")


@pytest.mark.parametrize("allowance", [ALLOWED, REFUSAL])
@pytest.mark.parametrize("verdict", [Verdict.UNJUDGED, Verdict.NOT_ASKED])
def test_nothing_is_called_stale_where_not_all_was_asked(allowance: Allowance, verdict: Verdict) -> None:
    assert not stale(allowance, [concluded(result("A-1", Verdict.PASS), result("B-1", verdict))])
    assert not stale(allowance, [])


@pytest.mark.parametrize(
    ("laws", "expected"),
    [
        ([result("A-1", Verdict.PASS), result("B-1", Verdict.FAIL)], True),
        ([result("A-1", Verdict.SKIP)], True),
        ([result("A-1", Verdict.ALLOWED), result("B-1", Verdict.PASS)], False),
        ([result("A-1", Verdict.FAIL)], False),
    ],
)
def test_an_allowed_law_is_stale_once_it_holds(laws: list[LawResult], expected: bool) -> None:
    assert stale(ALLOWED, [concluded(*laws)]) is expected


@pytest.mark.parametrize(
    ("laws", "expected"),
    [
        ([result("A-1", Verdict.PASS)], True),
        ([result("A-1", Verdict.PASS, message=f"some cases are refused, as declared: {REFUSAL}")], False),
        ([result("A-1", Verdict.FAIL)], False),
    ],
)
def test_an_allowed_refusal_is_stale_once_it_never_comes(laws: list[LawResult], expected: bool) -> None:
    assert stale(REFUSAL, [concluded(*laws)]) is expected


# --- a branch that never ran ------------------------------------------------------------------------------------------

BRANCH = Branch("losses.py", 52, 7, "loss", "S > 67", ("true", "false"), (False, True), (False, False))


def test_the_message_names_it_and_how_to_allow_it() -> None:
    found = concluded(result("A-1", Verdict.PASS), found=replace(FOUND, branches=Branches((BRANCH,), is_due=True)))
    assert found.verdict is Overall.INCONCLUSIVE
    assert found.message == (
        "not judged: losses.py:52 (S > 67 never true). Judge it where it goes there (--shape), or allow it with a "
        "reason: --allow 'branch=loss(S > 67): why'"
    )
    two = replace(FOUND, branches=Branches((BRANCH, replace(BRANCH, condition="B > 1")), is_due=True))
    said = "not judged: losses.py:52 (S > 67 never true); losses.py:52 (B > 1 never true). Judge"
    assert concluded(result("A-1", Verdict.PASS), found=two).message.startswith(said)
    unread = replace(FOUND, branches=Branches(unread="a kernel", is_due=True))
    assert concluded(result("A-1", Verdict.PASS), found=unread).message.endswith("--allow 'branch=not read: why'")
    shape = replace(FOUND, branches=Branches(left_out=("the shape 1,2,3: too large",), is_due=True))
    assert concluded(result("A-1", Verdict.PASS), found=shape).message == "not judged: the shape 1,2,3: too large"


@pytest.mark.parametrize(
    ("key", "branches", "is_stale"),
    [
        ("loss(S > 67)", Branches((BRANCH,)), False),
        ("loss(S > 68)", Branches((BRANCH,)), True),
        ("loss(S > 67)", Branches((replace(BRANCH, ran=(True, True)),)), True),
        (UNREAD, Branches((BRANCH,)), True),
        (UNREAD, Branches(unread="a kernel"), False),
        ("loss(S > 67)", Branches(unread="a kernel"), True),
    ],
)
def test_an_allowed_branch_that_ran_or_is_not_there_is_stale(key: str, branches: Branches, is_stale: bool) -> None:
    judged = replace(FOUND, laws=(result("A-1", Verdict.PASS),), branches=branches)
    assert stale(Allowance("why", branch=key), [judged]) is is_stale


def test_that_it_runs_in_this_process_is_a_limit() -> None:
    given = Given(len, stays="it cannot be pickled")
    assert declared_scope(Candidate("text", "m:f", given=given)) == (
        "in this process, without protection from crashes: it cannot be pickled",
    )
    assert declared_scope(Candidate("text", "m:f", given=replace(given, stays=""))) == ()


def test_the_candidates_own_words_of_a_refusal_are_told() -> None:
    words = "refused 2 cases: raised NotImplementedError: too long"
    told = concluded(result("A-1", Verdict.REFUSED, refused=2, refusals=("one",), message=words)).message
    assert "these were not judged: one. It raised NotImplementedError: too long. Declare the sizes" in told
