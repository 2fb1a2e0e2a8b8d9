"""Write the tables of docs/comparison.md: how many of the known bugs would other people's tests detect?

Every habit of ``habits.py`` and shiftproof judge every mutant of the kill table by the same answers. Run it with ``nox
-s comparison`` or ``python docs/scripts/comparison.py``. It takes some minutes of one core, shared among all cores. The
numbers are the same on every run of one machine.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from enum import StrEnum
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from habits import HABITS, Habit, Test, fixed_shape, liger, liger_at_full_size, liger_sum
from habits import Ignored as Ignoring
from page import fill_in, table
from right_losses import Loss, other_losses, run, text_losses

from shiftproof.harness.candidates.loss import Observation
from shiftproof.harness.judge.profile import PROFILES as EFFORTS
from shiftproof.harness.kill_table.equivalent import equivalent_on, small_cases
from shiftproof.harness.kill_table.run import first_kill
from shiftproof.harness.kill_table.subjects import Subject, subjects
from shiftproof.harness.kill_table.trial import Bench, MutantTrial
from shiftproof.harness.mutants.ahead import AHEAD
from shiftproof.harness.mutants.alignment import ALIGNMENT
from shiftproof.harness.mutants.behaviour import Act, Asked, give
from shiftproof.harness.mutants.codebooks import CODEBOOKS
from shiftproof.harness.mutants.gradients import GRADIENTS
from shiftproof.harness.mutants.interface import INTERFACE
from shiftproof.harness.mutants.normalisation import NORMALISATION
from shiftproof.harness.mutants.numerics import NUMERICS
from shiftproof.harness.mutants.selection import SELECTION
from shiftproof.harness.mutants.states import STATES
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import LossSpec

DOCS = Path(__file__).resolve().parents[1]
TEXT = "hf.causal_lm"
SPECS = (
    TEXT, "higgs.hf", "higgs.boson", "higgs.mean_nonempty", "csm", "qwen3_tts", "moshi", "moshi.finetune", "musicgen",
    "parler", "dia", "moss_ttsd",
)  # fmt: skip
FAMILIES = {
    "alignment": {each.name for each in ALIGNMENT},
    "selection": {each.name for each in SELECTION},
    "normalisation": {each.name for each in NORMALISATION},
    "codebooks": {each.name for each in (*CODEBOOKS, *AHEAD)},
    "gradient": {each.name for each in GRADIENTS},
    "numerics": {each.name for each in NUMERICS},
    "interface": {each.name for each in INTERFACE},
    "state": {each.name for each in STATES},
}
OURS = "shiftproof, profile quick"


class Seen(StrEnum):
    """The outcome of a wrong loss under a habit."""

    KILLED = "killed"
    TOLERATED = "tolerated"  # its inputs show the bug, but its tolerance lets the bug pass
    UNSEEN = "never shown"  # everything it looks at is right on all of its inputs


class Judged(NamedTuple):
    """One mutant under one spec: its outcome under each habit, by name."""

    spec: str
    name: str
    seen: Mapping[str, Seen]
    cases: int = 0  # the number of cases of one law that shiftproof needed


def judge(act: Act, tests: Iterable[Test]) -> Seen:
    """Return what a habit with these tests finds about a loss."""
    shown = False
    asked = found = None
    for test in tests:
        if asked is None or found is None or (asked.case, asked.grad_output) != (test.case, test.grad_output):
            asked = Asked(test.case, test.grad_output)
            found = act(asked)
        if not test.passes(found):
            return Seen.KILLED
        shown = shown or test.shows(found)
    return Seen.TOLERATED if shown else Seen.UNSEEN


def kills(tests: Iterable[Test], act: Act) -> bool:
    """Return whether one of the tests fails a loss."""
    return any(not test.passes(act(Asked(test.case, test.grad_output))) for test in tests)


def zero(asked: Asked) -> Observation:
    """Return the answer of a loss that is 0, with a gradient of 0."""
    return give(asked, 0.0, {name: torch.zeros(shape) for name, shape in asked.case.pairing.shapes.items()})


def answers(loss: Loss) -> Act:
    """Return the act that answers like a real loss."""

    def act(asked: Asked) -> Observation:
        assert isinstance(asked.grad_output, float)
        value, gradients = run(loss, asked.case, asked.grad_output)
        return Observation(asked.case, None, float(value), value.double(), value.dtype, gradients)

    return act


def mutants_of(spec: LossSpec) -> Iterator[Subject]:
    """Yield every variant of every bug that is possible under ``spec`` and is not the right loss there.

    The habits hand over logits. So bugs of losses that take hidden states and a weight instead are left out.
    """
    bench = Bench(spec, "float32", EFFORTS["quick"])
    for subject in subjects(spec):
        if not subject.reason and not subject.linear and equivalent_on(subject, bench) is None:
            yield subject
    small_cases.cache_clear()


def judge_all(spec: LossSpec, habits: Sequence[Habit]) -> list[Judged]:
    """Judge every mutant of a spec under every habit, and under shiftproof's first seed."""
    wrong = list(mutants_of(spec))
    seen: list[dict[str, Seen]] = [{} for _ in wrong]
    for habit in habits:
        tests = list(habit.tests(spec))
        for subject, found in zip(wrong, seen, strict=True):
            found[habit.name] = judge(subject.act, tests)
    benches: dict[str, Bench] = {}
    judged = []
    for subject, found in zip(wrong, seen, strict=True):
        bench = benches.setdefault(subject.dtype, Bench(spec, subject.dtype, EFFORTS["quick"]))
        kill = first_kill(MutantTrial(bench, subject.name, subject.act), 0, {})
        found[OURS] = Seen.KILLED if kill else Seen.UNSEEN
        judged.append(Judged(spec.name, subject.name, found, kill[1] if kill else 0))
    return judged


def judge_by_name(spec: str) -> list[Judged]:
    torch.set_num_threads(1)
    return judge_all(PROFILES[spec], HABITS)


# The habits' verdicts on right losses, and on a loss that is 0.


class Control(NamedTuple):
    """Right losses that a habit fails, out of how many; tests that a loss of 0 passes, out of how many."""

    alarms: tuple[str, ...]
    right: int
    passed_by_zero: int
    tests: int


def control(name: str) -> Control:
    """Return the verdicts of a habit, by name, on losses that are not mutants."""
    torch.set_num_threads(1)
    (habit,) = [habit for habit in HABITS if habit.name == name]
    losses = [*text_losses(), *(loss for loss in other_losses() if loss.spec.name in SPECS)]
    alarms = []
    for loss in losses:
        tests = [test for test in habit.tests(loss.spec) if test.case.recipe.classes <= loss.most_classes]
        if kills(tests, answers(loss)):
            alarms.append(loss.name)
    passed = [not kills([test], zero) for test in habit.tests(PROFILES[TEXT])]
    return Control(tuple(alarms), len(losses), sum(passed), len(passed))


# The output.


def share(found: Iterable[Seen]) -> str:
    found = list(found)
    return f"{sum(each is Seen.KILLED for each in found) / len(found):.1%}" if found else "–"


def table_of_killed(judged: list[Judged], names: Sequence[str]) -> str:
    """Return the share of the mutants that each habit kills, by family."""
    groups: dict[str, list[Judged]] = {
        **{family: [each for each in judged if each.name in members] for family, members in FAMILIES.items()},
        "text alone": [each for each in judged if each.spec == TEXT],
        "all": judged,
    }
    shown = {group: members for group, members in groups.items() if members}
    rows = [[name, *(share(each.seen[name] for each in members) for members in shown.values())] for name in names]
    head = ["killed by", *(f"{group} ({len(members)})" for group, members in shown.items())]
    return table(head, rows)


def table_of_reasons(judged: list[Judged], controls: Mapping[str, Control]) -> str:
    """Return why mutants survive each habit, and its verdicts on right losses and on a loss of 0."""
    rows = []
    for name, found in controls.items():
        count = {fate: sum(each.seen[name] is fate for each in judged) for fate in Seen}
        able = count[Seen.KILLED] + count[Seen.TOLERATED]
        rows.append(
            [
                name,
                *(str(count[fate]) for fate in Seen),
                f"{count[Seen.KILLED] / able:.1%}",
                f"{len(found.alarms)} of {found.right}" + (f": {', '.join(found.alarms)}" if found.alarms else ""),
                f"{found.passed_by_zero} of {found.tests}",
            ]
        )
    head = ["habit", *map(str, Seen), "killed of those shown", "right losses failed", "tests that 0 passes, text"]
    return table(head, rows)


def list_of_survivors(judged: list[Judged], names: Sequence[str]) -> str:
    """Return, for each habit, the bugs that survive: all of their variants, or how many of how many."""
    lines = []
    for name in names:
        parts = []
        for fate in (Seen.UNSEEN, Seen.TOLERATED):
            bugs = [_some(bug, judged, name, fate) for bug in dict.fromkeys(each.name for each in judged)]
            parts += [f"*{fate}*: {', '.join(filter(None, bugs))}"] if any(bugs) else []
        lines.append(f"- **{name}**. " + ("; ".join(parts) or "None"))
    return "\n".join(lines)


def _some(bug: str, judged: list[Judged], habit: str, fate: Seen) -> str:
    ways = [each.seen[habit] is fate for each in judged if each.name == bug]
    return "" if not any(ways) else bug if all(ways) else f"{bug} ({sum(ways)} of {len(ways)})"


def table_of_vocabularies(spec: LossSpec, sizes: Sequence[int] = (32, 256, 32000)) -> str:
    """Return the results of (2, 64, V) at other V."""
    wrong = list(mutants_of(spec))
    rows = []
    for ignored in (Ignoring.NONE, Ignoring.FIFTH):
        cells = []
        for classes in sizes:
            tests = list(fixed_shape(ignored, True, classes)(spec))
            cells.append(f"{sum(kills(tests, subject.act) for subject in wrong)} of {len(wrong)}")
        rows.append(["a fifth ignored" if ignored is Ignoring.FIFTH else "every label counts", *cells])
    return table([f"(2, 64, V), value and gradient, {spec.name}", *(f"V = {classes}" for classes in sizes)], rows)


def in_full_size(spec: LossSpec) -> str:
    """Run Liger's larger shapes on the mutants that survive its smaller ones."""
    small = list(liger(spec))
    survive = [subject for subject in mutants_of(spec) if not kills(small, subject.act)]
    tests = list(liger_at_full_size(spec))
    killed = [f"{subject.name} {subject.detail}".strip() for subject in survive if kills(tests, subject.act)]
    return (
        f"Of the {len(survive)} mutants of `{spec.name}` that survive Liger's tests as they are run here, the larger "
        f"shapes kill {len(killed)}{': ' if killed else ''}{', '.join(killed)}."
    )


def table_of_sums(spec: LossSpec) -> str:
    """Return the results of Liger's tolerances for reduction sum, which no spec of the kill table has."""
    tolerances = {"float32": "atol 1e-3, rtol 5e-2", "bfloat16": "atol 5, rtol 50"}
    wrong = list(mutants_of(spec))
    rows = []
    for dtype, tolerance in tolerances.items():
        tests = list(liger_sum(dtype)(spec))
        killed = sum(kills(tests, subject.act) for subject in wrong)
        rows.append([dtype, tolerance, f"{killed} of {len(wrong)}", "no" if kills(tests, zero) else "yes"])
    return table(["logits", "tolerance", "killed", "does a loss of 0 pass?"], rows)


def in_words(judged: list[Judged], seconds: float) -> str:
    cases = [each.cases for each in judged if each.seen[OURS] is Seen.KILLED]
    return (
        f"Made by `nox -s comparison` with shiftproof {version('shiftproof')}, torch {torch.__version__}, hypothesis "
        f"{version('hypothesis')} and Python {platform.python_version()}, in {seconds:.0f} s: {len(judged)} mutants of "
        f"{len(SPECS)} specs. shiftproof needs {statistics.median(cases):g} case in the median and {max(cases)} at "
        "worst of the law that needs the fewest."
    )


def main() -> None:
    torch.set_num_threads(1)
    started = time.perf_counter()
    names = [habit.name for habit in HABITS]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        by_spec = pool.map(judge_by_name, SPECS)
        controls = pool.map(control, names)
        others = {
            "vocabularies": pool.submit(table_of_vocabularies, PROFILES[TEXT]),
            "full size": pool.submit(in_full_size, PROFILES[TEXT]),
            "sums": pool.submit(table_of_sums, PROFILES["sum"]),
        }
        judged = []
        for found in by_spec:
            judged += found
            print(found[0].spec, len(found), f"{time.perf_counter() - started:.0f} s", flush=True)
        parts = {
            "killed": table_of_killed(judged, [*names, OURS]),
            "reasons": table_of_reasons(judged, dict(zip(names, controls, strict=True))),
            "survivors": list_of_survivors(judged, [*names, OURS]),
            **{name: other.result() for name, other in others.items()},
        }
    parts["run"] = in_words(judged, time.perf_counter() - started)
    for each in parts.values():
        print(each, end="\n\n", flush=True)
    fill_in(DOCS / "comparison.md", parts)


if __name__ == "__main__":
    main()
