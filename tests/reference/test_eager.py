"""The common pattern agrees with the oracle on every spec that it speaks, and refuses the others."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

from shiftproof.harness.candidates.arguments import ARGUMENTS
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.space import hand_made, space
from shiftproof.reference.eager import eager
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import SpecError


def speaks(name: str) -> bool:
    try:
        eager(PROFILES[name])
    except SpecError:
        return False
    return True


SPOKEN = [name for name in PROFILES if speaks(name)]


def arguments(case: Case) -> dict[str, Any]:
    named = {field.name: getattr(case.batch, field.name) for field in fields(case.batch)}
    return {name: value for name, value in named.items() if value is not None}


@pytest.mark.parametrize("name", SPOKEN)
def test_value_and_gradient_are_the_oracles(name: str) -> None:
    spec = PROFILES[name]
    cases = [build_case(spec, recipe) for recipe in hand_made(space(spec, frozenset(ARGUMENTS)))]
    usual = [case for case in cases if case.pairing.pairs and case.oracle.value == case.oracle.value]
    assert usual
    for case in usual:
        given = arguments(case)
        leaves = {logits: given[logits].clone().requires_grad_() for logits in spec.logits}
        value = eager(spec)(**{**given, **leaves})
        value.backward()
        assert value.item() == pytest.approx(case.oracle.value, rel=1e-5, abs=1e-6)
        for logits, leaf in leaves.items():
            assert leaf.grad is not None
            torch.testing.assert_close(leaf.grad.double(), case.oracle.gradients[logits], rtol=1e-4, atol=1e-6)


def test_it_speaks_most_of_the_plain_specs() -> None:
    assert {"hf.causal_lm", "nanogpt", "musicgen", "higgs.hf", "megatron", "packed.position_ids"} <= set(SPOKEN)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("medusa", "ahead"),
        ("csm", "along the codebooks"),
        ("liger.z_loss", "score other than"),
        ("weighted", "weights of tokens"),
        ("sum", "reduction other"),
        ("fairseq", "score other than"),
        ("parler", "stop at an input"),
        ("eagle3", "all positions"),
    ],
)
def test_what_it_has_no_words_for_is_refused(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        eager(PROFILES[name])
