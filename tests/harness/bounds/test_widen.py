"""The bounds of a loss that makes its logits itself: logits within their bounds give answers within the wider ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shiftproof.harness.bounds.derive import Bounds, derive_bounds, widen
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Ids, Mask, Recipe, Regime
from shiftproof.reference.oracle import Oracle, evaluate
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute

SPECS = (
    *("hf.causal_lm", "per_token", "liger.softcap", "torch.cross_entropy.smoothing", "maxtext.z_loss"),
    *("torch.cross_entropy.weight", "sum"),
)
RECIPE = Recipe(rows=2, length=5, classes=11, masks=(Mask.HOLES, Mask.NONE), ids=Ids.SEEDED, dtype="float64")
_UNSURE = 1e-4


def case_of(name: str, regime: Regime) -> Case:
    return build_case(PROFILES[name], replace(RECIPE, regime=regime))


def moved(case: Case, by: Tensor) -> Oracle:
    batch = replace(case.batch, logits=case.batch.tensor("logits") + by)
    return evaluate(case.pairing, batch)


def wider(case: Case, unsure: Tensor) -> tuple[Bounds, Bounds]:
    bounds = derive_bounds(case, Compute.STRICT, torch.float64)
    return bounds, widen(case, bounds, unsure)


@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.SHARP, Regime.TIES])
@pytest.mark.parametrize("name", SPECS)
def test_logits_within_their_bounds_give_answers_within_the_wider_ones(name: str, regime: Regime) -> None:
    case = case_of(name, regime)
    unsure = torch.full(case.pairing.shapes["logits"], _UNSURE, dtype=torch.float64)
    _, wide = wider(case, unsure)
    generator = torch.Generator().manual_seed(0)
    closest = 0.0
    for _ in range(200):
        by = _UNSURE * (torch.randint(0, 2, unsure.shape, generator=generator) * 2 - 1)
        found = moved(case, by)
        off = (found.gradients["logits"] - case.oracle.gradients["logits"]).abs()
        assert bool((off <= wide.gradients["logits"]).all())
        assert found.value is not None
        assert case.oracle.value is not None
        assert abs(found.value - case.oracle.value) <= wide.value
        assert bool(((found.per_token - case.oracle.per_token).abs() <= wide.per_token).all())
        closest = max(closest, float((off / wide.gradients["logits"].clamp(min=1e-300)).max()))
    assert closest > 0.1, "the bounds are no more than ten times as wide as they must be"


@pytest.mark.parametrize("name", SPECS)
def test_logits_that_are_exact_widen_nothing(name: str) -> None:
    case = case_of(name, Regime.NORMAL)
    bounds, wide = wider(case, torch.zeros(case.pairing.shapes["logits"], dtype=torch.float64))
    assert wide.value == bounds.value
    assert torch.equal(wide.per_token, bounds.per_token)
    assert torch.equal(wide.gradients["logits"], bounds.gradients["logits"])


def test_rows_that_nobody_is_scored_on_stay_exact() -> None:
    case = case_of("hf.causal_lm", Regime.NORMAL)
    _, wide = wider(case, torch.ones(case.pairing.shapes["logits"], dtype=torch.float64))
    used = {pair.logit for pair in case.pairing.pairs}
    for row in range(2):
        for position in range(5):
            assert bool(wide.gradients["logits"][row, position].any()) is ((row, position) in used)
