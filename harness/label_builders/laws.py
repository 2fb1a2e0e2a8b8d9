"""Laws on label builders: their output is compared exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.builders import BuilderBatch
from shiftproof.reference.delay import DelayError, apply_delay, undo_delay

from ..laws.base import NOT_APPLICABLE, PASS, Judgement, Laws, failing, not_answered
from ..results import Verdict
from .candidate import BuilderTrial, Built
from .cases import BuilderCase, BuilderRecipe
from .picture import word_for

BUILDER_LAWS: Laws[BuilderTrial, BuilderRecipe] = Laws()
law = BUILDER_LAWS.law


@law(
    "BUILD-1",
    "answers every case with a tensor of integers",
    source="torch.nn.functional.cross_entropy takes class indices as integers",
    budget=60,
    depends_on=(),
)
def answers(trial: BuilderTrial, recipe: BuilderRecipe) -> Judgement:
    built = _integers(trial.observe_cached(recipe))
    return built if isinstance(built, Judgement) else PASS


def _integers(built: Built) -> Tensor | Judgement:
    """Return what was built as int64, or a judgement if it is not a tensor of integers."""
    if built.problem is not None:
        return not_answered(built)
    returned = built.returned
    assert returned is not None
    if returned.is_floating_point() or returned.is_complex() or returned.dtype == torch.bool:
        dtype = str(returned.dtype).removeprefix("torch.")
        message = f"returned {dtype} {list(returned.shape)}; expected integers"
        return Judgement(Verdict.ERROR, message, frozenset({"no integers"}))
    return returned.long()


@law(
    "BUILD-2",
    "what is built has the promised shape",
    source="Higgs-audio trainers: 167 labels against 168 logits; NeMo Speech#16164 (delays cut off)",
    budget=60,
    depends_on=("BUILD-1",),
)
def shaped(trial: BuilderTrial, recipe: BuilderRecipe) -> Judgement:
    built = trial.observe_cached(recipe)
    found = _integers(built)
    return found if isinstance(found, Judgement) else _same_shape(built.case, found) or PASS


def _same_shape(case: BuilderCase, found: Tensor) -> Judgement | None:
    here, there = list(found.shape), list(case.expected.shape)
    if here == there:
        return None
    if len(here) != len(there):
        features = ["other axes"]
    elif sorted(here) == sorted(there):
        features = ["axes swapped"]
    else:
        pairs = enumerate(zip(here, there, strict=True))
        features = [f"axis {axis} too {'short' if a < b else 'long'}" for axis, (a, b) in pairs if a != b]
    return failing(f"returned shape {here}; expected [{case.spec.output}] = {there}", *features)


@law(
    "BUILD-3",
    "every place holds the id that the spec puts there, or is ignored where the spec ignores it",
    source="the spec's own source (`list profiles`); the output is integers, so nothing is rounded",
    budget=150,
    depends_on=("BUILD-1", "BUILD-2"),
)
def valued(trial: BuilderTrial, recipe: BuilderRecipe) -> Judgement:
    built = trial.observe_cached(recipe)
    found = _integers(built)
    if isinstance(found, Judgement):
        return found
    if _same_shape(built.case, found) or not built.case.expected.numel():
        return NOT_APPLICABLE
    return _same_values(built.case, found)


def _same_values(case: BuilderCase, found: Tensor) -> Judgement:
    expected, ignored = case.expected, case.batch.ignore_index
    wrong = (found != expected).nonzero().tolist()
    if not wrong:
        return PASS
    features = set()
    for place in map(tuple, wrong):
        here, there = int(found[place]), int(expected[place])
        if ignored not in (here, there):
            features.add("another id")
        elif there == ignored:
            features.add(f"{word_for(here, case.batch) or 'an id'} trained where ignored")
        else:
            features.add(f"{word_for(there, case.batch) or 'an id'} ignored where trained")
    place = tuple(wrong[0])
    shown = [_show(int(tensor[place]), case.batch) for tensor in (found, expected)]
    message = f"{len(wrong)} of {expected.numel()} places are wrong: {list(place)} is {shown[0]}, expected {shown[1]}"
    return failing(message, *features)


def _show(value: int, batch: BuilderBatch) -> str:
    word = word_for(value, batch)
    return f"{word} ({value})" if word else str(value)


@law(
    "BUILD-4",
    "codes, ids, masks and delays are left as they were",
    source="labels made by writing −100 into input_ids without a clone train the model on −100",
    budget=30,
    depends_on=("BUILD-1",),
    points_to=("ids-overwritten",),
)
def leaves_inputs_alone(trial: BuilderTrial, recipe: BuilderRecipe) -> Judgement:
    built = trial.observe_cached(recipe)
    if built.problem is not None:
        return not_answered(built)
    if built.mutated:
        return failing(f"writes to its own inputs: {', '.join(built.mutated)}", *built.mutated)
    return PASS


@law(
    "BUILD-5",
    "the same case gives the same labels, at once and after another case",
    source="randomness, and state left over from the call before",
    budget=20,
    calls_again=True,
    depends_on=("BUILD-1",),
)
def repeatable(trial: BuilderTrial, recipe: BuilderRecipe) -> Judgement:
    case, other = trial.case(recipe), trial.case(replace(recipe, seed=recipe.seed + 1))
    first, again, _, later = (_integers(trial.observe(each)) for each in (case, case, other, case))
    for found, when in ((first, ""), (again, "called twice"), (later, "called again after another case")):
        if isinstance(found, Judgement):
            return found
        assert isinstance(first, Tensor)
        if not found.equal(first):
            return failing(f"{when}, the builder gives labels that differ from the first ones", "state")
    return PASS


@law(
    "BUILD-6",
    "a row alone gives the labels that it gives in a batch",
    source="transformers#47394 (flattened before the shift); rows of a batch are independent",
    budget=30,
    calls_again=True,
    depends_on=("BUILD-1", "BUILD-2"),
    adapt=lambda recipe: replace(recipe, rows=max(recipe.rows, 2)),
    skip_reason=lambda trial: "packed documents are one row" if trial.spec.name.startswith("packing.") else None,
)
def rows_are_independent(trial: BuilderTrial, recipe: BuilderRecipe) -> Judgement:
    row = recipe.seed % recipe.rows
    built = trial.observe_cached(recipe)
    whole = _integers(built)
    alone = _integers(trial.observe(trial.variation(built.case, lambda batch: _only(batch, row))))
    if isinstance(whole, Judgement):
        return whole
    if isinstance(alone, Judgement):
        return alone
    if _same_shape(built.case, whole):
        return NOT_APPLICABLE
    mine = whole.unflatten(0, (recipe.rows, -1))[row]
    if not alone.equal(mine):
        return failing(f"row {row} of {recipe.rows} gets other labels if it is built alone", "rows")
    return PASS


def _only(batch: BuilderBatch, row: int) -> BuilderBatch:
    """Return the batch with only one of its rows."""
    kept: dict[str, Any] = {
        name: value[row : row + 1] for name, value in vars(batch).items() if isinstance(value, Tensor)
    }
    return replace(batch, **kept)


@law(
    "BUILD-7",
    "delaying and undoing the delay gives back what went in",
    source="transformers HiggsAudioV2Processor.build_delay_pattern and .revert_delay_pattern",
    budget=30,
    depends_on=("BUILD-1", "BUILD-2"),
    skip_reason=lambda trial: (
        None if trial.spec.name in ("delay.apply", "delay.undo") else "the spec is neither a delay nor its inverse"
    ),
)
def there_and_back(trial: BuilderTrial, recipe: BuilderRecipe) -> Judgement:
    built = trial.observe_cached(recipe)
    found = _integers(built)
    if isinstance(found, Judgement):
        return found
    batch = built.case.batch
    assert batch.delays is not None
    assert batch.bos_token_id is not None
    assert batch.eos_token_id is not None
    try:
        if trial.spec.name == "delay.apply":
            before, back = batch.audio_codes, undo_delay(found, batch.delays)
        else:
            before = batch.delayed_codes
            back = apply_delay(found, batch.delays, batch.bos_token_id, batch.eos_token_id)
    except DelayError as error:
        return failing(f"the output cannot be inverted: {error}", "no way back")
    assert before is not None
    return PASS if back.equal(before) else failing("inverting the output does not give the original codes", "lost")
