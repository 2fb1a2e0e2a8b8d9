"""Name a loss that flattens logits and labels of different lengths together, which torch refuses.

The words of an exception are no evidence: others write the same words, and torch has them for other mistakes too. The
two sizes that it names are evidence, if they are those of one cut on cases of different sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..candidates.loss import Observation, Trial
from ..cases.build import Case
from ..results import LawResult, NamedBug, Verdict
from .bug import symptom
from .evidence import Evidence, bank

_FLAT = re.compile(r"Expected input batch_size \((\d+)\) to match target batch_size \((\d+)\)")
_AXES = re.compile(r"Expected target size \[(\d+), (\d+)\], got \[(\d+), (\d+)\]")  # of logits [B, V, S]

_MOST_CUT = 3  # positions that are cut from a side; a double shift cuts two
_BY_VALUE = 8  # cases that are called for this alone
_FEWEST_SIZES = 2  # on cases of one size, sizes may agree by chance


@dataclass(frozen=True)
class _Cut:
    """How many positions of each row are missing, of logits and of labels, and what is flattened at once."""

    term: int
    logits: int
    labels: int
    at_once: str

    def lengths(self, case: Case) -> tuple[int, int]:
        """The lengths of a row of logits and of labels that then meet."""
        term = case.spec.terms[self.term]
        length = case.pairing.shapes[term.logits][1]
        return max(length - self.logits, 0), max(case.batch.tensor(term.labels).shape[1] - self.labels, 0)


def name_by_lengths(
    laws: Iterable[LawResult], trial: Trial, evidence: list[Evidence], silent: list[Observation]
) -> tuple[NamedBug, ...]:
    """Return length-mismatch, if one cut explains every exception, and every answer that came without one."""
    if any(law.id == "CONTRACT-1" and not law.verdict.is_failure for law in laws):
        return ()
    raising = [each for each in silent if each.problem is not None]
    if raising and not trial.candidate.gradient and set(_cuts(raising[0], trial)):
        # Pairs are read by value on small cases of one size, and not on any more once two gave no loss.
        silent = [*silent, *map(trial.observe_cached, bank(trial, _BY_VALUE))]
        raising = [each for each in silent if each.problem is not None]
    cases = [each.case for each in raising]
    if len({case.pairing.shapes[case.spec.terms[0].logits][:2] for case in cases}) < _FEWEST_SIZES:
        return ()
    cuts = set(_cuts(raising[0], trial)).intersection(*(_cuts(each, trial) for each in raising[1:]))
    answered = [each.case for each in evidence] + [each.case for each in silent if each.problem is None]
    for cut in sorted(cuts, key=lambda cut: (cut.logits + cut.labels, cut.term, cut.at_once)):
        if not any(_differ(cut.lengths(case)) for case in answered):
            largest = max(cases, key=lambda case: case.pairing.shapes[case.spec.terms[cut.term].logits][1])
            logits, labels = cut.lengths(largest)
            return (symptom("length-mismatch", f"{logits} logits per row against {labels} labels"),)
    return ()


def _cuts(observed: Observation, trial: Trial) -> Iterator[_Cut]:
    """Every cut that gives the two sizes of an exception on this case."""
    problem = observed.problem
    if problem is None or problem.verdict is not Verdict.ERROR or not problem.kind.startswith("raised "):
        return
    named = _sizes(problem.message)
    if named is None or not _differ(named):
        return
    for index, term in enumerate(observed.case.spec.terms):
        rows, _, *books, _ = observed.case.pairing.shapes[term.logits]
        for at_once, times in _flattened(rows, math.prod(books), trial.binding.is_trainer):
            for logits in range(_MOST_CUT):
                for labels in range(_MOST_CUT):
                    cut = _Cut(index, logits, labels, at_once)
                    length, others = cut.lengths(observed.case)
                    if (times * length, times * others) == named:
                        yield cut


def _flattened(rows: int, books: int, is_trainer: bool) -> Iterator[tuple[str, int]]:
    """What a loss may flatten at once, and how many rows of one codebook that is."""
    yield "a row of one codebook", 1
    yield "a row", books
    yield "one codebook", rows
    yield "all", rows * books
    if is_trainer:  # it is given some rows at a time
        yield from (("some rows", some) for some in range(1, rows + 1))


def _sizes(message: str) -> tuple[int, int] | None:
    """The sizes of logits and labels that torch says do not match, without the class axis."""
    if flat := _FLAT.search(message):
        return int(flat[1]), int(flat[2])
    if axes := _AXES.search(message):
        rows, logits, of_labels, labels = map(int, axes.groups())
        return (rows * logits, rows * labels) if rows == of_labels else None
    return None


def _differ(sizes: tuple[int, int]) -> bool:
    return sizes[0] != sizes[1]
