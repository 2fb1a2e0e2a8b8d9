"""What part of the space of cases a run has judged, what part it had to, and recipes for what is missing.

A cell is demanded where a law that decides could judge a case of it, and the laws themselves say where that is. Their
spaces and focuses say which structures come in which setting; their judgements of the reference, put in the candidate's
place, say of which structures they speak at all. So nothing is demanded that nobody could judge, and no list is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, product
from typing import Any, Protocol

from torch import Tensor

from .builder_cases import BuilderCase
from .builder_trial import BuilderTrial, Built
from .cases import Case
from .cells import Cell, Tally
from .laws import Law, aim
from .mutants.behaviour import Asked, answer, at_leaves
from .source import R, Source
from .strategies import Space
from .trial import Observation, Trial
from .verdict import Coverage, Level, Verdict

_SEEDS = 4


class Counted(Protocol):
    """What is counted of a trial, be it of a loss or of a builder."""

    @property
    def source(self) -> Source[Any]: ...

    @property
    def space(self) -> Space: ...

    @property
    def tally(self) -> Tally[Any]: ...

    def fit(self, recipe: Any) -> Any: ...


def gaps(law: Law[Any, R], trial: Counted) -> Iterator[R]:
    """Recipes in the focus of ``law`` for the cells that it could judge and that no deciding law has.

    The next is made once the one before has been judged and noted, so that no more are made than it takes.
    """
    if law.level is not Level.MUST:
        return
    for cell, recipe in _reach(law, trial):
        for attempt in _attempts(law, trial, cell, recipe):
            if cell in trial.tally.decided:
                break
            yield attempt


def coverage(laws: Sequence[Law[Any, Any]], trial: Trial | BuilderTrial, complete: bool) -> Coverage:
    """What has been judged of all that ``laws`` could judge; ``complete`` where nothing may be missing."""
    counts: Counter[Cell] = Counter()
    advisory: Counter[Cell] = Counter()
    for law in laws:
        (counts if law.level is Level.MUST else advisory).update(trial.tally.by_law.get(law.id, ()))
    for cell in _missing(laws, trial, exact=complete and not trial.failed):
        counts[cell] = 0
    return Coverage(
        {str(cell): counts[cell] for cell in sorted(counts)},
        {str(cell): advisory[cell] for cell in sorted(advisory)},
        due_after=len(laws) if complete else None,
    )


def _missing(laws: Iterable[Law[Any, Any]], trial: Trial | BuilderTrial, exact: bool) -> set[Cell]:
    """The cells that no deciding law has judged and one could.

    Where the verdict hangs on it, it is found out by ``exact`` that cell. Otherwise a law that speaks of a structure in
    one setting is taken to do so in all that it is asked in: a few cells may then be too many, in which no bound tells.
    """
    missing: set[Cell] = set()
    unsure: list[tuple[Law[Any, Any], Cell, Any]] = []
    for law in laws:
        if law.level is not Level.MUST or trial.excuse(law.id) or law.excuse(trial):
            continue
        spoken = set() if exact else {cell.structure for cell in trial.tally.by_law.get(law.id, ())}
        for cell, recipe in _reach(law, trial):
            if cell in trial.tally.decided:
                continue
            if cell.structure in spoken:
                missing.add(cell)
            else:
                unsure.append((law, cell, recipe))
    right = _RightLoss(trial) if isinstance(trial, Trial) else _RightBuilder(trial)
    speaks: dict[tuple[str, str], bool] = {}
    for law, cell, recipe in unsure:
        if cell in missing:
            continue
        known = law.id, str(cell) if exact else cell.structure
        if known not in speaks:
            # Of what structures a law speaks is no matter of size.
            recipes = _attempts(law, trial, cell, recipe) if exact else _seeded(law, trial, _sized_down(recipe))
            judgements = (law.check(right, attempt) for attempt in recipes)
            speaks[known] = any(each.verdict not in (Verdict.SKIP, Verdict.VACUOUS) for each in judgements)
        if speaks[known]:
            missing.add(cell)
    return missing


def _reach(law: Law[Any, R], trial: Counted) -> Iterator[tuple[Cell, R]]:
    """Every cell that ``law`` can be asked about, each with a recipe, not yet in focus, that is of it."""
    space = law.narrow(trial.space)
    structures: dict[str, R] = {}
    for recipe in _variety(space, trial.source, law.large):
        focused = aim(law, trial, recipe)
        for cell in trial.tally.sort(focused) if focused is not None else ():
            structures.setdefault(cell.structure, recipe)
    names = [name for name in trial.source.settings if name in space]
    for values in product(*(dict.fromkeys(space[name]) for name in names)):
        given: dict[str, Any] = dict(zip(names, values, strict=True))
        setting: tuple[str, ...] | None = None  # the same for all structures, after the law's focus
        for structure, recipe in structures.items():
            changed = replace(recipe, **given)
            if setting is None:
                focused = aim(law, trial, changed)
                if focused is None:
                    break  # the law is not about this setting
                setting = trial.tally.sort(focused)[0][1:]
            yield Cell(structure, *setting), changed


def _variety(space: Space, source: Source[R], large: bool) -> Iterator[R]:
    """Every structure that a space has: a simple recipe with room for it, and that with one field changed at a time."""
    simplest: dict[str, tuple[Any, ...]] = {name: values[:1] for name, values in space.items()}
    roomy = {name: (max(space[name]),) for name in ("rows", "length") if name in space}
    middle = {name: (space[name][len(space[name]) // 2],) for name in ("classes", "vocab") if name in space}
    base = next(source.plain({**simplest, **roomy, **middle}, 0))
    yield base
    for name in space.keys() - {"seed", "dtype", *source.settings}:
        for value in space[name]:
            changed: dict[str, Any] = {name: value}
            yield replace(base, **changed)
    yield from source.large({**simplest, "classes": space["classes"]}, 0) if large else ()


def _attempts(law: Law[Any, R], trial: Counted, cell: Cell, recipe: R) -> Iterator[R]:
    """Recipes of a cell in the law's focus, some small: in one or another the bounds may tell nothing."""
    for attempt in chain(_seeded(law, trial, recipe), _seeded(law, trial, _sized_down(recipe))):
        if cell in trial.tally.sort(attempt):
            yield attempt


def _seeded(law: Law[Any, R], trial: Counted, recipe: R) -> Iterator[R]:
    """A recipe under several seeds, in the law's focus."""
    for seed in range(_SEEDS):
        focused = aim(law, trial, replace(recipe, seed=seed))
        if focused is not None:
            yield focused


def _sized_down(recipe: R) -> R:
    most = {"rows": 3, "length": 8, "classes": 32}
    sizes = {name: getattr(recipe, name) for name in most if hasattr(recipe, name)}
    fewer: dict[str, Any] = {name: min(size, most[name]) for name, size in sizes.items()}
    return replace(recipe, **fewer)


class _RightLoss(Trial):
    """The trial of a loss that answers as the reference does, under the terms of another."""

    def __init__(self, of: Trial) -> None:
        super().__init__(of.candidate, of.spec, of.binding, of.caller, dtype=of.dtype, device=of.device)

    def observe(
        self, case: Case, upstream: float | Tensor = 1.0, grad_mode: str = "enabled", backwards: int = 1
    ) -> Observation:
        right = answer(Asked(case, upstream, grad_mode, backwards))
        return at_leaves(right, self.linear(case)) if self.is_linear else right


class _RightBuilder(BuilderTrial):
    """The trial of a builder that answers as the reference does, under the terms of another."""

    def __init__(self, of: BuilderTrial) -> None:
        super().__init__(of.candidate, of.spec, of.binding, of.caller, device=of.device)

    def observe(self, case: BuilderCase) -> Built:
        return Built(case, None, case.expected)
