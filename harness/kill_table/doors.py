"""Mutants behind doors: each is right except at some size or in some state, and is judged as a user's file.

The constants of the kill table's mutants are as small as the cases. A wrong loss that ships is often right at small
sizes, or in the state in which it was tested. So a mutant is written as source: the right loss, and the wrong one
behind a condition. The condition is drawn, and so is its constant. The source is judged through a worker, as
``shiftproof check`` judges it.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from itertools import count
from multiprocessing import active_children, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.profiles import PROFILES as SPECS
from shiftproof.reference.spec import Denominator, LossSpec

from ..candidates.declaration import Candidate
from ..candidates.loss import Observation
from ..candidates.variant import Asked
from ..cases.build import Case
from ..cases.space import hand_made
from ..isolation.client import Worker
from ..judge.ask import ask
from ..judge.loading import Job, LoadedCandidate, Options
from ..judge.profile import PROFILES
from ..judge.regions import Tracers, look_around
from ..laws import LAWS
from ..results import Level, Verdict
from .door_table import Door, DoorOutcome, DoorResult, DoorTable, Shows
from .equivalent import equivalent_on
from .subjects import Subject, subjects
from .trial import Bench

_ROUNDING = 1e-4
_ROUNDING_OF_BF16 = 0.1  # much more than one rounding, as errors add up

PROMISED = ("hf.causal_lm", "torchtune", "nanogpt", "torchtitan", "masked", "higgs.hf", "moss_ttsd")
"""The profiles whose mutants are hidden: the plain loss of each can be written without a layout."""


def doors_of(spec: LossSpec, drawn: random.Random) -> list[Door]:
    """The doors that a loss under ``spec`` can have, each with a constant that no case was made for."""
    several = [name for name in spec.labels if "k" in spec.axes_of(name)]
    labels, logits = spec.labels[0], spec.logits[0]
    found = [
        Door("B and S", f"{labels}.shape[0] >= 2 and {labels}.shape[1] > {drawn.randint(40, 900)}"),
        Door("S % m", f"{labels}.shape[1] % {drawn.randint(11, 130)} == 0"),
        Door("V", f"{logits}.shape[-1] > {drawn.randint(300, 150_000)}"),
        Door("calls", f"calls > {drawn.randint(20, 2000)}"),
        *(Door("K", f"{name}.shape[-1] > {drawn.randint(5, 31)}") for name in several),
        Door("frozen", f"torch.is_grad_enabled() and not {logits}.requires_grad", Shows.VALUE),
        Door("autocast", 'torch.is_autocast_enabled("cpu")', Shows.MUCH),
        Door("compiled", "torch.compiler.is_compiling()"),
        Door("train mode", "self.training"),
        Door("eval mode", "not self.training"),
        Door("second forward", "waiting > 0"),
        Door("layout of labels", f"not {labels}.is_contiguous()"),
        Door("bf16", f"{logits}.dtype is torch.bfloat16", Shows.MUCH, "bfloat16"),
    ]
    if "num_items_in_batch=None" in arguments_of(spec):
        found += [
            Door("tensor count", "torch.is_tensor(num_items_in_batch)"),
            Door("count through **kwargs", '"num_items_in_batch" in kwargs'),
        ]
    return found


def arguments_of(spec: LossSpec) -> list[str]:
    """The arguments that a loss under ``spec`` takes, those with a default last."""
    found = [*spec.logits, *spec.labels]
    for term in spec.terms:
        found += ["loss_mask"] if term.loss_mask else []
        found += ["codebook_weights"] if term.codebook_weights is True else []
        found += ["num_items_in_batch"] if term.denominator is Denominator.NUM_ITEMS else []
        found += ["num_items_in_batch=None"] if term.denominator is Denominator.NUM_ITEMS_OR_VALID else []
    return list(dict.fromkeys(found))


def source(spec: LossSpec, mutant: str, detail: str, door: Door) -> str:
    """The text of a file with a loss ``loss``, which is the mutant where the door is open, and right elsewhere."""
    parameters, asks_kwargs = arguments_of(spec), "kwargs" in door.condition
    names = [parameter.partition("=")[0] for parameter in parameters]
    passed = ", ".join(f"{name}={name}" for name in names)
    if asks_kwargs:
        parameters = [*(each for each in parameters if each != "num_items_in_batch=None"), "**kwargs"]
    body = ["global calls, waiting", "calls += 1"]
    body += ['num_items_in_batch = kwargs.get("num_items_in_batch")'] if asks_kwargs else []
    body += [f"found = (wrong if {door.condition} else right)({passed})"]
    body += ["if found.requires_grad:", "    waiting += 1", "    found.register_hook(gone_backward)", "return found"]
    is_module = "self." in door.condition
    name = "forward" if is_module else "loss"
    parameters = ["self", *parameters] if is_module else parameters
    lines = [
        f'"""{mutant} of {spec.name}, behind a door."""',
        "",
        "import torch",
        "from shiftproof.harness.kill_table.behind import right_loss, wrong_loss",
        "",
        f"right = right_loss({spec.name!r})",
        f"wrong = wrong_loss({spec.name!r}, {mutant!r}, {detail!r})",
        "calls = waiting = 0",
        "",
        "",
        "def gone_backward(gradient):",
        "    global waiting",
        "    waiting = 0",
        "",
        "",
        *(["class Loss(torch.nn.Module):"] if is_module else []),
        *_indented([f"def {name}({', '.join(parameters)}):", *_indented(body)], is_module),
        *(["", "", f"loss = Loss().train({door.kind != 'train mode'})"] if is_module else []),
    ]
    return "\n".join(lines) + "\n"


def _indented(lines: list[str], really: bool = True) -> list[str]:
    return [f"    {line}" for line in lines] if really else lines


def draw_pairs(number: int, seed: int) -> list[tuple[str, str, str, Door]]:
    """Draw pairs of a mutant and a door: profile, mutant, detail and door. Profiles take turns, and kinds of doors."""
    drawn = random.Random(seed)
    hidden = {name: _can_hide(SPECS[name]) for name in PROMISED[: max(number, 1)]}
    found: list[tuple[str, str, str, Door]] = []
    used: Counter[str] = Counter()
    for index in range(number):
        name = PROMISED[index % len(PROMISED)]
        doors = doors_of(SPECS[name], drawn)
        fewest = min(used[door.kind] for door in doors)
        door = drawn.choice([door for door in doors if used[door.kind] == fewest])
        used[door.kind] += 1
        subject = drawn.choice([each for each, shows in hidden[name] if door.shows in shows])
        found.append((name, subject.name, subject.detail, door))
    return found


@cache
def _can_hide(spec: LossSpec) -> list[tuple[Subject, set[Shows]]]:
    """The mutants that show in the value or the gradient of a hand-made case: others cannot be written as source."""
    bench = Bench(spec, "float32", PROFILES["brief"])
    cases = [_as_source(bench.case(recipe)) for recipe in hand_made(bench.right.space)]
    found = []
    for subject in subjects(spec):
        if subject.reason or subject.linear or subject.dtype != "float32":
            continue
        seen = [subject.act(Asked(case)) for case in cases]
        if any(each.problem or each.gradients is None or each.mutated for each in seen):
            continue
        shows = set().union(*map(_shows, seen))
        if shows and equivalent_on(subject, bench) is None:
            found.append((subject, shows))
    return found


def _as_source(case: Case) -> Case:
    """The case with only what the source of a loss takes. Some mutants need more to be wrong."""
    names = (parameter.partition("=")[0] for parameter in arguments_of(case.spec))
    return replace(case, batch=Batch(**{name: getattr(case.batch, name) for name in names}))


def _shows(seen: Observation) -> set[Shows]:
    """What differs from the right answer: the value, or anything by more than the rounding of fp32 or of bf16."""
    right = seen.case.oracle
    if not seen.case.pairing.pairs or right.value is None or seen.gradients is None or seen.value is None:
        return set()
    value = torch.tensor(seen.value), torch.tensor(right.value)
    pairs = [value, *((found, right.gradients[name]) for name, found in seen.gradients.items())]
    found = {Shows.VALUE} if not _near([value], _ROUNDING) else set()
    found |= {Shows.ANYTHING} if not _near(pairs, _ROUNDING) else set()
    return found | ({Shows.MUCH} if not _near(pairs, _ROUNDING_OF_BF16) else set())


def _near(pairs: Iterable[tuple[Tensor, Tensor]], rounding: float) -> bool:
    return all(
        torch.allclose(one.double(), other.double(), rtol=rounding, atol=1e-3 * rounding, equal_nan=True)
        for one, other in pairs
    )


def try_door(spec: str, mutant: str, detail: str, door: Door, seed: int, folder: Path) -> DoorResult:
    """Judge one mutant behind one door, until a MUST law fails."""
    started = time.perf_counter()
    file = folder / "loss.py"
    file.write_text(source(SPECS[spec], mutant, detail, door), encoding="utf-8")
    candidate = Candidate("loss", f"{file}:loss", spec, dtypes=(door.dtype,))
    loaded = LoadedCandidate(Job("loss", candidate, "cpu", (door.dtype,)), Options())
    tracers = Tracers()
    law = counterexample = None
    try:
        trial: Any = loaded.trial()
        worker = loaded.worker
        assert isinstance(worker, Worker)
        trial.compiles = lambda backend: backend == "eager" and worker.branches.asks_if_compiled
        look_around(trial, worker, tracers, seed)
        for asked in LAWS.values():
            result = ask(asked, trial, PROFILES["quick"], seed)
            # A mutant is slow where it is re-enacted. That it misses a deadline is no kill.
            if asked.level is Level.MUST and result.verdict.is_failure and result.verdict is not Verdict.TIMEOUT:
                law = asked.id
                counterexample = dict(result.counterexample.recipe) if result.counterexample else None
                break
        exceptions = worker.branches.result().exceptions
    finally:
        loaded.close()
        tracers.close()
    named = any(door.condition in each for each in exceptions)
    outcome = DoorOutcome.KILLED if law else DoorOutcome.NAMED if named else DoorOutcome.SURVIVED
    seconds = round(time.perf_counter() - started, 1)
    return DoorResult(spec, mutant, detail, door, outcome, law, counterexample, exceptions, seconds)


def try_doors(
    number: int, seed: int, processes: int | None = None, tick: Callable[[int, int], None] = lambda done, of: None
) -> DoorTable:
    """Draw ``number`` pairs from ``seed`` and judge each, in ``processes`` (None: one per core).

    ``tick`` gets the number of finished pairs and of all pairs.
    """
    started = time.perf_counter()
    processes = min(processes or os.cpu_count() or 1, max(number, 1))
    pairs = [(*pair, seed) for pair in draw_pairs(number, seed)]
    found: list[DoorResult] = []
    with ProcessPoolExecutor(processes, get_context("spawn")) if processes > 1 else nullcontext() as pool:
        try:
            for each, done in zip(pool.map(_try_pair, pairs) if pool else map(_try_pair, pairs), count(1)):
                found.append(each)
                tick(done, number)
        except BaseException:  # an interrupt must not wait for pairs that take half a minute
            for process in active_children() if pool else ():
                process.kill()
            raise
    return DoorTable(version("shiftproof"), seed, tuple(found), time.perf_counter() - started)


def _try_pair(pair: tuple[str, str, str, Door, int]) -> DoorResult:
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        return try_door(*pair, folder=Path(folder))
