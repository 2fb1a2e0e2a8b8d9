"""What is kept, and what goes first."""

from __future__ import annotations

from shiftproof.harness.cases.kept import Kept


def test_what_was_not_used_for_longest_goes_first() -> None:
    kept: Kept[str, int] = Kept(10)
    for number, name in enumerate("abc"):
        kept.put(name, number, 3)
    assert kept.get("a") == 0
    kept.put("d", 3, 3)
    assert [kept.get(name) for name in "abcd"] == [0, None, 2, 3]


def test_a_larger_one_takes_the_room_of_several() -> None:
    kept: Kept[str, int] = Kept(10)
    for number, name in enumerate("abc"):
        kept.put(name, number, 3)
    kept.put("d", 3, 7)
    assert [kept.get(name) for name in "abcd"] == [None, None, 2, 3]


def test_what_is_too_large_costs_nothing_else_its_place() -> None:
    kept: Kept[str, int] = Kept(10)
    kept.put("a", 0, 10)
    kept.put("b", 1, 11)
    assert [kept.get(name) for name in "ab"] == [0, None]


def test_a_value_that_is_put_again_counts_once() -> None:
    kept: Kept[str, int] = Kept(10)
    for number in range(5):
        kept.put("a", number, 4)
    kept.put("b", 9, 6)
    assert [kept.get(name) for name in "ab"] == [4, 9]
    kept.put("a", 0, 11)
    assert [kept.get(name) for name in "ab"] == [None, 9]


def test_nothing_is_left_of_what_was_dropped() -> None:
    kept: Kept[str, int] = Kept(10)
    kept.put("a", 0, 10)
    kept.clear()
    assert kept.get("a") is None
    kept.put("b", 1, 10)
    assert kept.get("b") == 1
