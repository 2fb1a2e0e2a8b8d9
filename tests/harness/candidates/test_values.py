"""Values of ``--init``, ``--kwarg`` and ``--rename``."""

from __future__ import annotations

import pytest

from shiftproof.harness.candidates.values import check_values, parse_names, parse_values


def test_literals_and_strings() -> None:
    texts = ["smoothing=0.1", "on=true", "off=False", "name=mean", "ids=[1, 2]", "none=None", "text=a=b"]
    assert parse_values("--init", texts) == {
        "smoothing": 0.1,
        "on": True,
        "off": False,
        "name": "mean",
        "ids": [1, 2],
        "none": None,
        "text": "a=b",
    }
    assert parse_values("--init", [""]) == {}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["smoothing"], "--init 'smoothing': expected name=value, such as --init smoothing=0.1"),
        (["a b=1"], "expected name=value"),
        (["a=1", "a=2"], "--init gives 'a' twice; give it once"),
    ],
)
def test_what_cannot_be_read(texts: list[str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_values("--init", texts)


def test_names() -> None:
    assert parse_names("--rename", ["logits=text_logits", "labels = y"]) == {"logits": "text_logits", "labels": "y"}
    with pytest.raises(ValueError, match="'2x' cannot be the name of a parameter"):
        parse_names("--rename", ["logits=2x"])


def test_values_can_travel() -> None:
    check_values({"a": [1, {"b": None}], "c": "x"})
    with pytest.raises(ValueError, match=r"a is <object object .*; expected a number"):
        check_values({"a": object()})
    with pytest.raises(ValueError, match="'a b' cannot be the name of an argument"):
        check_values({"a b": 1})
