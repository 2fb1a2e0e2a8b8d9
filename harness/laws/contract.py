"""Laws on the bare contract: an answer to every valid case, and one that can be trained on."""

from __future__ import annotations

import torch

from ..recipe import Recipe
from ..trial import Trial
from .base import NOT_MEANT, PASS, Judgement, failing, law, needs_gradient, not_answered


@law(
    "CONTRACT-1",
    "answers every valid case with a floating-point loss of the promised shape",
    source="torch.nn.functional.cross_entropy; Liger#872 (one chunk for reduction none)",
    budget=70,
    presumes=(),
    large=True,
)
def answers(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trial.look(recipe)
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
    source="DESIGN of any trainer: a loss that is detached trains nothing",
    budget=20,
    excuse=needs_gradient,
    suggests=("detached-part",),
)
def differentiable(trial: Trial, recipe: Recipe) -> Judgement:
    observation = trial.look(recipe)
    if observation.problem is not None:
        return not_answered(observation)
    if not observation.case.pairing.pairs:
        return NOT_MEANT
    if observation.gradients is None:
        return failing(
            "the loss has no gradient at the logits: nothing can be learnt from it. If it is a metric, declare "
            "gradient = false and its value alone is judged",
            "no gradient",
        )
    return PASS


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
