"""Losses of every call shape: right ones conform, wrong ones fail under their name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import shiftproof
from shiftproof.harness.results import LawResult, Overall

CANDIDATES = Path(__file__).parents[2] / "candidates" / "call_shapes.py"


def check(name: str, spec: str = "hf.causal_lm", rename: Mapping[str, str] | None = None) -> shiftproof.Result:
    return shiftproof.check(
        f"{CANDIDATES}:{name}", spec=spec, profile="brief", seed=1, dtypes=["float32"], rename=rename or {}
    )


def law(found: shiftproof.Result, id: str) -> LawResult:
    return next(each for each in found.laws if each.id == id)


@pytest.mark.parametrize(
    ("name", "spec", "rename"),
    [
        ("of_outputs", "hf.causal_lm", {}),
        ("of_bare_outputs", "hf.causal_lm", {}),
        ("of_a_result", "hf.causal_lm", {"outputs": "result"}),
        ("TrainsWith.compute_loss", "hf.causal_lm", {}),
        ("LeavesItToTheModel.compute_loss", "hf.causal_lm", {}),
        ("of_a_batch", "hf.causal_lm", {}),
        ("of_logits_and_a_batch", "hf.causal_lm", {}),
        ("of_a_model_and_a_batch", "hf.causal_lm", {}),
        ("of_a_model_x_and_y", "hf.causal_lm", {}),
        ("Steps.training_step", "hf.causal_lm", {}),
        ("StepsToADict.training_step", "hf.causal_lm", {}),
        ("LogitsAndLoss", "nanogpt", {}),
        ("LossAlone", "hf.causal_lm", {}),
        ("LossAloneOfLabels", "hf.causal_lm", {}),
    ],
)
def test_a_right_loss_conforms(name: str, spec: str, rename: Mapping[str, str]) -> None:
    found = check(name, spec, rename)
    assert found.verdict is Overall.CONFORMS, str(found)
    assert law(found, "ALIGN-1").cases > 0  # and not for want of questions


@pytest.mark.parametrize(
    ("name", "spec", "rename", "called"),
    [
        ("of_outputs_twice", "hf.causal_lm", {}, "double-shift"),
        ("of_outputs_uncounted", "hf.causal_lm", {}, "count-ignored"),
        ("of_bare_outputs_unshifted", "hf.causal_lm", {}, "no-shift"),
        ("of_a_result_unshifted", "hf.causal_lm", {"outputs": "result"}, "no-shift"),
        ("TrainsWithDoubleShift.compute_loss", "hf.causal_lm", {}, "double-shift"),
        ("TrainsWithNoShift.compute_loss", "hf.causal_lm", {}, "no-shift"),
        ("of_a_batch_twice", "hf.causal_lm", {}, "double-shift"),
        ("of_logits_and_a_batch_unshifted", "hf.causal_lm", {}, "no-shift"),
        ("of_a_model_and_a_batch_twice", "hf.causal_lm", {}, "double-shift"),
        ("of_a_model_x_and_y_unshifted", "hf.causal_lm", {}, "no-shift"),
        ("StepsTwice.training_step", "hf.causal_lm", {}, "double-shift"),
        ("LogitsAndLossShifted", "nanogpt", {}, "double-shift"),
        ("LossAloneTwice", "hf.causal_lm", {}, "double-shift"),
        ("LossAloneOfLabelsTwice", "hf.causal_lm", {}, "double-shift"),
    ],
)
def test_a_wrong_loss_fails_under_its_name(name: str, spec: str, rename: Mapping[str, str], called: str) -> None:
    found = check(name, spec, rename)
    assert found.verdict is Overall.FAILS, str(found)
    assert called in {each for bug in found.diagnosis for each in (bug.mutant, *bug.also)}, str(found)


def test_a_model_without_its_last_logits_that_does_not_shift_fails_for_its_pairs() -> None:
    """No known bug scores the same pairs: the plain one scores the last logits too."""
    found = check("LossAloneUnshifted")
    assert law(found, "ALIGN-1").verdict.is_failure, str(found)
    assert "scored on label [0, 0], not on label [0, 1]" in law(found, "ALIGN-1").message


@pytest.mark.parametrize(
    "name", ["ScaledInline", "CappedInline", "MaskedInline", "ChosenInline", "FusedAlone", "AddsToItsLoss"]
)
def test_a_loss_whose_logits_no_module_returns_is_told_to_return_them(name: str) -> None:
    found = check(name)
    assert found.verdict is Overall.FAILS, str(found)
    contract = law(found, "CONTRACT-1")
    assert contract.verdict.is_failure
    assert "logits" in contract.message, contract.message
    assert not found.diagnosis  # nothing is known of its shift


def test_that_a_model_is_stood_in_for_is_a_limit_of_the_verdict() -> None:
    def of_the_models_own_loss(model, inputs):  # type: ignore[no-untyped-def]
        return model(**inputs).loss

    found = shiftproof.check(of_the_models_own_loss, spec="hf.causal_lm", profile="brief", seed=1)
    assert any("a loss that the model computes is not judged" in limit for limit in found.worst.scope)
