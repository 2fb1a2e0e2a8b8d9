"""The proof that the judge is right: it judges every known-wrong loss, and counts the cases until the loss fails.

A mutant is tried without a worker: its answer is computed from the case. Laws and cases are those of ``check``. Each
law gets its first case, then each its second, and so on, until one law fails. This finds the law that needs the fewest
cases of its own, and judges no more than that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from multiprocessing import active_children, get_context
from typing import Any

import torch

from shiftproof.reference.profiles import PROFILES as SPECS
from shiftproof.reference.spec import LossSpec

from ..cases.recipe import Recipe
from ..cases.space import hand_made
from ..diagnosis.evidence import gather
from ..diagnosis.name import name_bugs
from ..judge.ask import Failure, judge_in_pool, judge_or_redraw, shrunk
from ..judge.profile import PROFILES
from ..laws import LAWS, Judgement, Law, adapt_to
from ..results import LawResult, Verdict
from .easy_inputs import easy_inputs, right_on
from .equivalent import equivalent_on, small_cases
from .subjects import Subject, subjects
from .table import KillTable, MutantOutcome, MutantResult
from .trial import Bench, MutantTrial


def first_kill(
    trial: MutantTrial, seed: int, known: dict[tuple[str, Recipe], tuple[Recipe, Judgement]]
) -> tuple[Law[Any, Any], int, Failure[Recipe]] | None:
    """Return the MUST law that fails after the fewest of its cases, that number, and the failure.

    If several laws need the same number, the first one asked counts. ``known`` caches the judgements of cases that
    several seeds share.
    """
    pool = trial.bench.pool(seed)
    waiting = [(law, iter(pool.of(law))) for law in trial.bench.laws]
    count = 0
    while waiting:
        count += 1
        left = []
        for law, recipes in waiting:
            for recipe in recipes:
                key = (law.id, recipe)
                if key not in known:
                    known[key] = judge_in_pool(law, trial, pool, recipe)
                of, judgement = known[key]
                if judgement.verdict.is_failure:
                    return law, count, Failure(of, judgement)
                if judgement.verdict is Verdict.PASS:
                    left.append((law, recipes))
                    break
        waiting = left
    return None


def try_subject(subject: Subject, bench: Bench, seeds: Sequence[int]) -> MutantResult:
    """Put one mutant on trial: whether every seed kills it, and for the first seed its smallest case and its name."""
    started = time.perf_counter()

    def tried(fate: MutantOutcome, **rest: Any) -> MutantResult:
        seconds = round(time.perf_counter() - started, 3)
        return MutantResult(subject.name, subject.detail, bench.spec.name, bench.dtype, fate, seconds=seconds, **rest)

    if subject.reason:
        return tried(MutantOutcome.NOT_APPLICABLE, reason=subject.reason)
    trial = MutantTrial(bench, subject.name, subject.act)
    cases = equivalent_on(subject, bench)
    if cases is not None:
        return tried(MutantOutcome.EQUIVALENT, reason=f"the same pairs and weights on all {cases} small cases")
    known: dict[tuple[str, Recipe], tuple[Recipe, Judgement]] = {}
    kills = []
    for seed in seeds:
        kill = first_kill(trial, seed, known)
        if kill is None:
            return tried(MutantOutcome.SURVIVED)
        kills.append(kill)
    law, _, failure = kills[0]
    smallest = shrunk(law, trial, failure)
    return tried(
        MutantOutcome.KILLED,
        law=law.id,
        firsts=tuple(count for _, count, _ in kills),
        counterexample=smallest.recipe.to_json(),
        size=smallest.recipe.size * smallest.recipe.codebooks,
        easy=right_on(trial, easy_inputs(trial.space)),
        named=names(subject, trial, law, failure.recipe),
    )


def names(subject: Subject, trial: MutantTrial, killer: Law[Any, Any], recipe: Recipe) -> tuple[str, ...]:
    """Return the names that the diagnosis gives a mutant.

    They come from what the laws find on hand-made cases, and from what ``killer`` finds on ``recipe``.
    """
    # Wrong pairs are read back, so only VALUE-1 is asked: the value may be right in spite of them.
    laws = [LAWS["VALUE-1"]] if subject.variant is not None else [*LAWS.values()]
    results = [
        _on_hand_made(law, trial, (recipe,) if law is killer else ()) for law in laws if law.skip_reason(trial) is None
    ]
    evidence, silent = gather(trial)
    return tuple(name for bug in name_bugs(results, trial, evidence, silent) for name in (bug.mutant, *bug.also))


def _on_hand_made(law: Law[Any, Any], trial: MutantTrial, also: tuple[Recipe, ...]) -> LawResult:
    seen = set()
    verdict = Verdict.PASS
    # Each case of a law with a small budget is large.
    for recipe in (*hand_made(law.restrict(trial.space))[: law.budget], *also):
        focused = adapt_to(law, trial, recipe)
        if focused is None or focused in seen:
            continue
        seen.add(focused)
        if judge_or_redraw(law, trial, focused)[1].verdict.is_failure:
            verdict = Verdict.FAIL
            trial.failed.add(law.id)
            break
    return LawResult(law.id, law.title, law.level, verdict, cases=len(seen))


def kill_table(
    specs: Sequence[LossSpec | str],
    *,
    seeds: int = 20,
    profile: str = "quick",
    processes: int | None = None,
    drawn_only: bool = False,
    tick: Callable[[int, int], None] = lambda done, of: None,
) -> KillTable:
    """Try every mutant under every spec.

    Profiles that are given by name are shared among ``processes`` (None: one per core). ``drawn_only`` leaves out the
    hand-made cases, which were made with these mutants in mind. ``tick`` gets the number of finished parts and of all
    parts.
    """
    started = time.perf_counter()
    processes = processes or os.cpu_count() or 1
    apart = processes > 1 and all(isinstance(spec, str) for spec in specs)
    # A spec in one piece makes its cases only once. Few specs are cut into pieces, so that no process is idle.
    pieces = processes if apart and len(specs) < 2 * processes else 1
    parts = [(spec, profile, seeds, drawn_only, piece, pieces) for spec in specs for piece in range(pieces)]
    parts.sort(key=lambda part: -len(SPECS[part[0]].terms) if isinstance(part[0], str) else 0)  # the longest first
    found: list[list[tuple[int, MutantResult]]] = []
    with ProcessPoolExecutor(processes, get_context("spawn")) if apart else nullcontext() as pool:
        try:
            for each in pool.map(_try_part, parts) if pool else map(_try_part, parts):
                found.append(each)
                tick(len(found), len(parts))
        except BaseException:  # an interrupt must not wait for parts that take minutes
            for process in active_children() if pool else ():
                process.kill()
            raise
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


def _try_part(part: tuple[LossSpec | str, str, int, bool, int, int]) -> list[tuple[int, MutantResult]]:
    return try_part(*part)


def try_part(
    spec: LossSpec | str, profile: str, seeds: int, drawn_only: bool, part: int, parts: int
) -> list[tuple[int, MutantResult]]:
    """Return every ``parts``-th mutant of a spec, from ``part`` on, each with its place among all mutants."""
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
