"""What is true of every mutant: it differs somewhere, it never raises, and it says what it is."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import combinations, islice, product
from typing import NamedTuple

import pytest

from shiftproof.harness.arguments import ARGUMENTS
from shiftproof.harness.cases import build_batch
from shiftproof.harness.mutants import MUTANTS, Mutant, Variant
from shiftproof.harness.mutants.alignment import ALIGNMENT
from shiftproof.harness.mutants.base import family, mutant, repaired, respecified, right_pairs
from shiftproof.harness.mutants.normalisation import NORMALISATION
from shiftproof.harness.mutants.selection import SELECTION
from shiftproof.harness.probe import predict
from shiftproof.harness.recipe import Count, Mask, Recipe
from shiftproof.harness.strategies import killers, plain, space
from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pairing, build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Denominator, LossSpec

VARIANTS = [
    pytest.param(one, variant, id=f"{one.name}-{variant.detail}" if variant.detail else one.name)
    for one in MUTANTS.values()
    for variant in one.variants
]


SMALLEST = ((0, 3), (2, 0), (1, 1), (1, 2))  # rows, length


class Example(NamedTuple):
    spec: LossSpec
    recipe: Recipe
    batch: Batch
    right: Pairing
    hand_made: bool


@lru_cache(maxsize=1)
def bank() -> list[Example]:
    """Every profile on the hand-made cases and a few drawn ones, with the right pairs."""
    examples = []
    for spec in PROFILES.values():
        choices = space(spec, frozenset(ARGUMENTS))
        by_hand = killers(choices)
        for index, recipe in enumerate([*by_hand, *islice(plain(choices, 0), 6)]):
            batch = build_batch(spec, recipe)
            examples.append(Example(spec, recipe, batch, build_pairing(spec, batch), index < len(by_hand)))
    return examples


@lru_cache(maxsize=8)
def answers(variant: Variant) -> list[Pairing | None]:
    return [variant.wrong(example.spec, example.batch) for example in bank()]


def answered(variant: Variant) -> list[tuple[Example, Pairing]]:
    """The examples that a variant applies to, with its pairs."""
    return [(example, wrong) for example, wrong in zip(bank(), answers(variant), strict=True) if wrong is not None]


def differs(wrong: Pairing | None, right: Pairing | None) -> bool:
    """Whether a probe could tell the two apart: other rows, other classes, or weights off by more than rounding."""
    if wrong is None or right is None:
        return wrong is not right
    theirs, ours = predict(wrong), predict(right)
    return theirs.keys() != ours.keys() or any(
        theirs[at].keys() != ours[at].keys()
        or any(not math.isclose(theirs[at][target], ours[at][target], rel_tol=1e-9) for target in ours[at])
        for at in ours
    )


# scope: all tests of one variant run after each other, so that its answers are asked for once.
of_every_variant = pytest.mark.parametrize(("one", "variant"), VARIANTS, scope="module")


@of_every_variant
def test_it_differs_from_right_on_a_hand_made_case(one: Mutant, variant: Variant) -> None:
    hand_made = [(example, wrong) for example, wrong in answered(variant) if example.hand_made]
    assert hand_made, f"{one.name} ({variant.detail}) applies nowhere"
    assert any(differs(wrong, example.right) for example, wrong in hand_made)


@of_every_variant
def test_it_differs_under_every_profile_that_it_applies_to(one: Mutant, variant: Variant) -> None:
    applies = {example.spec.name for example, _ in answered(variant)}
    caught = {example.spec.name for example, wrong in answered(variant) if differs(wrong, example.right)}
    # ÷ every position is what EAGLE-3 promises: there, this is no bug.
    promised = {"eagle3"} if (one.name, variant.detail) == ("denominator-all", "kept tail") else set()
    assert applies - caught == promised


@of_every_variant
def test_it_answers_none_or_pairs_within_the_batch(one: Mutant, variant: Variant) -> None:
    for example, wrong in answered(variant):
        rows, length, classes = wrong.logits_shape
        assert wrong.logits_shape == example.right.logits_shape
        assert wrong.output_shape == example.right.output_shape
        for pair in wrong.pairs:
            assert 0 <= pair.logit[0] < rows, (one.name, example.recipe)
            assert 0 <= pair.logit[1] < length, (one.name, example.recipe)
            assert 0 <= pair.target < classes, (one.name, example.recipe)
        places = [(pair.logit, pair.label) for pair in wrong.pairs]
        assert len(set(places)) == len(places), (one.name, example.recipe)


@of_every_variant
def test_the_smallest_batches_are_no_reason_to_raise(one: Mutant, variant: Variant) -> None:
    for spec in PROFILES.values():
        count = Count.VALID if spec.terms[0].denominator is Denominator.NUM_ITEMS else Count.ABSENT
        for (rows, length), mask, classes in product(SMALLEST, (Mask.NONE, Mask.ALL), (1, 2, 101)):
            recipe = Recipe(rows, length, classes, masks=(mask,), documents=2, count=count)
            variant.wrong(spec, build_batch(spec, recipe))


@pytest.mark.parametrize("one", [m for m in MUTANTS.values() if len(m.variants) > 1], ids=lambda m: m.name)
def test_variants_of_one_mutant_differ_from_each_other(one: Mutant) -> None:
    assert len({variant.detail for variant in one.variants}) == len(one.variants), "two variants of one name"
    for first, second in combinations(one.variants, 2):
        both = zip(answers(first), answers(second), strict=True)
        assert any(differs(*pair) for pair in both), (first.detail, second.detail)


@pytest.mark.parametrize("one", MUTANTS.values(), ids=lambda m: m.name)
def test_every_mutant_says_what_it_is(one: Mutant) -> None:
    assert one.formula
    assert one.tells
    assert one.seen
    assert one.variants


def test_names_are_unique_and_the_keys() -> None:
    listed = [one.name for one in (*ALIGNMENT, *SELECTION, *NORMALISATION)]
    assert list(MUTANTS) == listed
    assert len(set(listed)) == len(listed)
    assert all(name == one.name for name, one in MUTANTS.items())


def test_every_mutant_of_a_file_is_listed() -> None:
    from shiftproof.harness.mutants import alignment, normalisation, selection

    for module, listed in ((alignment, ALIGNMENT), (selection, SELECTION), (normalisation, NORMALISATION)):
        assert {one.name for one in vars(module).values() if isinstance(one, Mutant)} == {one.name for one in listed}


def test_one_function_is_one_variant_and_a_family_one_a_value() -> None:
    single = mutant("a", formula="f", tells="t", seen="s")(lambda spec, batch: None)
    assert [variant.detail for variant in single.variants] == [""]
    several = family("b", (2, "V−1"), formula="f", tells="t", seen="s")(
        lambda spec, batch, value: respecified(spec, batch, weight=value)
    )
    assert [variant.detail for variant in several.variants] == ["2", "V−1"]
    spec = PROFILES["sum"]
    doubled = several.variants[0].wrong(spec, build_batch(spec, Recipe(1, 3, 5)))
    assert doubled is not None
    assert [pair.weight for pair in doubled.pairs] == [1.0, 1.0]  # λ is the spec's, not the changed term's


def test_repaired_pairs_are_divided_by_their_own_count_unless_one_is_given() -> None:
    spec = PROFILES["torchtune"]
    batch = build_batch(spec, Recipe(1, 5, 7))
    three = right_pairs(spec, batch)[:3]
    assert [pair.weight for pair in repaired(spec, batch, three).pairs] == [pytest.approx(1 / 3)] * 3
    assert [pair.weight for pair in repaired(spec, batch, three, denominator=4.0).pairs] == [0.25] * 3
    assert [pair.weight for pair in repaired(spec, batch, three, denominator=0.0).pairs] == [math.inf] * 3
