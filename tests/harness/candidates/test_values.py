"""Arguments with values, in a declaration and on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from shiftproof.harness.candidates.values import check_values, parse_names, parse_values


@pytest.mark.parametrize("value", [0, 1.5, "words", True, None, [1, [2.0]], (1, "a"), {"a": {"b": [None]}}])
def test_plain_values_travel(value: Any) -> None:
    check_values({"name": value})


@pytest.mark.parametrize("value", [object(), 1j, b"bytes", [1, {2}], {"a": [object()]}, print])
def test_other_values_are_refused_with_what_to_do(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^name is .*; expected a number, .* Write a function that makes the object"):
        check_values({"name": value})


@pytest.mark.parametrize("name", ["", "a b", "a-b", "1a", "a=b"])
def test_a_name_that_no_argument_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of an argument; write name = value"):
        check_values({name: 1})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=0.1", 0.1),
        ("a = -2e3 ", -2000.0),
        ("a=true", True),
        ("a=False", False),
        ("a=none", None),
        ("a='1'", "1"),
        ("a=mean", "mean"),
        ("a=b=c", "b=c"),
        ("a=", ""),
        ("a=[1, 2]", [1, 2]),
        ("a={'b': 1}", {"b": 1}),
        ("a=__import__('os')", "__import__('os')"),  # a string, and nothing is run
    ],
)
def test_a_value_on_the_command_line_is_a_literal_or_else_a_string(text: str, value: Any) -> None:
    found = parse_values("--init", [text])
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_an_empty_text_has_no_arguments() -> None:
    assert parse_values("--init", [""]) == {}
    assert parse_values("--init", []) == {}


@pytest.mark.parametrize("text", ["smoothing", "=0.1", "a b=1", "1=2"])
def test_what_is_no_pair_is_refused_with_an_example_that_works(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected name=value, such as --init smoothing=0.1$") as caught:
        parse_values("--init", [text])
    example = str(caught.value).rpartition("--init ")[2]
    assert parse_values("--init", [example]) == {"smoothing": 0.1}
    with pytest.raises(ValueError, match=r"such as --rename logits=text_logits$") as caught:
        parse_names("--rename", [text])
    example = str(caught.value).rpartition("--rename ")[2]
    assert parse_names("--rename", [example]) == {"logits": "text_logits"}


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="--kwarg gives 'a' twice; give it once"):
        parse_values("--kwarg", ["a=1", "b=2", "a=1"])


def test_a_set_is_no_value_though_it_is_a_literal() -> None:
    with pytest.raises(ValueError, match="expected a number"):
        parse_values("--init", ["a={1, 2}"])


def test_a_rename_is_to_the_name_of_a_parameter() -> None:
    assert parse_names("--rename", ["logits=text_logits", "labels = y"]) == {"logits": "text_logits", "labels": "y"}
    with pytest.raises(ValueError, match="--rename labels=the y: 'the y' cannot be the name of a parameter"):
        parse_names("--rename", ["labels=the y"])
