"""Where alone a loss fails that is right on the bank of cases: a state or form of a call, or sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..candidates.loss import Trial
from ..cases.recipe import Ids, Mask, Recipe
from ..cases.sizes import sizes_of
from ..laws import LAWS
from ..laws.alignment import calm
from ..laws.base import OnVariants
from ..results import LawResult, Level, Verdict
from .evidence import Evidence, gather
from .name_by_score import has_right_score

_MOST_PLACES, _MOST_ELEMENTS = 6000, 4_000_000  # of a case on which every known bug is tried


@dataclass(frozen=True)
class State:
    """A state or form of a call, in words; the dtype whose precision it has; and what a loss did in it."""

    words: str
    dtype: str
    evidence: list[Evidence]


def where_it_fails(laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence]) -> State | None:
    """Return where alone a loss fails whose values and gradients on the bank, the ``evidence``, are right."""
    laws = tuple(laws)
    if not has_right_score(evidence, trial.dtypes[0]):
        return None
    return _state_that_fails(laws, trial) or _sizes_that_fail(laws, trial)


def _state_that_fails(laws: Iterable[LawResult], trial: Trial) -> State | None:
    """Return the state or form of a call in which alone a loss fails.

    Return None if a plain call shows the failure that the report shows, or if nothing can be read.
    """
    worst = next((law for law in laws if law.verdict.is_failure and law.level is Level.MUST), None)
    if worst is None or worst.counterexample is None or not trial.candidate.gradient:
        return None
    check = LAWS[worst.id].check
    if not isinstance(check, OnVariants):
        return None
    recipe = Recipe.from_json(worst.counterexample.recipe)
    variant = check.failing_variant(trial, recipe)
    if variant is None:
        return None
    case = trial.observe_cached(recipe, variant).case
    words = variant.name if variant.words is None else variant.words(case)
    evidence, _ = gather(trial, variant=variant, law=LAWS[worst.id])
    return State(words, variant.manner(case).autocast or trial.dtypes[0], evidence)


def _sizes_that_fail(laws: Iterable[LawResult], trial: Trial) -> State | None:
    """Return the sizes of the counterexample, with the evidence from cases of these sizes.

    The bank of cases is small, and a loss may be wrong at other sizes alone. Return None if the counterexample is too
    large to try every known bug on it, or is not one of a plain call.
    """
    shown = (law for law in laws if law.level is Level.MUST and law.counterexample is not None)
    worst = next(shown, None)
    if worst is None or worst.verdict is not Verdict.FAIL or not trial.candidate.gradient or trial.makes_logits:
        return None
    assert worst.counterexample is not None
    recipe = Recipe.from_json(worst.counterexample.recipe)
    places = recipe.rows * recipe.length * recipe.codebooks
    if isinstance(LAWS[worst.id].check, OnVariants) or places > _MOST_PLACES or recipe.size > _MOST_ELEMENTS:
        return None
    like = [
        replace(calm(recipe), masks=masks, ids=Ids.SEEDED, seed=recipe.seed + seed)
        for seed, masks in enumerate(((Mask.NONE,), (Mask.NONE, Mask.HOLES), (Mask.PADDING, Mask.NONE)))
    ]
    sizes = {name: size for name, size in sizes_of(recipe).items() if len(trial.space.get(name, ())) > 1}
    words = "where " + ", ".join(f"{name}={size}" for name, size in sizes.items())
    return State(words, trial.dtypes[0], gather(trial, recipes=like)[0])
