"""Wrong builders: each differs from the right one on a small input, and a few are worked by hand."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from shiftproof.harness.label_builders.cases import BuilderRecipe, build_builder_case, hand_made, random_recipes, space
from shiftproof.harness.label_builders.mutants import BUILDER_MUTANTS, BuilderMutant, mutants_of
from shiftproof.reference.builders import BUILDERS, BuilderBatch, BuilderSpec

EACH = [
    pytest.param(BUILDERS[of], mutant, detail, id=f"{of}-{mutant.name}-{detail}")
    for mutant in BUILDER_MUTANTS.values()
    for of in mutant.of
    for detail in mutant.details
]
B, E, P, I = 91, 92, 93, -100  # noqa: E741


def differs(spec: BuilderSpec, mutant: BuilderMutant, detail: str, recipe: BuilderRecipe) -> bool:
    case = build_builder_case(spec, recipe)
    return not mutant.wrong(spec, case.batch, detail).equal(case.expected)


@pytest.mark.parametrize(("spec", "mutant", "detail"), EACH)
def test_the_hand_made_cases_tell_it_from_right(spec: BuilderSpec, mutant: BuilderMutant, detail: str) -> None:
    assert any(differs(spec, mutant, detail, recipe) for recipe in hand_made(space(spec)))


@pytest.mark.parametrize(("spec", "mutant", "detail"), EACH)
def test_a_small_input_tells_it_from_right(spec: BuilderSpec, mutant: BuilderMutant, detail: str) -> None:
    drawn = islice(random_recipes(space(spec), 0), 400)
    small = (recipe for recipe in drawn if recipe.rows <= 2 and recipe.length <= 5 and recipe.codebooks <= 9)
    assert any(differs(spec, mutant, detail, recipe) for recipe in small)


@pytest.mark.parametrize("spec", BUILDERS.values(), ids=BUILDERS)
def test_mutants_change_neither_their_inputs_nor_the_right_answer(spec: BuilderSpec) -> None:
    recipe = hand_made(space(spec))[1]
    case = build_builder_case(spec, recipe)
    before = {name: value.clone() for name, value in vars(case.batch).items() if isinstance(value, Tensor)}
    right = case.expected.clone()
    for mutant in mutants_of(spec):
        for detail in mutant.details:
            mutant.wrong(spec, case.batch, detail)
    assert all(getattr(case.batch, name).equal(value) for name, value in before.items())
    assert case.expected.equal(right)


def test_every_spec_has_mutants_and_every_mutant_a_spec() -> None:
    assert all(mutants_of(spec) for spec in BUILDERS.values())
    assert all(mutant.of and set(mutant.of) <= set(BUILDERS) for mutant in BUILDER_MUTANTS.values())
    assert all(
        mutant.details and mutant.formula and mutant.tells and mutant.seen for mutant in BUILDER_MUTANTS.values()
    )


AUDIO = BuilderBatch(
    audio_codes=torch.tensor([[[1, 2, 3], [4, 5, 6]]]),
    delays=(0, 1),
    bos_token_id=B,
    eos_token_id=E,
    pad_token_id=P,
)
DELAYED = BuilderBatch(
    delayed_codes=torch.tensor([[[1, 2, 3, E], [B, 4, 5, 6]]]), delays=(0, 1), bos_token_id=B, eos_token_id=E
)
TEXT = BuilderBatch(
    input_ids=torch.tensor([[1, 2, 3, P], [4, 5, 6, 7]]),
    attention_mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
    loss_mask=torch.tensor([[0, 1, 1, 0], [0, 0, 1, 1]]),
    prompt_lengths=torch.tensor([1, 2]),
    assistant_turns=torch.tensor([[[1, 2]], [[1, 3]]]),
    pad_token_id=P,
)
PACKED = BuilderBatch(input_ids=torch.tensor([[1, 2, 3, 4, 5]]), seq_lengths=torch.tensor([2, 3]))


@pytest.mark.parametrize(
    ("spec", "name", "detail", "batch", "expected"),
    [
        ("delay.apply", "delay-off-by-one", "early", AUDIO, [[[1, 2, 3, E], [4, 5, 6, E]]]),
        ("delay.apply", "delay-off-by-one", "late", AUDIO, [[[1, 2, 3, E], [B, B, 4, 5]]]),
        ("delay.apply", "delay-reversed", "", AUDIO, [[[B, 1, 2, 3], [4, 5, 6, E]]]),
        ("delay.apply", "delay-truncated", "", AUDIO, [[[1, 2, 3], [B, 4, 5]]]),
        ("delay.apply", "roll-wrap", "", AUDIO, [[[1, 2, 3], [6, 4, 5]]]),
        ("delay.apply", "bos-eos-swapped", "", AUDIO, [[[1, 2, 3, B], [E, 4, 5, 6]]]),
        ("delay.moshi", "delay-not-cut", "", AUDIO, [[[1, 2, 3, B], [B, 4, 5, 6]]]),
        ("delay.undo", "undo-off-by-one", "early", DELAYED, [[[1, 2, 3], [B, 4, 5]]]),
        ("delay.undo", "undo-off-by-one", "late", DELAYED, [[[1, 2, 3], [5, 6, E]]]),
        ("delay.labels.boson", "fill-trained", "before", AUDIO, [[[B, 1, 2, 3, E, I], [B, B, 4, 5, 6, E]]]),
        ("delay.labels.boson", "fill-trained", "after", AUDIO, [[[I, 1, 2, 3, E, E], [I, I, 4, 5, 6, E]]]),
        ("delay.labels.boson", "bos-trained", "", AUDIO, [[[B, 1, 2, 3, E, I], [I, B, 4, 5, 6, E]]]),
        ("delay.labels.boson", "eos-masked", "", AUDIO, [[[I, 1, 2, 3, I, I], [I, I, 4, 5, 6, I]]]),
        ("delay.labels.boson", "eos-of-book-0-alone", "", AUDIO, [[[I, 1, 2, 3, E, I], [I, I, 4, 5, 6, I]]]),
        ("delay.labels.boson", "double-shift", "", AUDIO, [[[1, 2, 3, E, I, I], [I, 4, 5, 6, E, I]]]),
        ("delay.dia", "no-shift", "", AUDIO, [[I, 1, 2, 3, E], [I, I, 4, 5, 6]]),
        ("shift.pad", "double-shift", "", TEXT, [[3, P, I, I], [6, 7, I, I]]),
        ("shift.pad", "flatten-then-shift", "", TEXT, [[2, 3, P, 4], [5, 6, 7, I]]),
        ("shift.pad", "reverse-shift", "", TEXT, [[I, 1, 2, 3], [I, 4, 5, 6]]),
        ("shift.masked", "drop-first-response", "", TEXT, [[I, 3, P, I], [I, I, 7, I]]),
        ("shift.masked", "mask-shifted-twice", "", TEXT, [[2, I, I, I], [5, 6, I, I]]),
        ("packing.labels", "cross-document", "all but the first document's", PACKED, [[I, 2, 3, 4, 5]]),
        ("packing.labels", "boundary-at-the-end", "instead", PACKED, [[1, I, 3, 4, I]]),
        ("mask.prompt", "prompt-of-row-0", "", TEXT, [[I, 2, 3, I], [I, 5, 6, 7]]),
        ("mask.turns", "drop-last-response", "", TEXT, [[I, 2, I, I], [I, 5, 6, I]]),
        ("mask.turns", "turn-too-long", "at its end", TEXT, [[I, 2, 3, P], [I, 5, 6, 7]]),
    ],
)
def test_by_hand(spec: str, name: str, detail: str, batch: BuilderBatch, expected: list[object]) -> None:
    assert BUILDER_MUTANTS[name].wrong(BUILDERS[spec], batch, detail).tolist() == expected
