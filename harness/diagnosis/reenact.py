"""Hold a name against what the laws found: the bug, re-enacted, must fail where the candidate fails, and only there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from shiftproof.reference.spec import LossSpec

from ..candidates.loss import Observation, Trial
from ..candidates.variant import Asked
from ..cases.recipe import Recipe
from ..laws import LAWS
from ..laws.base import NOT_FINITE, adapt_to
from ..mutants import MUTANTS, BugVariant
from ..mutants.behaviour import Act, answer, at_leaves
from ..mutants.behaviours import BEHAVIOURS
from ..results import LawResult, Level, NamedBug, Verdict
from .evidence import variants_of


class _Unsaid(Exception):
    """The bug says nothing of a case."""


class _Reenacted(Trial):
    """A trial whose candidate is a bug. It remembers nothing of the real one."""

    def __init__(self, trial: Trial, act: Act) -> None:
        super().__init__(
            trial.candidate, trial.spec, trial.binding, trial.caller, dtypes=trial.dtypes, device=trial.device
        )
        self.compiles = trial.compiles
        self._act = act

    def answer(self, asked: Asked) -> Observation:
        seen = self._act(asked)
        return at_leaves(seen, self.linear(asked.case)) if self.is_linear else seen


def held_against_the_laws(
    names: tuple[NamedBug, ...], laws: tuple[LawResult, ...], trial: Trial
) -> tuple[NamedBug, ...]:
    """Return the name of one bug, unless what the laws found speaks against it.

    A bug that is known to the last number must fail the law that the report shows, on the case that it shows, and no
    law that the candidate keeps there. What failed besides, such as an exception, and is no work of the bug, is told
    with the name. A bug that is named by the law that fails must fail it in one of its forms, with NaN if the candidate
    has NaN, and explain every other wrong answer. Two bugs, and those of models and trainers, are not re-enacted.
    """
    results = [law for law in laws if law.level is Level.MUST and law.verdict in (Verdict.FAIL, Verdict.ERROR)]
    failing = [(law, Recipe.from_json(law.counterexample.recipe)) for law in results if law.counterexample]
    if len(names) != 1 or type(trial) is not Trial or not failing:
        return names
    [bug] = names
    wrong = [(law.id, recipe) for law, recipe in failing if law.verdict is Verdict.FAIL]
    if exact := [_Reenacted(trial, act) for act in _exact(bug, trial.spec)]:
        if wrong:
            held = [law.id for law in laws if law.level is Level.MUST and law.verdict is Verdict.PASS]
            exact = [each for each in exact if _fails(*wrong[0], each) and not _breaks(held, wrong[0][1], trial, each)]
        besides = ([law.id for law, recipe in failing if not _fails(law.id, recipe, each)] for each in exact)
        fewest = min(besides, key=len, default=None)
        return () if fewest is None else (_with(bug, fewest),)
    if not wrong:
        return names
    shown, *others = wrong
    forms = [each.act for each in BEHAVIOURS if each.name == bug.mutant and each.needs(trial.spec) is None]
    if bug.detail.removesuffix(" fails") not in LAWS or not forms:
        return names
    others = [(id, recipe) for id, recipe in others if bug.mutant not in LAWS[id].points_to]
    explained = (
        _fails_alike(*shown, trial, form) and all(_fails(*other, form) for other in others)
        for form in (_Reenacted(trial, act) for act in forms)
    )
    return names if any(explained) else ()


def _exact(bug: NamedBug, spec: LossSpec) -> list[Act]:
    """The ways to re-enact a bug whose variant is its detail."""
    if bug.mutant in MUTANTS:
        variants = [each for each in variants_of(bug.mutant, spec) if each.detail == bug.detail]
        return [partial(_paired, variant) for variant in variants]
    return [each.act for each in BEHAVIOURS if (each.name, each.detail) == (bug.mutant, bug.detail)]


def _paired(variant: BugVariant, asked: Asked) -> Observation:
    wrong = variant.wrong(asked.case.spec, asked.case.batch)
    if wrong is None:
        raise _Unsaid
    return answer(asked, wrong)


def _with(bug: NamedBug, besides: list[str]) -> NamedBug:
    if not besides:
        return bug
    told = f"{', '.join(besides)} {'fails' if len(besides) == 1 else 'fail'} for another reason"
    return replace(bug, detail="; ".join(filter(None, (bug.detail, told))))


def _fails(id: str, recipe: Recipe, reenacted: Trial) -> bool:
    """Return whether a bug fails a law on a case, as far as it says anything of the case."""
    try:
        return LAWS[id].check(reenacted, recipe).verdict.is_failure
    except _Unsaid:
        return True


def _fails_alike(id: str, recipe: Recipe, trial: Trial, reenacted: Trial) -> bool:
    """Return whether a bug fails a law on a case as the candidate does: both with NaN or infinity, or neither."""
    found, expected = LAWS[id].check(trial, recipe), LAWS[id].check(reenacted, recipe)
    alike = (NOT_FINITE in found.features) == (NOT_FINITE in expected.features)
    return found.verdict is expected.verdict and alike


def _breaks(held: Iterable[str], recipe: Recipe, trial: Trial, reenacted: Trial) -> bool:
    """Return whether the bug would fail laws, judged on one answer, that the candidate keeps on the same case."""
    for id in held:
        law = LAWS[id]
        if law.calls_again or adapt_to(law, trial, recipe) != recipe:
            continue
        try:
            broken = law.check(reenacted, recipe).verdict is Verdict.FAIL
        except _Unsaid:
            continue
        if broken and law.check(trial, recipe).verdict is Verdict.PASS:
            return True
    return False
