"""The nearest right spelling, as part of a message."""

from __future__ import annotations

import pytest

from shiftproof.harness.suggest import nearest


@pytest.mark.parametrize(
    ("word", "words", "hint"),
    [
        ("logit", ["labels", "logits"], " (did you mean 'logits'?)"),
        ("bfloat", ("float32", "bfloat16", "float16"), " (did you mean 'bfloat16'?)"),
        ("logits", ["labels", "logits"], " (did you mean 'logits'?)"),
        ("zzz", ["labels", "logits"], ""),
        ("", ["labels"], ""),
        ("logits", [], ""),
    ],
)
def test_the_nearest_is_named_or_nothing_is(word: str, words: list[str], hint: str) -> None:
    assert nearest(word, words) == hint


def test_words_may_be_keys_or_come_one_by_one() -> None:
    assert nearest("lables", {"labels": 1}) == nearest("lables", iter(["labels"])) == " (did you mean 'labels'?)"
