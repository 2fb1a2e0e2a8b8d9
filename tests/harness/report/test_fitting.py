"""Text that is made to fit."""

from __future__ import annotations

import pytest

from shiftproof.harness.report.fitting import MORE, cut, fit, in_words, listed, shorter, wrapped


def test_what_fits_is_not_cut() -> None:
    assert cut("x" * 20, 20) == "x" * 20
    assert cut("one\ntwo", 20) == "one two"


@pytest.mark.parametrize("width", [20, 40, 119])
def test_what_is_cut_fits_and_says_where_the_rest_is(width: int) -> None:
    text = cut("word " * 100, width)
    assert len(text) <= width - 2  # an ellipsis in ASCII is longer
    assert text.endswith(MORE)


def test_later_parts_are_shortened_first_and_what_has_one_form_never() -> None:
    parts = [["name"], [", first part", ", 1st"], [", second part", ", 2nd", ""]]
    assert fit(parts, 40) == "name, first part, second part"
    assert fit(parts, 24) == "name, first part, 2nd"
    assert fit(parts, 16) == "name, first part"
    assert fit(parts, 3) == "name, 1st"


def test_lines_are_as_wide_and_as_many_as_allowed() -> None:
    assert wrapped("", 80) == ["    "]
    assert wrapped("one\ntwo", 80, indent=2) == ["  one", "  two"]
    lines = wrapped("1234567 " * 200, 80, most=3)
    assert len(lines) == 3
    assert max(map(len, lines)) <= 80
    assert lines[-1].endswith(MORE)
    assert len(wrapped("1234567 " * 200, 80)) > 20
    assert max(map(len, wrapped("x" * 1000, 80))) <= 80


def test_names() -> None:
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert shorter(["a", "b"], "under ", "under 2 states") == ["under a, b", "under a and 1 more", "under 2 states"]
    assert shorter([], "under ", "under none") == []
    assert (in_words(("a",)), in_words(("a", "b", "c"))) == ("a", "a, b and c")
