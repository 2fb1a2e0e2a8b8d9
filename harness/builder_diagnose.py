"""Naming the bug of a label builder: what it built, compared with what every known-wrong builder would have built."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from shiftproof.reference.builders import BuilderSpec

from .builder_cases import BuilderCase, BuilderRecipe, killers, plain
from .builder_picture import draw
from .builder_trial import BuilderTrial
from .laws import BUILDER_LAWS
from .mutants.builders import mutants_of
from .mutants.symptoms import SYMPTOMS
from .verdict import Comparison, LawResult, NamedBug, Verdict

_CASES = 60


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a builder was seen to build of one case."""

    case: BuilderCase
    found: Tensor


def gather(trial: BuilderTrial) -> list[Evidence]:
    """What is built of a bank of telling cases, as far as anything is."""
    bank = list(dict.fromkeys([*killers(trial.space), *islice(plain(trial.space, 1), _CASES)]))
    seen = (trial.look(recipe) for recipe in bank[:_CASES])
    return [Evidence(built.case, built.returned.long()) for built in seen if built.returned is not None]


def name_builder_bugs(results: Iterable[LawResult], trial: BuilderTrial) -> tuple[NamedBug, ...]:
    """The one bug that explains all that was found: a mutant that builds the same, or what the one broken law says."""
    return name_by_labels(gather(trial), trial.spec) or name_by_law(results)


def name_by_labels(evidence: list[Evidence], spec: BuilderSpec) -> tuple[NamedBug, ...]:
    """The mutants that build the same on all of the evidence: one bug, and which others it cannot be told from."""
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
    """The bug that shows not in the labels but in the one law that fails."""
    failing = [result.id for result in results if result.verdict.is_failure]
    suggested = BUILDER_LAWS[failing[0]].suggests if len(failing) == 1 else ()
    return tuple(
        NamedBug(name, 1.0, f"{failing[0]} fails", SYMPTOMS[name].formula, SYMPTOMS[name].seen) for name in suggested
    )


def compare(results: Iterable[LawResult], trial: BuilderTrial) -> Comparison | None:
    """Expected against found on the first counterexample whose labels are wrong."""
    for result in results:
        if result.counterexample is None or result.verdict is not Verdict.FAIL:
            continue
        built = trial.look(BuilderRecipe.from_json(result.counterexample.recipe))
        if built.returned is not None and not built.returned.long().equal(built.case.expected):
            return draw(built.case, built.returned)
    return None
