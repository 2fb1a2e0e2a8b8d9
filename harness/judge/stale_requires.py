"""Whether a candidate still needs the sizes that it is declared to require."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bounds.compare import same_value
from ..candidates.loss import Trial
from ..label_builders.candidate import BuilderTrial

if TYPE_CHECKING:
    from .loading import AnyTrial

_CASES = 3


def unneeded(trial: AnyTrial) -> tuple[str, ...]:
    """The requirement, in words, if the candidate does not need it, and else nothing.

    The test are the first hand-made cases that do not meet the requirement. A candidate that refuses one of them or is
    wrong on one needs the requirement.
    """
    sizes, trial.sizes = trial.sizes, type(trial.sizes)()
    try:
        # The trial's own space is already restricted. These cases are those of a candidate without requirements.
        recipes = [recipe for recipe in trial.generators.hand_made(trial.whole_space) if sizes.fit(recipe) != recipe]
        right = [_is_right(trial, recipe) for recipe in recipes[:_CASES]]
    finally:
        trial.sizes = sizes
    return (f"requires {sizes}",) if right and all(right) else ()


def _is_right(trial: AnyTrial, recipe: object) -> bool:
    found = trial.observe(trial.case(recipe))  # type: ignore[arg-type]
    if found.problem is not None:
        return False
    if isinstance(trial, BuilderTrial):
        return found.returned is not None and found.returned.tolist() == found.case.expected.tolist()  # type: ignore[union-attr]
    assert isinstance(trial, Trial)
    value, expected = found.value, found.case.oracle.value  # type: ignore[union-attr]
    return value is not None and expected is not None and same_value(value, expected, trial.bounds(found).value)  # type: ignore[arg-type]
