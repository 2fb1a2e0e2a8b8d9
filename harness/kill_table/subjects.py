"""Every known-wrong loss under a spec, each as one function that answers a call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from shiftproof.reference.spec import LossSpec

from ..candidates.arguments import ARGUMENTS
from ..candidates.loss import Observation
from ..candidates.variant import Asked
from ..cases.build import build_batch
from ..cases.space import hand_made, space
from ..mutants import MUTANTS, BugVariant
from ..mutants.behaviour import Act, answer, computed
from ..mutants.behaviours import BEHAVIOURS
from ..mutants.scores import SCORES, ScoreMutant
from ..mutants.views import variants_under


@dataclass(frozen=True)
class Subject:
    """One way to write one bug: as wrong pairs, a wrong score, or a whole behaviour.

    ``act`` answers a call. ``linear`` states that it gets hidden states and a weight instead of logits.
    """

    name: str
    detail: str
    act: Act
    dtype: str = "float32"
    variant: BugVariant | None = None
    reason: str = ""  # why it is impossible
    linear: bool = False


def subjects(spec: LossSpec) -> list[Subject]:
    """Return every known bug under ``spec``, one subject per variant. Impossible ones state what they need."""
    return [*_of_pairs(spec), *_of_scores(spec), *_of_behaviours(spec)]


def _of_pairs(spec: LossSpec) -> Iterator[Subject]:
    batches = [build_batch(spec, recipe) for recipe in hand_made(space(spec, frozenset(ARGUMENTS)))]
    for mutant in MUTANTS.values():
        had = [
            variant
            for variant in variants_under(mutant, spec)
            if any(variant.wrong(spec, batch) is not None for batch in batches)
        ]
        if not had:
            yield Subject(mutant.name, "", answer, reason=mutant.needs or mutant.tells)
        for variant in had:
            yield Subject(mutant.name, variant.detail, _over(variant), variant=variant)


def _over(variant: BugVariant) -> Act:
    """Return a loss over wrong pairs, or over the right ones if a batch cannot show the bug."""

    def act(asked: Asked) -> Observation:
        return answer(asked, variant.wrong(asked.case.spec, asked.case.batch))

    return act


def _of_scores(spec: LossSpec) -> Iterator[Subject]:
    for mutant in SCORES.values():
        if any(mutant.applies(term.score) for term in spec.terms):
            yield Subject(mutant.name, "", _scoring(mutant))
        else:
            yield Subject(mutant.name, "", answer, reason=mutant.needs)


def _scoring(mutant: ScoreMutant) -> Act:
    return lambda asked: computed(asked, mutant.wrong, torch.float64)


def _of_behaviours(spec: LossSpec) -> Iterator[Subject]:
    for behaviour in BEHAVIOURS:
        reason = behaviour.needs(spec)
        yield Subject(
            behaviour.name,
            behaviour.detail,
            behaviour.act,
            behaviour.dtype,
            reason=reason or "",
            linear=behaviour.linear,
        )
