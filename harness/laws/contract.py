"""Laws on the basic contract: the candidate answers every valid case, and its answer can be trained on."""

from __future__ import annotations

import torch

from ..candidates.loss import Trial
from ..cases.recipe import Recipe
from .base import NOT_APPLICABLE, PASS, Judgement, failing, law, needs_gradient, not_answered, trains


@law(
    "CONTRACT-1",
    "answers every valid case with a floating-point loss of the promised shape",
    source="torch.nn.functional.cross_entropy; Liger#872 (one chunk for reduction none)",
    budget=70,
    depends_on=(),
)
def answers(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trial.observe_cached(recipe)
    if observation.problem is not None:
        return not_answered(observation)
    given = observation.case.batch.tensor(trial.spec.logits[0]).dtype
    if torch.finfo(observation.dtype).eps > torch.finfo(given).eps:
        return failing(
            f"returned a {_name(observation.dtype)} loss for {_name(given)} logits; expected no fewer bits",
            "narrow",
        )
    return PASS


@law(
    "CONTRACT-2",
    "a gradient reaches the logits",
    source="the design of any trainer: a detached loss trains nothing",
    budget=20,
    skip_reason=needs_gradient,
    points_to=("detached-part",),
)
def differentiable(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trial.observe_cached(recipe)
    if observation.problem is not None:
        return not_answered(observation)
    if not trains(observation.case):
        return NOT_APPLICABLE
    if observation.gradients is None:
        return failing(
            "the loss has no gradient at the logits, so nothing can be learned from it. If it is a metric, declare "
            "gradient = false; then only its value is judged",
            "no gradient",
        )
    return PASS


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
