"""What the yardsticks ask of each row of logits is what the explicit list of pairs says, for every profile."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from shiftproof.harness.candidates.arguments import ARGUMENTS
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.cases.space import hand_made, space
from shiftproof.reference.batch import Batch, BatchError
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Denominator, Empty, LossSpec, LossTerm
from shiftproof.reference.yardstick.rows import NOT_SCORED, rows_of


def telling(spec: LossSpec) -> list[Recipe]:
    recipes = hand_made(space(spec, frozenset(ARGUMENTS)))
    shapes = [{}, {"length": 1}, {"rows": 0}, {"hollow": "first"}, {"streams": "second"}, {"masks": ("all",)}]
    return [replace(recipe, **changed) for recipe in recipes for changed in shapes]


@pytest.mark.parametrize("spec", PROFILES.values(), ids=PROFILES)
def test_targets_and_weights_are_those_of_the_pairs(spec: LossSpec) -> None:
    for recipe in telling(spec):
        assert_same(build_case(spec, recipe))


def assert_same(case: Case) -> None:
    empty = 0.0
    for index, term in enumerate(case.spec.terms):
        found = rows_of(term, case.batch)
        _, rows, targets, weights = case.pairing.by_term[index]
        expected = torch.full((math.prod(case.pairing.shapes[term.logits][:-1]),), NOT_SCORED)
        expected[rows] = targets
        assert torch.equal(found.targets, expected), case.recipe
        weighing = torch.zeros(len(expected), dtype=torch.float64)
        weighing[rows] = weights
        torch.testing.assert_close(found.weights, weighing, rtol=1e-14, atol=0, equal_nan=True)
        empty += float(found.empty)
    if case.pairing.empty is not None:
        assert empty == case.pairing.empty or math.isnan(empty) == math.isnan(case.pairing.empty) is True


@pytest.mark.parametrize(
    "term",
    [
        LossTerm(clamp=3.0, epsilon=0.5),
        LossTerm(weight=-2.0, denominator=Denominator.POSITIONS),
        LossTerm(token_weights=True, denominator=Denominator.WEIGHTS, empty=Empty.ZERO),
        LossTerm(ignored_ids=(1, 2)),
        LossTerm(shift=4),
        LossTerm(shift=40),
        LossTerm(documents="cu_seqlens", shift=2),
    ],
)
def test_terms_that_no_profile_has(term: LossTerm) -> None:
    spec = LossSpec("free", (term,), "", "")
    for recipe in telling(spec):
        assert_same(build_case(spec, recipe))


def test_a_label_that_is_no_class_is_scored_on_none() -> None:
    batch = Batch(logits=torch.zeros(1, 4, 5), labels=torch.tensor([[-1, 4, 5, 99]]))
    found = rows_of(LossTerm(shift=0, shifted_by="data"), batch)
    assert found.targets.tolist() == [5, 4, 5, 5]


def test_what_is_missing_is_said_as_the_pairing_says_it() -> None:
    batch = Batch(logits=torch.zeros(1, 4, 5), labels=torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(BatchError, match="num_items_in_batch"):
        rows_of(LossTerm(denominator=Denominator.NUM_ITEMS), batch)
    with pytest.raises(BatchError, match="loss_mask"):
        rows_of(LossTerm(loss_mask=True), batch)
    with pytest.raises(BatchError, match="heads=codebooks"):
        rows_of(LossTerm(heads="codebooks"), batch)
