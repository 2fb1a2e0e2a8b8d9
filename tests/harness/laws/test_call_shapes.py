"""A loss gets the same verdict and the same name in whatever shape it is called."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import shiftproof

FILE = Path(__file__).parents[2] / "candidates" / "call_shapes.py"
LOSSES = (
    *("of_outputs", "of_outputs_by_key", "of_outputs_by_index", "of_bare_outputs", "of_batch", "of_batch_by_attribute"),
    *("of_logits_and_batch", "of_outputs_and_batch", "of_model_and_inputs", "of_bare_model_and_batch"),
    "of_model_and_tokens",
)
RIGHT = (*LOSSES, "NeedsMuch.compute_loss", "Step.training_step", "LossFirst", "LossLast", "FlatLogits", "MakesLabels")
WRONG = {
    **{f"{name}_twice": "double-shift" for name in LOSSES},
    **{f"{name}Twice": "double-shift" for name in ("LossFirst", "LossLast", "FlatLogits")},
    "NeedsMuch.twice": "double-shift",
    "StepTwice.training_step": "double-shift",
    "MakesLabelsUnshifted": "no-shift",
}


def check(name: str, **options: Any) -> shiftproof.Result:
    shared = {"spec": "hf.causal_lm", "profile": "brief", "seed": 1, "in_process": False}
    return shiftproof.check(f"{FILE}:{name}", **{**shared, **options})


@pytest.mark.representatives(6)
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_loss_conforms(name: str) -> None:
    found = check(name)
    assert found.verdict == "conforms", str(found)


@pytest.mark.representatives(6)
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_loss_fails_under_its_name(name: str) -> None:
    found = check(name)
    assert found.verdict == "fails"
    assert WRONG[name] in {bug.mutant for bug in found.diagnosis}, str(found)


@pytest.mark.parametrize("name", ["Halves", "Fused"])
def test_logits_that_no_module_returns_have_to_be_returned(name: str) -> None:
    found = check(name)
    assert found.verdict == "fails"
    assert "without logits; expected both, as in (loss, logits)" in str(found)
    assert not found.diagnosis


def test_labels_that_a_model_makes_all_count_and_that_is_said() -> None:
    assert "on labels that all count: it makes them itself" in str(check("MakesLabels"))
    skipped = {law.id for law in check("MakesLabels").laws if law.verdict == "skip"}
    assert {"EMPTY-2", "MODEL-3"} <= skipped


@pytest.mark.parametrize("name", ["WithConstructor", "factory"])
def test_what_has_to_be_made(name: str) -> None:
    assert check(name, init={"by": 1})
    assert check(name, init={"by": 2}).diagnosis[0].mutant == "double-shift"


def test_arguments_that_are_the_same_in_every_call() -> None:
    assert check("shifted", kwargs={"by": 1}, rename={"num_items_in_batch": "count"})
    assert check("of_outputs", kwargs={"by": 2}).diagnosis[0].mutant == "double-shift"


def test_a_composite_goes_by_another_name() -> None:
    spec = importlib.util.spec_from_file_location("shapes_of_calls", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def loss(result, labels):  # type: ignore[no-untyped-def]
        return module.shifted(result.logits, labels, 1)

    found = shiftproof.check(loss, spec="hf.causal_lm", profile="brief", rename={"outputs": "result"}, in_process=True)
    assert found.verdict == "conforms", str(found)
