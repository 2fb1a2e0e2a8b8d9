"""The part of the space of cases that a run has judged, the part that it must judge, and recipes for missing cells.

A cell is demanded if a MUST law could judge a case of it. The laws themselves define these cells. Their spaces and
focuses give the structures that occur in each setting. To find the structures to which a law applies, the law judges
the reference in the candidate's place. So no cell is demanded that cannot be judged, and no list of cells is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, product
from typing import Any, Protocol

from ..candidates.loss import Observation, Trial
from ..candidates.variant import Asked
from ..cases.cells import Cell, CellCounts
from ..cases.generators import Generators, R
from ..cases.sizes import LETTERS, every_pair
from ..cases.space import Space
from ..label_builders.candidate import BuilderTrial, Built
from ..label_builders.cases import BuilderCase
from ..laws import Law, adapt_to
from ..mutants.behaviour import answer, at_leaves
from ..results import Coverage, Level, Verdict

_SEEDS = 4


class Counted(Protocol):
    """The part of a trial, of a loss or of a builder, that coverage uses."""

    @property
    def generators(self) -> Generators[Any]: ...

    @property
    def space(self) -> Space: ...

    @property
    def cell_counts(self) -> CellCounts[Any]: ...

    def fit(self, recipe: Any) -> Any: ...


def gaps(law: Law[Any, R], trial: Counted) -> Iterator[R]:
    """Yield recipes in the focus of ``law`` for the cells that it could judge and that no MUST law has judged.

    The caller must judge and note each recipe before it takes the next one. So no more are made than are needed.
    """
    if law.level is not Level.MUST:
        return
    for cell, recipe in _reach(law, trial):
        for attempt in _attempts(law, trial, cell, recipe):
            if cell in trial.cell_counts.decided:
                break
            yield attempt


def coverage(laws: Sequence[Law[Any, Any]], trial: Trial | BuilderTrial, complete: bool) -> Coverage:
    """The coverage of the cells that ``laws`` could judge. ``complete`` means that no cell may be missing."""
    counts: Counter[Cell] = Counter()
    advisory: Counter[Cell] = Counter()
    for law in laws:
        (counts if law.level is Level.MUST else advisory).update(trial.cell_counts.by_law.get(law.id, ()))
    for cell in _missing(laws, trial, exact=complete and not trial.failed):
        counts[cell] = 0
    sizes = trial.cell_counts.sizes
    return Coverage(
        {str(cell): counts[cell] for cell in sorted(counts)},
        {str(cell): advisory[cell] for cell in sorted(advisory)},
        {f"{one} × {other}": sizes[one, other] for one, other in sorted({*every_pair(trial.whole_space), *sizes})},
        {LETTERS[axis]: size for axis, size in trial.cell_counts.largest.items() if axis in trial.space},
        due_after=len(laws) if complete else None,
    )


def _missing(laws: Iterable[Law[Any, Any]], trial: Trial | BuilderTrial, exact: bool) -> set[Cell]:
    """The cells that a MUST law could judge and that none has judged.

    If ``exact``, as the verdict needs it, the laws try every cell. If not, a law that applies to a structure in one
    setting is assumed to apply to it in every setting in which it is asked. Then the result may have a few cells too
    many, in which the bounds prove nothing.
    """
    missing: set[Cell] = set()
    unsure: list[tuple[Law[Any, Any], Cell, Any]] = []
    for law in laws:
        if law.level is not Level.MUST or trial.skip_reason(law.id) or law.skip_reason(trial):
            continue
        spoken = set() if exact else {cell.structure for cell in trial.cell_counts.by_law.get(law.id, ())}
        for cell, recipe in _reach(law, trial):
            if cell in trial.cell_counts.decided:
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
            # Whether a law applies to a structure does not depend on size.
            recipes = _attempts(law, trial, cell, recipe) if exact else _seeded(law, trial, _sized_down(recipe))
            judgements = (law.check(right, attempt) for attempt in recipes)
            speaks[known] = any(each.verdict not in (Verdict.SKIP, Verdict.VACUOUS) for each in judgements)
        if speaks[known]:
            missing.add(cell)
    return missing


def _reach(law: Law[Any, R], trial: Counted) -> Iterator[tuple[Cell, R]]:
    """Yield every cell that ``law`` can reach, each with a recipe for it that is not yet in the law's focus."""
    space = law.restrict(trial.space)
    structures: dict[str, R] = {}
    for recipe in _variety(space, trial.generators):
        focused = adapt_to(law, trial, recipe)
        for cell in trial.cell_counts.sort(focused) if focused is not None else ():
            structures.setdefault(cell.structure, recipe)
    names = [name for name in trial.generators.settings if name in space]
    for values in product(*(dict.fromkeys(space[name]) for name in names)):
        given: dict[str, Any] = dict(zip(names, values, strict=True))
        setting: tuple[str, ...] | None = None  # the same for all structures, after the law's focus
        for structure, recipe in structures.items():
            changed = replace(recipe, **given)
            if setting is None:
                focused = adapt_to(law, trial, changed)
                if focused is None:
                    break  # the law is not about this setting
                setting = trial.cell_counts.sort(focused)[0][1:]
            yield Cell(structure, *setting), changed


def _variety(space: Space, generators: Generators[R]) -> Iterator[R]:
    """Yield recipes that show every structure of a space: a large simple one, and that with one field changed."""
    simplest: dict[str, tuple[Any, ...]] = {name: values[:1] for name, values in space.items()}
    roomy = {name: (max(space[name]),) for name in ("rows", "length") if name in space}
    middle = {name: (space[name][len(space[name]) // 2],) for name in ("classes", "vocab") if name in space}
    base = next(generators.random_recipes({**simplest, **roomy, **middle}, 0))
    yield base
    for name in space.keys() - {"seed", *generators.settings}:
        for value in space[name]:
            changed: dict[str, Any] = {name: value}
            yield replace(base, **changed)


def _attempts(law: Law[Any, R], trial: Counted, cell: Cell, recipe: R) -> Iterator[R]:
    """Recipes of a cell in the law's focus, some of them small. The bounds of a single one might prove nothing."""
    for attempt in chain(_seeded(law, trial, recipe), _seeded(law, trial, _sized_down(recipe))):
        if cell in trial.cell_counts.sort(attempt):
            yield attempt


def _seeded(law: Law[Any, R], trial: Counted, recipe: R) -> Iterator[R]:
    """A recipe under several seeds, in the law's focus."""
    for seed in range(_SEEDS):
        focused = adapt_to(law, trial, replace(recipe, seed=seed))
        if focused is not None:
            yield focused


def _sized_down(recipe: R) -> R:
    most = {"rows": 3, "length": 8, "classes": 32}
    sizes = {name: getattr(recipe, name) for name in most if hasattr(recipe, name)}
    fewer: dict[str, Any] = {name: min(size, most[name]) for name, size in sizes.items()}
    return replace(recipe, **fewer)


class _RightLoss(Trial):
    """The trial of a loss that answers as the reference does, in place of another trial's candidate."""

    def __init__(self, of: Trial) -> None:
        super().__init__(of.candidate, of.spec, of.binding, of.caller, dtypes=of.dtypes, device=of.device)

    def answer(self, asked: Asked) -> Observation:
        right = answer(asked)
        return at_leaves(right, self.linear(asked.case)) if self.is_linear else right


class _RightBuilder(BuilderTrial):
    """The trial of a builder that answers as the reference does, in place of another trial's candidate."""

    def __init__(self, of: BuilderTrial) -> None:
        super().__init__(of.candidate, of.spec, of.binding, of.caller, device=of.device)

    def observe(self, case: BuilderCase) -> Built:
        return Built(case, None, case.expected)
