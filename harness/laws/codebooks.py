"""Laws on losses of several codebooks, heads or streams: parts stay separate, and are mixed as the spec states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.spec import Axis, Heads, LossSpec

from ..bounds.compare import different_gradients, same_value
from ..candidates.loss import Observation, Trial
from ..candidates.variant import Variant
from ..cases.build import Case, classes_of
from ..cases.recipe import Recipe, Streams
from ..cases.space import has_streams
from ..probe.read import site_of
from .alignment import calm, pairs_of
from .base import NOT_APPLICABLE, PASS, Judgement, failing, law, needs_gradient, on, trained
from .numerics import judge_both, judge_gradient


def _needs_codebooks(trial: Trial) -> str | None:
    terms = trial.spec.terms
    if not any(term.heads is Heads.CODEBOOKS and term.axis is Axis.TIME for term in terms):
        return "the spec has no codebooks side by side"
    return None


def _interchangeable(trial: Trial) -> str | None:
    unequal = any(isinstance(term.codebook_weights, tuple) for term in trial.spec.terms)
    return "the spec gives each codebook its own weight" if unequal else _needs_codebooks(trial)


def _needs_streams(trial: Trial) -> str | None:
    return None if has_streams(trial.spec) else "the spec has one stream"


def _several_codebooks(recipe: Recipe) -> Recipe | None:
    return recipe if recipe.codebooks > 1 else None


@law(
    "BOOK-1",
    "codebooks in another order, with their labels and weights, give the same loss",
    source="the sum over codebooks does not depend on their order; audiocraft, transformers musicgen",
    budget=36,
    adapt=_several_codebooks,
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    skip_reason=_interchangeable,
)
@on(Variant("codebooks in another order", change=lambda case: _reordered(case.batch, case.spec, _order(case))))
def codebook_order(trial: Trial, after: Observation) -> Judgement:
    before = trained(trial, after.case.recipe)
    if isinstance(before, Judgement):
        return before
    order = _order(after.case)
    assert before.value is not None
    assert after.value is not None
    bounds = trial.bounds(before), trial.bounds(after)
    if not same_value(after.value, before.value, bounds[0].value + bounds[1].value):
        return failing(
            f"with the codebooks in the order {order} the loss changes from {before.value:.9g} to {after.value:.9g}",
            "order",
        )
    if before.gradients is None or after.gradients is None:
        return PASS
    moved = {name: _take(name, gradient, trial.spec, order) for name, gradient in before.gradients.items()}
    allowed = {
        name: _take(name, bound, trial.spec, order) + bounds[1].gradients[name]
        for name, bound in bounds[0].gradients.items()
    }
    difference = different_gradients(after.gradients, moved, allowed)
    return failing(f"with the codebooks in the order {order}: {difference}", "order") if difference else PASS


def _order(case: Case) -> list[int]:
    books, first = case.recipe.codebooks, case.recipe.seed % case.recipe.codebooks
    return [*range(first, books), *range(first)][::-1]


def _reordered(batch: Batch, spec: LossSpec, order: list[int]) -> Batch:
    names = [*spec.logits, *spec.labels, "input_ids", "codebook_weights"]
    changed: dict[str, Any] = {
        name: _take(name, value, spec, order) for name in names if (value := getattr(batch, name)) is not None
    }
    return replace(batch, **changed)


def _take(name: str, value: Tensor, spec: LossSpec, order: list[int]) -> Tensor:
    """Return an array with its codebooks in ``order``. An array without codebooks is returned unchanged."""
    side_by_side = [t for t in spec.terms if t.heads is Heads.CODEBOOKS and t.axis is Axis.TIME]
    if name == "codebook_weights":
        return value[order]
    if name == "input_ids":
        return value[..., order] if value.dim() == 3 else value
    return value[:, :, order] if any(name in (term.logits, term.labels) for term in side_by_side) else value


@law(
    "BOOK-2",
    "labels that one codebook loses change the others' weights as the spec's denominators say",
    source="flat and per-codebook means differ here: transformers moshi, musicgen; Higgs-audio trainers",
    budget=36,
    adapt=_several_codebooks,
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
    skip_reason=lambda trial: _needs_codebooks(trial) or needs_gradient(trial),
)
@on(
    Variant(
        "codebook thinned",
        change=lambda case: _thinned(case.batch, case.spec, _thinned_book(case)),
        words=lambda case: f"with every second label of codebook {_thinned_book(case)} ignored",
    )
)
def codebook_denominators(trial: Trial, observed: Observation) -> Judgement:
    case = observed.case
    if len(case.pairing.pairs) == len(trial.case(case.recipe).pairing.pairs):
        return NOT_APPLICABLE  # all of these labels were ignored before
    return judge_gradient(trial, observed)


def _thinned_book(case: Case) -> int:
    return case.recipe.seed % case.recipe.codebooks


def _thinned(batch: Batch, spec: LossSpec, book: int) -> Batch:
    """Return the batch with every second label of one codebook ignored."""
    changed: dict[str, Any] = {}
    for term in spec.terms:
        if term.heads is Heads.CODEBOOKS and term.axis is Axis.TIME and term.ignore_index is not None:
            labels = batch.tensor(term.labels).clone()
            labels[:, ::2, book] = term.ignore_index
            changed[term.labels] = labels
    return replace(batch, **changed)


@law(
    "STREAM-1",
    "other labels in one stream leave the gradient of the other as it was",
    source="text and audio losses are computed separately: transformers higgs_audio_v2, csm, moshi",
    budget=36,
    depends_on=("CONTRACT-1", "ALIGN-1", "GRAD-1"),
    skip_reason=lambda trial: _needs_streams(trial) or needs_gradient(trial),
)
@on(Variant("one stream relabelled", change=lambda case: _relabelled(case, _moved_stream(case))), gradient=True)
def streams_apart(trial: Trial, after: Observation) -> Judgement:
    before = trained(trial, after.case.recipe, gradient=True)
    if isinstance(before, Judgement):
        return before
    assert before.gradients is not None
    assert after.gradients is not None
    moved = _moved_stream(after.case)
    others = [name for name in trial.spec.logits if name != trial.spec.terms[moved].logits]
    bounds = trial.bounds(before).gradients, trial.bounds(after).gradients
    allowed: Mapping[str, Tensor] = {name: bounds[0][name] + bounds[1][name] for name in others}
    difference = different_gradients(after.gradients, {name: before.gradients[name] for name in others}, allowed)
    name = trial.spec.terms[moved].name
    return failing(f"after the labels of {name} changed: {difference}", "leak") if difference else PASS


def _moved_stream(case: Case) -> int:
    return case.recipe.seed % len(case.spec.terms)


def _relabelled(case: Case, term: int) -> Batch:
    """Return the batch with every label that one term trains on replaced by the next class."""
    name = case.spec.terms[term].labels
    labels = case.batch.tensor(name).clone()
    classes = classes_of(case.spec, name, case.recipe)
    for place in {pair.label for pair in case.pairing.pairs if pair.term == term}:
        labels[place] = (int(labels[place]) + 1) % classes
    changed: dict[str, Any] = {name: labels}
    return replace(case.batch, **changed)


@law(
    "STREAM-2",
    "where one stream has nothing to train on, the loss is the other's alone",
    source="batches of text without audio, and of audio without text, are common in Higgs-audio training",
    budget=30,
    adapt=lambda recipe: replace(recipe, streams=(Streams.FIRST, Streams.SECOND)[recipe.seed % 2]),
    depends_on=("CONTRACT-1", "ALIGN-1", "VALUE-1"),
    skip_reason=_needs_streams,
)
def one_stream_alone(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe)
    return observed if isinstance(observed, Judgement) else judge_both(trial, observed)


@law(
    "REDUCE-2",
    "every term has its own share of the loss",
    source="1:1 in transformers higgs_audio_v2, csm and moshi; 1 + 0.3 in Qwen3-TTS and torchtitan's MTP",
    budget=30,
    adapt=calm,
    depends_on=("CONTRACT-1", "ALIGN-1", "SELECT-1", "REDUCE-1"),
    skip_reason=lambda trial: "the spec has one term" if len(trial.spec.terms) == 1 else needs_gradient(trial),
)
def mixing(trial: Trial, recipe: Recipe) -> Judgement:
    observed = trained(trial, recipe, gradient=True)
    if isinstance(observed, Judgement):
        return observed
    assert observed.gradients is not None
    pairing = observed.case.pairing
    found = pairs_of(observed)
    bounds = trial.bounds(observed).gradients
    for index, term in enumerate(trial.spec.terms):
        pairs = [pair for pair in pairing.pairs if pair.term == index]
        right = theirs = allowed = 0.0
        for pair in pairs:
            at = float(observed.case.oracle.gradients[term.logits][pair.logit][pair.target])
            right += pair.weight
            theirs += found.get(site_of(pairing, pair), {}).get(pair.target, 0.0)
            allowed += abs(float(bounds[term.logits][pair.logit][pair.target]) * pair.weight / at) if at else 0.0
        if abs(theirs - right) > allowed:
            return failing(f"the pairs of {term.name} weigh {theirs:.6g} in total; expected {right:.6g}", term.name)
    return PASS
