"""What is to be swept: asked of the interpreter, and chosen by patterns."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shiftproof.harness.candidates.declaration import UsageError
from shiftproof.harness.sweep.plan import library, matching

TARGETS = ["lib:BartForCausalLM", "lib:GitForCausalLM", "lib:GPT2LMHeadModel", "lib:T5ForConditionalGeneration"]

Interpreter = Callable[[object], str]


def test_the_interpreter_is_asked(interpreter: Interpreter) -> None:
    versions = {"lib": "5.18.0", "torch": "2.13.0"}
    found = library("lib", interpreter({"models": {"targets": TARGETS, "versions": versions}}))
    assert (found.package, list(found.targets), found.versions) == ("lib", TARGETS, versions)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"failed": {"reason": "no such module", "message": "'lob' is no package"}}, "'lob' is no package; install it"),
        ({"models": {"targets": [], "versions": {}}}, "lib has no class with a language-model loss"),
    ],
)
def test_no_such_library(interpreter: Interpreter, answer: object, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        library("lib", interpreter(answer))


def test_no_such_interpreter() -> None:
    with pytest.raises(UsageError, match="the interpreter /no/such/python does not exist"):
        library("lib", "/no/such/python")


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ([], ["BartForCausalLM", "GitForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration"]),
        (["G*"], ["GitForCausalLM", "GPT2LMHeadModel"]),
        (["GPT?LMHeadModel", "*ForCausalLM"], ["BartForCausalLM", "GitForCausalLM", "GPT2LMHeadModel"]),
        (["T5ForConditionalGeneration"], ["T5ForConditionalGeneration"]),
    ],
)
def test_patterns(patterns: list[str], names: list[str]) -> None:
    assert [target.removeprefix("lib:") for target in matching(TARGETS, patterns)] == names


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("gpt*", r"near it: GPT2LMHeadModel\)"),
        ("BertForCausalLM", r"near it: BartForCausalLM, GitForCausalLM"),
        ("*causal*", r"near it: BartForCausalLM, GitForCausalLM\)"),
        ("zzz", r"'zzz'; --list shows all 4"),
        ("?", r"'\?'; --list"),
    ],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern: str, near: str) -> None:
    with pytest.raises(UsageError, match=near):
        matching(TARGETS, ["Git*", pattern])


@pytest.mark.peers
def test_the_installed_transformers() -> None:
    found = library("transformers", None)
    assert "transformers:GitForCausalLM" in found.targets
    assert len(found.targets) > 200
    assert {"python", "torch", "transformers"} <= set(found.versions)
    with pytest.raises(UsageError, match="'transformerz' is no package with a folder of models; install it"):
        library("transformerz", None)
