"""What is true of every mutant: it differs somewhere, it never raises, and it says what it is."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from itertools import combinations, islice, product
from typing import NamedTuple

import pytest

from shiftproof.harness.candidates.arguments import ARGUMENTS
from shiftproof.harness.cases.build import build_batch
from shiftproof.harness.cases.recipe import Count, Mask, Recipe
from shiftproof.harness.cases.space import hand_made, random_recipes, space
from shiftproof.harness.mutants import MUTANTS, Mutant
from shiftproof.harness.mutants.ahead import AHEAD
from shiftproof.harness.mutants.alignment import ALIGNMENT
from shiftproof.harness.mutants.base import family, mutant, repaired, respecified, right_pairs
from shiftproof.harness.mutants.codebooks import CODEBOOKS
from shiftproof.harness.mutants.normalisation import NORMALISATION
from shiftproof.harness.mutants.selection import SELECTION
from shiftproof.harness.mutants.views import variants_under
from shiftproof.harness.probe.read import predict
from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pairing, build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Documents, LossSpec

MTP = PROFILES["megatron.mtp"]
PACKED_MTP = replace(MTP, name="packed.mtp", terms=(replace(MTP.terms[0], documents=Documents.POSITION_IDS),))
SPECS = (*PROFILES.values(), PACKED_MTP)
"""Every profile, and one that no profile has: documents under heads that predict further ahead."""

SMALLEST = ((0, 3), (2, 0), (1, 1), (1, 2))  # rows, length


class Example(NamedTuple):
    spec: LossSpec
    recipe: Recipe
    batch: Batch
    right: Pairing
    hand_made: bool


class Answer(NamedTuple):
    """What one variant of a mutant makes of one example: ``detail`` names it as ``variants_under`` does."""

    detail: str
    example: Example
    wrong: Pairing


@lru_cache(maxsize=1)
def bank() -> list[Example]:
    """Every spec on the hand-made cases and a few drawn ones, with the right pairs."""
    examples = []
    for spec in SPECS:
        choices = space(spec, frozenset(ARGUMENTS))
        by_hand = hand_made(choices)
        for index, recipe in enumerate([*by_hand, *islice(random_recipes(choices, 0), 4)]):
            batch = build_batch(spec, recipe)
            examples.append(Example(spec, recipe, batch, build_pairing(spec, batch), index < len(by_hand)))
    return examples


@lru_cache(maxsize=2)
def answers(name: str) -> list[Answer]:
    """Every variant of a mutant, in all terms of a spec and in each alone, on the examples that it applies to."""
    variants = {spec.name: list(variants_under(MUTANTS[name], spec)) for spec in SPECS}
    return [
        Answer(variant.detail, example, wrong)
        for example in bank()
        for variant in variants[example.spec.name]
        if (wrong := variant.wrong(example.spec, example.batch)) is not None
    ]


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


def is_promised(spec: LossSpec, name: str, detail: str) -> bool:
    """Whether what is a bug elsewhere is right here, or cannot show."""
    match name:
        case "denominator-all":  # ÷ every position is what EAGLE-3 promises
            return (spec.name, detail) == ("eagle3", "kept tail")
        case "hardcoded-ignore":  # fairseq's padding, Parler's begin-of-sequence
            return (spec.name, detail) in {("fairseq", "1"), ("parler", "3")}
        case "term-denominator":  # both terms are divided by the caller's count
            return spec.name == "torchtitan.mtp"
    # Concatenated segments are one row, and what it begins with is ignored: there is nothing to wrap, leak or count.
    concatenated = "audio_labels" in spec.labels and spec.layout_of("audio_labels") == "k (b s)"
    return concatenated and ("in audio" in detail or name == "codebook-leak")


# scope: all tests of one mutant run after each other, so that its answers are asked for once.
of_every_mutant = pytest.mark.parametrize("name", MUTANTS, scope="module")


@pytest.mark.representatives(5)
@of_every_mutant
def test_every_variant_differs_from_right_on_a_hand_made_case(name: str) -> None:
    told = {
        answer.detail
        for answer in answers(name)
        if answer.example.hand_made and differs(answer.wrong, answer.example.right)
    }
    assert {variant.detail for variant in MUTANTS[name].variants} <= told


@pytest.mark.representatives(16)
@of_every_mutant
def test_it_differs_under_every_spec_that_it_applies_to(name: str) -> None:
    applies = {(answer.example.spec.name, answer.detail): answer.example.spec for answer in answers(name)}
    caught: set[tuple[str, str]] = set()
    for answer in answers(name):
        key = answer.example.spec.name, answer.detail
        if key not in caught and differs(answer.wrong, answer.example.right):
            caught.add(key)
    for (profile, detail), spec in applies.items():
        assert (profile, detail) in caught or is_promised(spec, name, detail), (profile, detail)


@pytest.mark.representatives(16)
@of_every_mutant
def test_it_answers_none_or_pairs_within_the_batch(name: str) -> None:
    for detail, example, wrong in answers(name):
        assert wrong.shapes == example.right.shapes
        assert wrong.output_shape == example.right.output_shape
        for pair in wrong.pairs:
            shape = wrong.shapes[example.spec.terms[pair.term].logits]
            inside = all(0 <= at < extent for at, extent in zip((*pair.logit, pair.target), shape, strict=True))
            assert inside, (detail, example.recipe)
        places = [(pair.term, pair.logit, pair.label) for pair in wrong.pairs]
        assert len(set(places)) == len(places), (detail, example.recipe)


@lru_cache(maxsize=1)
def smallest() -> list[tuple[LossSpec, Batch]]:
    found = []
    for spec in SPECS:
        choices = space(spec, frozenset())
        books = choices.get("codebooks", (1,))
        for (rows, length), mask, codebooks in product(SMALLEST, (Mask.NONE, Mask.ALL), {min(books), min(books) + 1}):
            for classes in (1, 2, 101) if books == (1,) else (2,):
                recipe = Recipe(
                    rows,
                    length,
                    classes,
                    codebooks=codebooks if len(books) > 1 else books[0],
                    masks=(mask,),
                    documents=2,
                    extra=choices.get("extra", (0,))[0],
                    count=choices.get("count", (Count.ABSENT,))[0],
                )
                found.append((spec, build_batch(spec, recipe)))
    return found


@pytest.mark.representatives(12)
@of_every_mutant
def test_the_smallest_batches_are_no_reason_to_raise(name: str) -> None:
    for spec, batch in smallest():
        for variant in variants_under(MUTANTS[name], spec):
            variant.wrong(spec, batch)


@pytest.mark.representatives(5)
@pytest.mark.parametrize("one", [m for m in MUTANTS.values() if len(m.variants) > 1], ids=lambda m: m.name)
def test_variants_of_one_mutant_differ_from_each_other(one: Mutant) -> None:
    assert len({variant.detail for variant in one.variants}) == len(one.variants), "two variants of one name"
    of: dict[str, dict[int, Pairing]] = {variant.detail: {} for variant in one.variants}
    for answer in answers(one.name):
        of.get(answer.detail, {})[id(answer.example)] = answer.wrong
    for first, second in combinations(of, 2):
        both = [(of[first].get(at), of[second].get(at)) for at in {*of[first], *of[second]}]
        assert any(differs(*pair) for pair in both), (first, second)


@pytest.mark.parametrize("one", MUTANTS.values(), ids=lambda m: m.name)
def test_every_mutant_says_what_it_is(one: Mutant) -> None:
    assert one.formula
    assert one.tells
    assert one.seen
    assert one.variants


def test_names_are_unique_and_the_keys() -> None:
    listed = [one.name for one in (*ALIGNMENT, *SELECTION, *NORMALISATION, *CODEBOOKS, *AHEAD)]
    assert list(MUTANTS) == listed
    assert len(set(listed)) == len(listed)
    assert all(name == one.name for name, one in MUTANTS.items())


@pytest.mark.parametrize("file", ["alignment", "selection", "normalisation", "codebooks", "ahead"])
def test_every_mutant_of_a_file_is_listed(file: str) -> None:
    module = import_module(f"shiftproof.harness.mutants.{file}")
    defined = {one.name for one in vars(module).values() if isinstance(one, Mutant)}
    assert defined == {one.name for one in getattr(module, file.upper())}


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
