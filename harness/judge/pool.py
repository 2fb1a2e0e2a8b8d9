"""The cases of one trial, which its laws share: a case is called once, and judged by every law that covers it.

Laws with the same focus form a group. Each group has its own cases: hand-made ones first, then some that Hypothesis
draws, the rest from a plain loop over a seed, some at sizes beyond the ordinary ones, and one for each region of the
candidate's own code. A law is asked about its group's own cases, and about the drawn cases of other groups that are in
its focus too. So a group needs fewer cases of its own, the more of the others' it covers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

from ..cases.draw import drawn_by_hypothesis
from ..cases.generators import R
from ..cases.recipe import digest
from ..cases.sizes import Sizes, affordable, cover
from ..cases.space import Space
from ..laws import Law, adapt_to
from ..laws.base import any_recipe, whole_space
from .on_trial import OnTrial
from .profile import Profile

T = TypeVar("T", bound=OnTrial)

_BY_HAND = 0.75  # the part of a group's cases that hand-made ones may fill, so that a brief run draws too
_OWN = 0.7  # the part of a group's cases that are its own, however many of the others' it covers
_BY_HYPOTHESIS = 1 / 3  # of the drawn cases; a draw costs a hundred times as much as one of the plain loop
OF_SIZES = 25_000  # elements of logits in cases beyond the ordinary sizes, for each case of a group's budget
MOST_OF_ONE = 16_000_000  # elements of logits in one case
_TRIES = 6  # draws per case that is wanted; several draws may have the same case in a law's focus


@dataclass
class _Group(Generic[T, R]):
    """Laws with one focus, and the cases that are made for them."""

    laws: list[Law[T, R]]
    hand_made: list[R] = field(default_factory=list)
    drawn: list[R] = field(default_factory=list)
    beyond: list[R] = field(default_factory=list)
    regions: list[R] = field(default_factory=list)
    others: list[R] | None = None

    @property
    def first(self) -> Law[T, R]:
        return self.laws[0]


class Pool(Generic[T, R]):
    """The cases of ``laws`` for ``trial``, as many as ``profile`` asks for, from ``seed``.

    ``drawn_only`` leaves out the hand-made ones.
    """

    def __init__(
        self, laws: Mapping[str, Law[T, R]], trial: T, profile: Profile, seed: int, drawn_only: bool = False
    ) -> None:
        self._of = ref(trial)  # a pool lives as long as its trial, and must not be what keeps the trial alive
        self._by_hand = 0.0 if drawn_only else _BY_HAND
        self._factor = profile.factor * trial.share
        self._seed = int(digest("pool", str(seed)), 16)
        self._cases: dict[str, list[R]] = {}
        self._others: dict[str, frozenset[R]] = {}
        self._groups: dict[object, _Group[T, R]] = {}
        for law in laws.values():
            if not (trial.skip_reason(law.id) or law.skip_reason(trial)):
                self._groups.setdefault(_focus(law), _Group([])).laws.append(law)
        self._hypothesis = drawn_by_hypothesis(
            trial.generators.recipes(trial.space), self._wanted_of_hypothesis(), self._seed
        )
        self._sizes = self._beyond_ordinary(profile)
        # Narrow focuses first: the wide ones cover their cases.
        for group in sorted(self._groups.values(), key=lambda group: _width(group.first)):
            self._fill(group)

    @property
    def _trial(self) -> T:
        trial = self._of()
        assert trial is not None, "the trial of this pool is gone"
        return trial

    def of(self, law: Law[T, R], *, by_hand: bool = False) -> list[R]:
        """The cases that ``law`` is asked about, its group's own first. With ``by_hand``, its own hand-made ones."""
        group = self._groups.get(_focus(law))
        if group is None or law not in group.laws:
            group = self._groups[_focus(law)] = _Group([law])
            self._fill(group)
        if by_hand:
            return list(group.hand_made)
        if law.id not in self._cases:
            others = self._of_others(group)
            own = [*group.hand_made, *group.drawn]
            every = list(dict.fromkeys([*own, *others]))
            self._others[law.id] = frozenset(every) - frozenset(own)
            chosen = _spread(every, self._budget(law)) if law.calls_again else every
            chosen = [*chosen, *self._in_missing_dtypes(law, chosen)]
            self._cases[law.id] = list(dict.fromkeys([*chosen, *group.regions, *group.beyond]))
        return self._cases[law.id]

    def _in_missing_dtypes(self, law: Law[T, R], chosen: list[R]) -> Iterator[R]:
        """The first case in each dtype that none has: a law with few cases is asked in all dtypes of the trial too."""
        had = {getattr(recipe, "dtype", None) for recipe in chosen}
        for dtype in law.restrict(self._trial.space).get("dtype", ()) if chosen else ():
            if dtype not in had:
                changed: dict[str, Any] = {"dtype": dtype}
                yield from self._focused(law, [replace(chosen[0], **changed)])

    def _of_others(self, group: _Group[T, R]) -> list[R]:
        """The cases of all other groups that are in the focus of this one."""
        if group.others is None:
            rest = [other for other in self._groups.values() if other is not group]
            group.others = self._covered(group.first, rest)
        return group.others

    def is_others(self, law: Law[T, R], recipe: R) -> bool:
        """Whether a case was made for another group, and not for the law's own."""
        return recipe in self._others.get(law.id, ())

    def may_be_left_out(self, law: Law[T, R], recipe: R) -> bool:
        """Whether a case is at a size beyond the ordinary ones that the candidate's own code does not need."""
        group = self._groups[_focus(law)]
        return recipe in group.beyond and recipe not in group.regions

    def _budget(self, *laws: Law[T, R]) -> int:
        """How many cases laws get. At least one: a law without a case would be skipped, and could not fail."""
        return max(1, round(max(law.budget for law in laws) * self._factor))

    def _wanted_of_hypothesis(self) -> int:
        budgets = [self._budget(*group.laws) for group in self._groups.values()]
        return round(max(budgets, default=0) * _BY_HYPOTHESIS)

    def _fill(self, group: _Group[T, R]) -> None:
        budget = self._budget(*group.laws)
        law, trial = group.first, self._trial
        space = law.restrict(trial.space)
        made = self._focused(law, trial.generators.hand_made(space))
        group.hand_made = list(islice(made, round(budget * self._by_hand)))
        covered = self._covered(law, self._groups.values())
        wanted = min(budget - len(group.hand_made), max(budget - len(covered), round(budget * _OWN)))
        seed = self._seed + int(digest(law.id), 16) % (1 << 32)
        known = {*covered, *group.hand_made}
        for recipe in self._focused(law, islice(self._drawn(space, seed, budget), _TRIES * budget)):
            if len(group.drawn) >= wanted:
                break
            if recipe not in known:
                group.drawn.append(recipe)
        beyond = self._focused(law, trial.generators.placed(space, self._sizes, seed))
        more = chain(self._focused(law, trial.near_regions), affordable(beyond, budget * OF_SIZES))
        group.beyond = list(filter(trial.affords, more))
        group.regions = list(filter(trial.affords, self._focused(law, trial.regions)))

    def _beyond_ordinary(self, profile: Profile) -> list[Sizes]:
        """Sizes that no drawn case has, for all groups. Each takes as many as its budget lets."""
        if not (profile.varies_sizes and self._groups):
            return []
        budget = max(self._budget(*group.laws) for group in self._groups.values()) * OF_SIZES
        return cover(self._trial.space, budget, self._seed, most=MOST_OF_ONE, most_places=self._trial.most_places)

    def _drawn(self, space: Space, seed: int, budget: int) -> Iterator[R]:
        """Draw from a space: what Hypothesis drew from the whole space, moved into this one, and then a plain loop."""
        moved = random.Random(seed)
        narrowed = self._narrowed(space)
        for recipe in self._hypothesis[: round(budget * _BY_HYPOTHESIS)]:
            changed: dict[str, Any] = {name: moved.choice(values) for name, values in narrowed.items()}
            yield replace(recipe, **changed)
        yield from self._trial.generators.random_recipes(space, seed)

    def _focused(self, law: Law[T, R], recipes: Iterable[R]) -> Iterator[R]:
        """The recipes in the focus of a law, each once."""
        seen = set()
        for recipe in recipes:
            focused = adapt_to(law, self._trial, recipe)
            if focused is not None and focused not in seen:
                seen.add(focused)
                yield focused

    def _covered(self, law: Law[T, R], groups: Iterable[_Group[T, R]]) -> list[R]:
        """The cases of some groups that are in the focus of a law as they are."""
        return self._in_focus(law, (recipe for group in groups for recipe in (*group.hand_made, *group.drawn)))

    def _in_focus(self, law: Law[T, R], recipes: Iterable[R]) -> list[R]:
        trial, within = self._trial, self._trial.generators.within
        space = law.restrict(trial.space)
        narrowed = self._narrowed(space)
        found = []
        for recipe in recipes:
            if any(getattr(recipe, name) not in values for name, values in narrowed.items()):
                continue
            if within(recipe, space) and adapt_to(law, trial, recipe) == recipe:
                found.append(recipe)
        return found

    def _narrowed(self, space: Space) -> Space:
        """The fields of a law's space that the trial's whole space lets have other values."""
        return {name: values for name, values in space.items() if self._trial.space.get(name) != values}


def _focus(law: Law[Any, Any]) -> object:
    return law.adapt, law.restrict


_WIDEST = 3


def _width(law: Law[Any, Any]) -> int:
    """How wide the focus of a law is: whether it adapts no recipe, and restricts no space."""
    return 2 * (law.adapt is any_recipe) + (law.restrict is whole_space)


def _spread(recipes: list[R], count: int) -> list[R]:
    """Choose ``count`` of the recipes: the first ones, which were made by hand, and the other half evenly."""
    if len(recipes) <= count:
        return recipes
    first, rest = recipes[: (count + 1) // 2], recipes[(count + 1) // 2 :]
    left = count - len(first)
    return [*first, *(rest[index * len(rest) // left] for index in range(left))]


_pools: WeakKeyDictionary[Any, dict[object, Pool[Any, Any]]] = WeakKeyDictionary()


def pool_of(laws: Mapping[str, Law[T, R]], trial: T, profile: Profile, seed: int) -> Pool[T, R]:
    """The pool of a trial that is asked some laws. It is made once."""
    made = _pools.setdefault(trial, {})
    key = profile, seed, tuple(laws.values())
    if key not in made:
        made[key] = Pool(laws, trial, profile, seed)
    return made[key]
