"""Name the bug of a label builder: compare its output with the output of every known-wrong builder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from shiftproof.reference.builders import BuilderSpec

from ..mutants.symptoms import SYMPTOMS
from ..results import Comparison, LawResult, NamedBug, Verdict
from .candidate import BuilderTrial
from .cases import BuilderCase, BuilderRecipe, hand_made, random_recipes
from .laws import BUILDER_LAWS
from .mutants import mutants_of
from .picture import draw

_CASES = 60


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a builder built for one case."""

    case: BuilderCase
    found: Tensor


def gather(trial: BuilderTrial) -> list[Evidence]:
    """Return the output for a bank of cases that separate bugs. Cases without output are left out."""
    bank = list(dict.fromkeys([*hand_made(trial.space), *islice(random_recipes(trial.space, 1), _CASES)]))
    observed = (trial.observe_cached(recipe) for recipe in bank[:_CASES])
    return [Evidence(built.case, built.returned.long()) for built in observed if built.returned is not None]


def name_builder_bugs(results: Iterable[LawResult], trial: BuilderTrial) -> tuple[NamedBug, ...]:
    """Return the one bug that explains the findings: a mutant with the same output, or the bug of a law that fails."""
    return name_by_labels(gather(trial), trial.spec) or name_by_law(results)


def name_by_labels(evidence: list[Evidence], spec: BuilderSpec) -> tuple[NamedBug, ...]:
    """Return the mutants that build the same on all of the evidence, as one bug with its equivalents."""
    if not evidence or all(each.found.equal(each.case.expected) for each in evidence):
        return ()
    found = [
        (mutant, detail)
        for mutant in mutants_of(spec)
        for detail in mutant.details
        if all(each.found.equal(mutant.wrong(spec, each.case.batch, detail)) for each in evidence)
    ]
    if not found:
        return ()
    (mutant, detail), *others = found
    also = tuple(dict.fromkeys(other.name for other, _ in others if other.name != mutant.name))
    return (NamedBug(mutant.name, 1.0, detail, mutant.formula, mutant.seen, also),)


def name_by_law(results: Iterable[LawResult]) -> tuple[NamedBug, ...]:
    """Return the bug that does not show in the labels, but in the one law that fails."""
    failing = [result.id for result in results if result.verdict.is_failure]
    suggested = BUILDER_LAWS[failing[0]].points_to if len(failing) == 1 else ()
    return tuple(
        NamedBug(name, 1.0, f"{failing[0]} fails", SYMPTOMS[name].formula, SYMPTOMS[name].seen) for name in suggested
    )


def compare(results: Iterable[LawResult], trial: BuilderTrial) -> Comparison | None:
    """Draw expected against found on the first counterexample whose labels are wrong."""
    for result in results:
        if result.counterexample is None or result.verdict is not Verdict.FAIL:
            continue
        built = trial.observe_cached(BuilderRecipe.from_json(result.counterexample.recipe))
        if built.returned is not None and not built.returned.long().equal(built.case.expected):
            return draw(built.case, built.returned)
    return None
