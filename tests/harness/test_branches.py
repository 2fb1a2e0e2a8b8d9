"""What a verdict does not cover, from the ways that branches went."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from shiftproof.harness.branches import UNREAD, Branch, Branches, merged


def branch(ran: tuple[bool, bool], condition: str = "S > 67", **rest: Any) -> Branch:
    given = {"ways": ("true", "false"), "only_raises": (False, False), **rest}
    return Branch("/x/losses.py", 52, 7, "loss", condition, ran=ran, **given)


NEVER_TRUE = branch((False, True))
BOTH = branch((True, True), "B > 1")


def test_a_way_that_never_ran_is_named() -> None:
    assert str(NEVER_TRUE) == "losses.py:52 (S > 67 never true)"
    assert NEVER_TRUE.key == "loss(S > 67)"
    assert branch((True, False)).never == "false"
    assert branch((True, True)).never == ""


def test_a_branch_that_was_never_reached_is_not_named_itself() -> None:
    assert branch((False, False)).never == ""


def test_a_way_that_only_raises_need_not_run() -> None:
    assert branch((False, True), only_raises=(True, False)).never == ""
    assert branch((False, True), only_raises=(False, True)).never == "true"


def test_what_the_verdict_does_not_cover() -> None:
    assert Branches((NEVER_TRUE, BOTH)).exceptions == ("losses.py:52 (S > 67 never true)",)
    assert Branches((BOTH,)).exceptions == ()
    assert Branches((NEVER_TRUE,), allowed=("loss(S > 67)",)).exceptions == ()
    assert Branches((NEVER_TRUE,), allowed=("other(S > 67)",)).exceptions != ()
    assert Branches((NEVER_TRUE,), is_named=False).exceptions == ()
    assert Branches(not_reached=("losses.py:9 (V < 9 never false: …)",)).exceptions == (
        "losses.py:9 (V < 9 never false: …)",
    )


def test_branches_that_were_not_read_are_an_exception_too() -> None:
    unread = Branches(unread="it is a function of torch")
    assert unread.exceptions == ("its branches, which were not read: it is a function of torch",)
    assert Branches(unread="it is a function of torch", allowed=(UNREAD,)).exceptions == ()


def test_in_short() -> None:
    five = tuple(branch((False, True), f"S > {size}") for size in range(5))
    said = "losses.py:52 (S > 0 never true); losses.py:52 (S > 1 never true); losses.py:52 (S > 2 never true)"
    assert Branches(five[:3]).in_short == said
    assert Branches(five).in_short == f"{said} and 2 more"
    assert Branches((BOTH,)).in_short == ""


def test_how_many_ran_both_ways_or_need_not() -> None:
    raising = branch((False, True), "S < 1", only_raises=(True, False))
    unreached = branch((False, False), "S < 2")
    assert Branches((NEVER_TRUE, BOTH, raising, unreached)).both == 2


def test_a_branch_of_two_processes_ran_where_it_ran_in_one() -> None:
    one, other = Branches((NEVER_TRUE,)), Branches((branch((True, False)), BOTH), unread="why")
    both = one.with_those_of(other)
    assert [each.ran for each in both.found] == [(True, True), (True, True)]
    assert both.unread == "why"
    assert list(merged([NEVER_TRUE, NEVER_TRUE])) == [NEVER_TRUE]


def test_two_branches_of_one_line_stay_two() -> None:
    other = replace(branch((True, False)), column=40)
    assert [each.never for each in merged([NEVER_TRUE, other])] == ["true", "false"]


def test_what_either_of_two_processes_could_not_judge_stays_said() -> None:
    one = Branches((BOTH,), not_reached=("far",), regions=2, traces=3, trace_seconds=1.0)
    other = Branches((BOTH,), not_reached=("far", "farther"), left_out=("a shape",), sizes_unread="why", is_due=True)
    for both in (one.with_those_of(other), other.with_those_of(one)):
        assert sorted(both.not_reached) == ["far", "farther"]
        assert (both.left_out, both.sizes_unread, both.is_due) == (("a shape",), "why", True)
        assert (both.regions, both.traces, both.trace_seconds) == (2, 3, 1.0)


def test_they_travel_as_json() -> None:
    found = Branches((NEVER_TRUE, BOTH), "why", ("far",), ("left",), "stopped", 3, 2, 0.5, ("x(y)",), True, False)
    assert Branches.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_branch_that_asks_about_compiling() -> None:
    """It stays named where no plain call takes it: nobody sees what dynamo runs, and it may fall back."""
    asks = branch((False, True), "torch.compiler.is_compiling()")
    assert asks.asks_if_compiled
    assert asks.never == "true"
    assert not NEVER_TRUE.asks_if_compiled
