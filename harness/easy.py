"""Easy inputs: what a first test of a loss would draw. Many bugs are the right loss on them."""

from __future__ import annotations

from dataclasses import replace

from .laws.numbers import judge_both
from .recipe import Ids, Mask, Recipe
from .strategies import Space
from .trial import Trial


def easy_inputs(choices: Space) -> list[Recipe]:
    """One row and two, of one document each: everything trained on, all but the first label, and padded alike."""
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
    """On how many recipes value and gradient are right, within the bounds, and the inputs left as they were."""
    count = 0
    for recipe in recipes:
        seen = trial.look(recipe)
        count += seen.problem is None and not seen.mutated and not judge_both(trial, seen).verdict.is_failure
    return count
