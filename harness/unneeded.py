"""Whether the sizes that a candidate is declared to require are still needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .builder_trial import BuilderTrial
from .compare import same_value
from .trial import Trial

if TYPE_CHECKING:
    from .docket import AnyTrial

_CASES = 3


def unneeded(trial: AnyTrial) -> tuple[str, ...]:
    """The requirement, in words, where the candidate is right on the first hand-made cases that do not meet it; else
    nothing. A candidate that refuses them, or is wrong on them, needs it."""
    sizes, trial.sizes = trial.sizes, type(trial.sizes)()
    try:
        # The trial's own space is narrowed already: the cases are those of a candidate that requires nothing.
        recipes = [recipe for recipe in trial.source.killers(trial.whole_space) if sizes.fit(recipe) != recipe]
        right = [_is_right(trial, recipe) for recipe in recipes[:_CASES]]
    finally:
        trial.sizes = sizes
    return (f"requires {sizes}",) if right and all(right) else ()


def _is_right(trial: AnyTrial, recipe: object) -> bool:
    seen = trial.observe(trial.case(recipe))  # type: ignore[arg-type]
    if seen.problem is not None:
        return False
    if isinstance(trial, BuilderTrial):
        return seen.returned is not None and seen.returned.tolist() == seen.case.expected.tolist()  # type: ignore[union-attr]
    assert isinstance(trial, Trial)
    value, expected = seen.value, seen.case.oracle.value  # type: ignore[union-attr]
    return value is not None and expected is not None and same_value(value, expected, trial.bounds(seen).value)  # type: ignore[arg-type]
