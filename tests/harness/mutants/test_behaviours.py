"""Bugs of whole calls: each differs from the right answer where it says it does, and nowhere else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from shiftproof.harness.bounds.compare import different_gradients, same_value
from shiftproof.harness.bounds.derive import derive_bounds
from shiftproof.harness.candidates.loss import Observation
from shiftproof.harness.candidates.variant import Asked, Manner
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Ids, Mask, Recipe, Regime
from shiftproof.harness.mutants.behaviour import Behaviour, answer, computed
from shiftproof.harness.mutants.behaviours import BEHAVIOURS
from shiftproof.harness.mutants.scores import taken
from shiftproof.reference.profiles import PROFILES

HF = PROFILES["hf.causal_lm"]
CALM = Recipe(rows=2, length=4, classes=11, masks=(Mask.NONE, Mask.PROMPT), regime=Regime.CALM)
PROFILES_TRIED = ("hf.causal_lm", "per_token", "liger.z_loss", "megatron.smoothing", "higgs.hf", "csm", "fla.scaled")


def of(name: str, detail: str = "") -> Behaviour:
    (found,) = [each for each in BEHAVIOURS if (each.name, each.detail) == (name, detail)]
    return found


def is_right(case: Case, seen: Observation, factor: float = 1.0) -> bool:
    """Whether an answer is the oracle's, the gradient ``factor`` times."""
    if seen.problem is not None or seen.gradients is None or seen.mutated or seen.value is None:
        return False
    bounds = derive_bounds(case, case.spec.compute, seen.dtype)
    expected = {name: gradient * factor for name, gradient in case.oracle.gradients.items()}
    allowed = {name: bound * max(abs(factor), 1.0) for name, bound in bounds.gradients.items()}
    assert case.oracle.value is not None
    return same_value(seen.value, case.oracle.value, max(bounds.value, float(bounds.per_token.sum()))) and (
        different_gradients(seen.gradients, expected, allowed) is None
    )


@pytest.mark.parametrize("profile", PROFILES_TRIED)
@pytest.mark.parametrize("grad_output", [1.0, -2.0])
def test_the_right_answer_is_right(profile: str, grad_output: float) -> None:
    case = build_case(PROFILES[profile], replace(CALM, codebooks=3 if profile in ("higgs.hf", "csm") else 1))
    assert is_right(case, answer(Asked(case, grad_output)), grad_output)
    assert is_right(case, computed(Asked(case, grad_output), taken, torch.float64), grad_output)
    assert is_right(case, answer(Asked(case, grad_output, manner=Manner(n_backward=2))), 2 * grad_output)


def test_an_incoming_gradient_a_token_scales_rows() -> None:
    case = build_case(PROFILES["per_token"], CALM)
    grad_output = torch.arange(8.0).reshape(2, 4)
    for seen in (answer(Asked(case, grad_output)), computed(Asked(case, grad_output), taken, torch.float64)):
        assert seen.gradients is not None
        expected = case.oracle.gradients["logits"] * grad_output[..., None]
        assert torch.allclose(seen.gradients["logits"], expected, atol=1e-6)
        assert seen.value == pytest.approx(case.oracle.value)


def test_without_a_gradient_there_is_none() -> None:
    case = build_case(HF, CALM)
    assert answer(Asked(case, manner=Manner("no_grad"))).gradients is None
    assert computed(Asked(case, manner=Manner("no_grad")), taken, torch.float64).gradients is None


@pytest.mark.parametrize("name", ["exp-overflow", "log-eps", "clamped", "no-upcast", "offset-cancel"])
def test_arithmetic_is_right_on_calm_logits_and_wrong_on_hard_ones(name: str) -> None:
    for behaviour in (each for each in BEHAVIOURS if each.name == name):
        calm = build_case(HF, replace(CALM, dtype="float32"))
        if behaviour.dtype == "float32" and behaviour.detail not in ("1e-06", "1e-08"):  # so large an ε shows at once
            assert is_right(calm, behaviour.act(Asked(calm)))
        hard = build_case(HF, replace(CALM, dtype=behaviour.dtype, regime=Regime.HUGE))
        assert not is_right(hard, behaviour.act(Asked(hard))), behaviour.detail


def test_exp_overflows_in_fact() -> None:
    case = build_case(HF, replace(CALM, regime=Regime.HUGE))
    value = of("exp-overflow").act(Asked(case)).value
    assert value is not None
    assert not math.isfinite(value)


def test_a_class_id_beyond_15_bits_wraps() -> None:
    narrow = of("narrow-index", "int16 labels")
    few = build_case(HF, CALM)
    assert is_right(few, narrow.act(Asked(few)))
    many = build_case(HF, replace(CALM, rows=1, classes=32771, ids=Ids.EDGES))
    assert not is_right(many, narrow.act(Asked(many)))


@pytest.mark.parametrize(
    ("name", "profile"), [("smooth-ignored", "megatron.smoothing"), ("aux-over-ignored", "liger.z_loss")]
)
def test_what_runs_over_ignored_rows_shows_in_them_alone(name: str, profile: str) -> None:
    ignored = build_case(PROFILES[profile], CALM)
    seen = of(name).act(Asked(ignored))
    assert seen.gradients is not None
    idle = (ignored.oracle.gradients["logits"] == 0).all(-1)
    assert bool((seen.gradients["logits"][idle] != 0).any())
    assert torch.allclose(seen.gradients["logits"][~idle], ignored.oracle.gradients["logits"][~idle], atol=1e-6)


def test_the_second_backward_is_scaled_twice() -> None:
    case, behaviour = build_case(HF, CALM), of("second-backward")
    assert is_right(case, behaviour.act(Asked(case, 3.0)), 3.0)
    assert is_right(case, behaviour.act(Asked(case, 3.0, manner=Manner(n_backward=2))), 12.0)


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda each: f"{each.name}-{each.detail}")
def test_every_behaviour_says_what_it_is_and_what_it_needs(behaviour: Behaviour) -> None:
    assert behaviour.formula
    assert behaviour.tells
    assert behaviour.seen
    for spec in PROFILES.values():
        assert behaviour.needs(spec) != ""
