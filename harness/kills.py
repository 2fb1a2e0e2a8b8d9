"""The proof that the judge is right: every known-wrong loss is put on trial, and it is counted how soon it fails.

A mutant is tried without a worker: what it would have answered is computed from the case. Laws and cases are those of
``check``. Each law is asked its first case, then each its second, and so on, until one fails: so the law that needs the
fewest cases of its own is found, and no more is judged than that takes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pairing, build_pairing
from shiftproof.reference.profiles import PROFILES as SPECS
from shiftproof.reference.spec import LOGITS, LossSpec

from .arguments import ARGUMENTS, Binding
from .candidate import Candidate
from .cases import Case, build_batch, build_case
from .compare import Bounds, derive_bounds
from .diagnose import name_bugs
from .easy import easy_inputs, right_on
from .evidence import gather
from .judge import PROFILES, Failure, Profile, cases_of, judged, shrunk
from .kill_table import Fate, KillTable, Tried
from .laws import LAWS, Judgement, Law, aim
from .mutants import MUTANTS, Variant
from .mutants.behaviour import Act, Asked, answer, at_leaves, computed
from .mutants.behaviours import BEHAVIOURS
from .mutants.scores import SCORES, ScoreMutant
from .mutants.views import variants_under
from .probe import predict
from .recipe import Recipe
from .strategies import Space, killers, space
from .trial import Observation, Trial
from .verdict import LawResult, Level, Verdict
from .worker.exchange import Call, Outcome

_BINDING = Binding({name: name for name in ARGUMENTS}, frozenset())
_LINEAR = Binding({name: name for name in ARGUMENTS if name not in LOGITS}, frozenset())
_KEPT = 100_000  # elements of logits up to which a case is kept, with all that belongs to it


@dataclass(frozen=True)
class Subject:
    """One way of writing one bug: as wrong pairs, a wrong score, or a whole behaviour. ``act`` is what it answers;
    ``linear`` says that it is given hidden states and a weight in place of logits."""

    name: str
    detail: str
    act: Act
    dtype: str = "float32"
    variant: Variant | None = None
    reason: str = ""  # why it cannot be had
    linear: bool = False


class Bench:
    """Everything that the mutants of one spec share: its cases, their bounds, and what each law is asked."""

    def __init__(
        self, spec: LossSpec, dtype: str, profile: Profile, drawn_only: bool = False, linear: bool = False
    ) -> None:
        self.spec = spec
        self.drawn_only = drawn_only
        self.linear = linear
        self.dtype = dtype
        self.profile = profile
        self.cases: dict[Recipe, Case] = {}
        self._bounds: dict[tuple[int, torch.dtype], Bounds] = {}
        self._tapes: dict[tuple[str, int], Tape] = {}
        self.right = MutantTrial(self, "right", answer)
        self.laws = [law for law in LAWS.values() if law.level is Level.MUST and law.excuse(self.right) is None]

    def case(self, recipe: Recipe) -> Case:
        case = self.cases.get(recipe)
        if case is None:
            case = build_case(self.spec, recipe)
            if is_small(case):
                self.cases[recipe] = case
        return case

    def bounds(self, trial: Trial, observation: Observation) -> Bounds:
        case = observation.case
        if self.cases.get(case.recipe) is not case:
            return derive_bounds(case, trial.compute, observation.dtype)
        key = (id(case), observation.dtype)
        if key not in self._bounds:
            self._bounds[key] = derive_bounds(case, trial.compute, observation.dtype)
        return self._bounds[key]

    def tape(self, law: Law[Any, Any], seed: int) -> Tape:
        key = (law.id, seed)
        if key not in self._tapes:
            by_hand = set(cases_of(law, self.right, self.profile, seed, doubtful=True)) if self.drawn_only else set()
            recipes = cases_of(law, self.right, self.profile, seed)
            self._tapes[key] = Tape(recipe for recipe in recipes if recipe not in by_hand)
        return self._tapes[key]


class Tape:
    """The recipes of one law under one seed, drawn once, as far as any mutant needs them."""

    def __init__(self, source: Iterator[Recipe]) -> None:
        self._source = source
        self._drawn: list[Recipe] = []

    def __iter__(self) -> Iterator[Recipe]:
        place = 0
        while True:
            if place == len(self._drawn):
                recipe = next(self._source, None)
                if recipe is None:
                    return
                self._drawn.append(recipe)
            yield self._drawn[place]
            place += 1


def is_small(case: Case) -> bool:
    return sum(map(math.prod, case.pairing.shapes.values())) <= _KEPT


class _Nobody:
    """Stands where a worker would: a mutant's answers are computed here."""

    seconds_in_candidate = 0.0

    def call(self, call: Call) -> Outcome:
        raise AssertionError("a mutant on trial has no worker")


class MutantTrial(Trial):
    """A trial whose candidate is a mutant. It is given every argument that there is."""

    def __init__(self, bench: Bench, name: str, act: Act) -> None:
        candidate = Candidate(name=name, call=f"mutant:{name}", spec=bench.spec.name)
        binding = _LINEAR if bench.linear else _BINDING
        super().__init__(candidate, bench.spec, binding, _Nobody(), dtype=bench.dtype, device="cpu")
        self.bench = bench
        self.act = act

    def case(self, recipe: Recipe) -> Case:
        return self.bench.case(recipe)

    def observe(
        self, case: Case, upstream: float | Tensor = 1.0, grad_mode: str = "enabled", backwards: int = 1
    ) -> Observation:
        self.calls += 1
        seen = self.act(Asked(case, upstream, grad_mode, backwards))
        return at_leaves(seen, self.linear(case)) if self.is_linear else seen

    def bounds(self, observation: Observation) -> Bounds:
        return self.bench.bounds(self, observation)


def subjects(spec: LossSpec) -> list[Subject]:
    """Every known bug under ``spec``, one a way of writing it; those that cannot be had say what they need."""
    return [*_of_pairs(spec), *_of_scores(spec), *_of_behaviours(spec)]


def _of_pairs(spec: LossSpec) -> Iterator[Subject]:
    batches = [build_batch(spec, recipe) for recipe in killers(space(spec, frozenset(ARGUMENTS)))]
    for mutant in MUTANTS.values():
        had = [
            variant
            for variant in variants_under(mutant, spec)
            if any(variant.wrong(spec, batch) is not None for batch in batches)
        ]
        if not had:
            yield Subject(mutant.name, "", answer, reason=mutant.needs or mutant.tells)
        for variant in had:
            yield Subject(mutant.name, variant.detail, _over(variant), variant=variant)


def _over(variant: Variant) -> Act:
    """A loss over wrong pairs; over the right ones where a batch cannot show the bug."""

    def act(asked: Asked) -> Observation:
        return answer(asked, variant.wrong(asked.case.spec, asked.case.batch))

    return act


def _of_scores(spec: LossSpec) -> Iterator[Subject]:
    for mutant in SCORES.values():
        if any(mutant.applies(term.score) for term in spec.terms):
            yield Subject(mutant.name, "", _scoring(mutant))
        else:
            yield Subject(mutant.name, "", answer, reason=mutant.needs)


def _scoring(mutant: ScoreMutant) -> Act:
    return lambda asked: computed(asked, mutant.wrong, torch.float64)


def _of_behaviours(spec: LossSpec) -> Iterator[Subject]:
    for behaviour in BEHAVIOURS:
        reason = behaviour.needs(spec)
        yield Subject(
            behaviour.name,
            behaviour.detail,
            behaviour.act,
            behaviour.dtype,
            reason=reason or "",
            linear=behaviour.linear,
        )


def first_kill(
    trial: MutantTrial, seed: int, known: dict[tuple[str, Recipe], tuple[Recipe, Judgement]]
) -> tuple[Law[Any, Any], int, Failure[Recipe]] | None:
    """The MUST law that fails after the fewest of its cases (the first asked, of several), that number, and the
    failure. ``known`` remembers the judgements of cases that several seeds have."""
    waiting = [(law, iter(trial.bench.tape(law, seed))) for law in trial.bench.laws]
    count = 0
    while waiting:
        count += 1
        left = []
        for law, recipes in waiting:
            for recipe in recipes:
                key = (law.id, recipe)
                if key not in known:
                    known[key] = judged(law, trial, recipe)
                of, judgement = known[key]
                if judgement.verdict.is_failure:
                    return law, count, Failure(of, judgement)
                if judgement.verdict is Verdict.PASS:
                    left.append((law, recipes))
                    break
        waiting = left
    return None


def try_subject(subject: Subject, bench: Bench, seeds: Sequence[int]) -> Tried:
    """Put one mutant on trial: killed or not under every seed, and for the first, its smallest case and its name."""
    started = time.perf_counter()

    def tried(fate: Fate, **rest: Any) -> Tried:
        seconds = round(time.perf_counter() - started, 3)
        return Tried(subject.name, subject.detail, bench.spec.name, bench.dtype, fate, seconds=seconds, **rest)

    if subject.reason:
        return tried(Fate.NOT_HAD, reason=subject.reason)
    trial = MutantTrial(bench, subject.name, subject.act)
    cases = equivalent_on(subject, bench)
    if cases is not None:
        return tried(Fate.EQUIVALENT, reason=f"the same pairs and weights on all {cases} small cases")
    known: dict[tuple[str, Recipe], tuple[Recipe, Judgement]] = {}
    kills = []
    for seed in seeds:
        kill = first_kill(trial, seed, known)
        if kill is None:
            return tried(Fate.SURVIVED)
        kills.append(kill)
    law, _, failure = kills[0]
    smallest = shrunk(law, trial, failure)
    return tried(
        Fate.KILLED,
        law=law.id,
        firsts=tuple(count for _, count, _ in kills),
        counterexample=smallest.recipe.to_json(),
        size=smallest.recipe.size * smallest.recipe.codebooks,
        easy=right_on(trial, easy_inputs(trial.space)),
        named=names(subject, trial, law, failure.recipe),
    )


def names(subject: Subject, trial: MutantTrial, killer: Law[Any, Any], recipe: Recipe) -> tuple[str, ...]:
    """What the diagnosis calls a mutant, from what laws find on hand-made cases, and the killer on its own."""
    # Wrong pairs are read back; of the laws, only whether the value is right all the same is asked.
    laws = [LAWS["VALUE-1"]] if subject.variant is not None else [*LAWS.values()]
    results = [
        _on_hand_made(law, trial, (recipe,) if law is killer else ()) for law in laws if law.excuse(trial) is None
    ]
    evidence, silent = gather(trial)
    return tuple(name for bug in name_bugs(results, trial, evidence, silent) for name in (bug.mutant, *bug.also))


def _on_hand_made(law: Law[Any, Any], trial: MutantTrial, also: tuple[Recipe, ...]) -> LawResult:
    seen = set()
    verdict = Verdict.PASS
    for recipe in (*killers(law.narrow(trial.space)), *also):
        focused = aim(law, trial, recipe)
        if focused is None or focused in seen:
            continue
        seen.add(focused)
        if judged(law, trial, focused)[1].verdict.is_failure:
            verdict = Verdict.FAIL
            trial.failed.add(law.id)
            break
    return LawResult(law.id, law.title, law.level, verdict, cases=len(seen))


def _is_right_on_hand_made(variant: Variant, bench: Bench) -> bool:
    """Whether the pairs are the right ones on the cases that were made to tell bugs, as an equivalent's are."""
    spec = bench.spec
    batches = (build_batch(spec, recipe) for recipe in killers(bench.right.space))
    return all(_same_pairs(variant.wrong(spec, batch), build_pairing(spec, batch)) for batch in batches)


def equivalent_on(subject: Subject, bench: Bench) -> int | None:
    """On how many small cases a mutant is the right loss, where it is so on all there are; else None."""
    if subject.variant is None or not _is_right_on_hand_made(subject.variant, bench):
        return None
    return equal_on(subject.variant, bench.spec)


def equal_on(variant: Variant, spec: LossSpec) -> int | None:
    """On how many small cases the pairs and weights are the right ones, if they are on all there are; else None."""
    cases = small_cases(spec)
    for batch, right in cases:
        if not _same_pairs(variant.wrong(spec, batch), right):
            return None
    return len(cases)


def _same_pairs(wrong: Pairing | None, right: Pairing) -> bool:
    """Whether a loss over ``wrong`` is the loss over ``right`` whatever the logits; None is the right one."""
    if wrong is None:
        return True
    theirs, ours = predict(wrong), predict(right)
    if theirs.keys() != ours.keys() or not _same_number(wrong.empty, right.empty):
        return False
    return all(
        theirs[site].keys() == ours[site].keys()
        and all(_same_number(theirs[site][target], weight) for target, weight in ours[site].items())
        for site in ours
    )


def _same_number(one: float | None, other: float | None) -> bool:
    if one is None or other is None or math.isnan(one) or math.isnan(other):
        return one == other or (one is not None and other is not None and math.isnan(one) and math.isnan(other))
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=0.0)


@lru_cache(maxsize=2)
def small_cases(spec: LossSpec) -> tuple[tuple[Batch, Pairing], ...]:
    """Every structure that ``spec``'s space has, at two small sizes, with the right pairs: all combinations of masks,
    documents, prefixes, counts, delays, empty codebooks and streams."""
    choices = space(spec, frozenset(ARGUMENTS))
    structures = {name: tuple(dict.fromkeys(choices[name])) for name in _STRUCTURE if name in choices}
    batches = [
        build_batch(spec, Recipe(**size, **dict(zip(structures, values, strict=True))))
        for size in _small_sizes(choices)
        for values in product(*structures.values())
    ]
    return tuple((batch, build_pairing(spec, batch)) for batch in batches)


_STRUCTURE = (
    "masks", "documents", "boundaries_ignored", "extra", "streams", "delay", "hollow", "count", "shift_labels"
)  # fmt: skip


def _small_sizes(choices: Space) -> list[dict[str, Any]]:
    """One row, and as many rows as it takes for every mask of two or three to meet another."""
    books = choices.get("codebooks", (1,))
    few, several = min(books, key=lambda k: abs(k - 2)), min(books, key=lambda k: abs(k - 3))
    classes = choices["classes"][0] if len(choices["classes"]) == 1 else 5
    return [
        {"rows": 1, "length": 3, "codebooks": few, "classes": classes},
        {"rows": 3, "length": 4, "codebooks": several, "classes": classes},
    ]


def kill_table(
    specs: Sequence[LossSpec | str],
    *,
    seeds: int = 20,
    profile: str = "quick",
    processes: int | None = None,
    drawn_only: bool = False,
    tick: Callable[[int, int], None] = lambda done, of: None,
) -> KillTable:
    """Try every mutant under every spec. Profiles, given by name, are shared among ``processes`` (None: one a core).

    With ``drawn_only`` the hand-made cases are left out, which were made with these mutants in mind. ``tick`` is told
    how many parts of how many are done.
    """
    started = time.perf_counter()
    processes = processes or os.cpu_count() or 1
    apart = processes > 1 and all(isinstance(spec, str) for spec in specs)
    # A spec in one piece makes its cases once; few specs are cut up, so that no process is idle.
    pieces = processes if apart and len(specs) < 2 * processes else 1
    parts = [(spec, profile, seeds, drawn_only, piece, pieces) for spec in specs for piece in range(pieces)]
    parts.sort(key=lambda part: -len(SPECS[part[0]].terms) if isinstance(part[0], str) else 0)  # the longest first
    found: list[list[tuple[int, Tried]]] = []
    with ProcessPoolExecutor(processes, get_context("spawn")) if apart else nullcontext() as pool:
        for each in pool.map(_try_part, parts) if pool else map(_try_part, parts):
            found.append(each)
            tick(len(found), len(parts))
    names = tuple(spec if isinstance(spec, str) else spec.name for spec in specs)
    order = {name: index for index, name in enumerate(names)}
    placed = sorted(((order[each.spec], place, each) for part in found for place, each in part), key=lambda it: it[:2])
    return KillTable(
        version("shiftproof"),
        profile,
        tuple(range(seeds)),
        not drawn_only,
        names,
        tuple(each for _, _, each in placed),
        time.perf_counter() - started,
    )


def _try_part(part: tuple[LossSpec | str, str, int, bool, int, int]) -> list[tuple[int, Tried]]:
    return try_part(*part)


def try_part(
    spec: LossSpec | str, profile: str, seeds: int, drawn_only: bool, part: int, parts: int
) -> list[tuple[int, Tried]]:
    """Every ``parts``-th mutant of a spec, from ``part`` on, each with its place among all."""
    torch.set_num_threads(1)
    spec = SPECS[spec] if isinstance(spec, str) else spec
    benches: dict[tuple[str, bool], Bench] = {}
    found = []
    for place, subject in enumerate(subjects(spec)):
        if place % parts != part:
            continue
        kind = subject.dtype, subject.linear
        if kind not in benches:
            benches[kind] = Bench(spec, subject.dtype, PROFILES[profile], drawn_only, subject.linear)
        found.append((place, try_subject(subject, benches[kind], range(seeds))))
    small_cases.cache_clear()
    return found
