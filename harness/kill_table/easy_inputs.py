"""Easy inputs, such as a first test of a loss would use. Many bugs give the right loss on them."""

from __future__ import annotations

from dataclasses import replace

from ..candidates.loss import Trial
from ..cases.recipe import Ids, Mask, Recipe
from ..cases.space import Space
from ..laws.numerics import judge_both


def easy_inputs(choices: Space) -> list[Recipe]:
    """Return batches of one and two rows of one document: all labels, all but the first, and padded equally."""
    simplest = Recipe(**{name: values[0] for name, values in choices.items()})
    plain = replace(
        simplest,
        length=6,
        classes=min(choices["classes"], key=lambda classes: abs(classes - 32)),
        documents=min(choices.get("documents", (1,))),
        ids=Ids.SEEDED,
    )
    masked = [(1, Mask.NONE), (1, Mask.FIRST), (2, Mask.NONE), (2, Mask.FIRST), (2, Mask.PADDING)]
    return [replace(plain, rows=rows, masks=(mask,)) for rows, mask in masked]


def right_on(trial: Trial, recipes: list[Recipe]) -> int:
    """Count the recipes with a right value and gradient, within the bounds, and with unchanged inputs."""
    count = 0
    for recipe in recipes:
        seen = trial.observe_cached(recipe)
        count += seen.problem is None and not seen.mutated and not judge_both(trial, seen).verdict.is_failure
    return count
