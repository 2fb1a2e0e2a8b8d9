"""The results of a judgement: verdicts, never a bare boolean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from .branches import Branches


class Verdict(StrEnum):
    """The verdict of one law, or of one case of a law."""

    PASS = "pass"
    FAIL = "fail"  # a wrong answer
    ERROR = "error"  # no answer: it raised, or returned something that is not a loss
    CRASH = "crash"  # its process died
    TIMEOUT = "timeout"  # no answer within the deadline
    SKIP = "skip"  # does not apply, with a reason
    VACUOUS = "vacuous"  # a case that a null candidate would pass
    REFUSED = "refused"  # the candidate raised NotImplementedError: not judged
    ALLOWED = "allowed"  # the user declared that the candidate need not keep this law
    INCONCLUSIVE = "inconclusive"
    UNJUDGED = "unjudged"  # the judge itself failed, or never asked
    NOT_ASKED = "not_asked"  # the user left it out, for example by -k or -x

    @property
    def is_failure(self) -> bool:
        return self in (Verdict.FAIL, Verdict.ERROR, Verdict.CRASH, Verdict.TIMEOUT)

    @property
    def is_costly(self) -> bool:
        """Whether another case with this verdict costs a process or a deadline."""
        return self in (Verdict.CRASH, Verdict.TIMEOUT, Verdict.UNJUDGED)


class Level(StrEnum):
    """How binding a law is."""

    MUST = "MUST"
    SHOULD = "SHOULD"  # practice differs: a failure is reported, but does not fail the candidate


class Overall(StrEnum):
    """The verdict on a whole candidate."""

    CONFORMS = "conforms"
    FAILS = "fails"
    INCONCLUSIVE = "inconclusive"
    PARTIAL = "partial"  # no violation in the laws that were asked; the user left out the others
    VALUES_ONLY = "values_only"  # no violation, but the gradient could not be read, and the user did not declare this
    ERROR = "error"  # it could not be judged


@dataclass(frozen=True)
class Counterexample:
    """The smallest case found on which a law fails, and the id under which it is stored."""

    replay: str
    recipe: dict[str, Any]


@dataclass(frozen=True)
class LawResult:
    """The result of one law for one candidate.

    Attributes:
        cases: the number of judged cases.
        vacuous: the number of further cases that proved nothing.
        refused: the number of cases that the candidate refused. ``refusals`` names their cells.
        first_failure: the number, from 1, of the first case that failed.
        follows: the law whose failure makes this failure likely.
        mode: the state of a call that the law judges, such as autocast, or "".

    Raises:
        ValueError: a verdict other than a failure or ALLOWED has a counterexample, or a verdict lacks its reason.
    """

    id: str
    title: str
    level: Level
    verdict: Verdict
    cases: int = 0
    vacuous: int = 0
    message: str = ""
    seconds: float = 0.0
    counterexample: Counterexample | None = None
    first_failure: int | None = None
    follows: str | None = None
    refused: int = 0
    refusals: tuple[str, ...] = ()
    mode: str = ""

    def __post_init__(self) -> None:
        may_have = self.verdict.is_failure or self.verdict is Verdict.ALLOWED
        if self.counterexample is not None and not may_have:
            raise ValueError(f"law {self.id}: a counterexample belongs to a failure, but the verdict is {self.verdict}")
        if self.verdict in _WITH_A_REASON and not self.message:
            raise ValueError(f"law {self.id}: {self.verdict} needs its reason")

    @property
    def was_asked(self) -> bool:
        return self.verdict not in (Verdict.UNJUDGED, Verdict.NOT_ASKED)


_WITH_A_REASON = (Verdict.SKIP, Verdict.REFUSED, Verdict.ALLOWED, Verdict.UNJUDGED, Verdict.NOT_ASKED)


@dataclass(frozen=True)
class NamedBug:
    """A mutant that explains the failures. ``agreement`` is the share of the evidence that it predicts exactly."""

    mutant: str
    agreement: float
    detail: str
    formula: str
    seen: str
    also: tuple[str, ...] = ()  # other mutants with the same predictions on all evidence


@dataclass(frozen=True)
class Picture:
    """One small case, drawn: the expected and found label places of each logit place.

    A label place outside the drawing is (−1, −1). ``of`` names the logits.
    """

    recipe: dict[str, Any]
    of: str
    labels: list[list[int]]
    expected: list[dict[str, Any]]
    found: list[dict[str, Any]]
    drawing: str


@dataclass(frozen=True)
class Difference:
    """The difference between the scored pairs and the right ones.

    Attributes:
        cases: the number of cases compared.
        pairs: the number of right pairs in these cases.
        missing, added: the numbers of pairs.
        moved: where pairs moved to -> how many.
        weights: the number of weights compared. ``weights_off`` of them are wrong.
        factors: the smallest and the largest factor by which weights are wrong.
        value: how the value is off in the same way on every case, in words, or "".
        patterns: what the wrong pairs and weights have in common, a sentence for each part of the loss.
        where: the state of a call in which alone it is wrong, in words, or "".
    """

    cases: int
    pairs: int
    missing: int
    added: int
    moved: Mapping[str, int]
    weights: int
    weights_off: int
    factors: tuple[float, float] | None
    value: str = ""
    patterns: tuple[str, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Comparison:
    """The expected and the built labels of one small case.

    ``expected`` and ``found`` are rows along the last axis. ``of`` is the spec.
    """

    recipe: dict[str, Any]
    of: str
    expected: list[list[int]]
    found: list[list[int]]
    drawing: str


@dataclass(frozen=True)
class Coverage:
    """The judged cells of the space of cases: structure × regime × dtype × reduction.

    Attributes:
        counts: every cell that MUST laws can judge -> the number of cases that they judged.
        advisory: the same for the other laws.
        sizes: pairs of size classes -> the number of cases that MUST laws judged at such sizes.
        largest: axis, such as B or S -> the largest size that MUST laws judged.
        due_after: when so many laws have been asked, no cell may be missing. None if missing cells are only reported.
    """

    counts: Mapping[str, int]
    advisory: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    largest: Mapping[str, int] = field(default_factory=dict)
    due_after: int | None = None

    @property
    def demanded(self) -> int:
        return len(self.counts)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(cell for cell, cases in self.counts.items() if not cases)

    @property
    def hit(self) -> int:
        return self.demanded - len(self.missing)

    @property
    def sizes_missing(self) -> tuple[str, ...]:
        """The pairs of size classes in which no case was judged."""
        return tuple(pair for pair, cases in self.sizes.items() if not cases)

    def due(self, asked: int) -> tuple[str, ...]:
        """The missing cells that must not be missing after ``asked`` laws."""
        return self.missing if self.due_after is not None and asked >= self.due_after else ()

    def to_json(self) -> dict[str, Any]:
        return {"demanded": self.demanded, "hit": self.hit, "missing": list(self.missing), **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Coverage:
        """Read a Coverage from the output of ``to_json``."""
        return cls(data["counts"], data["advisory"], data["sizes"], data["largest"], data["due_after"])

    def with_that_of(self, other: Coverage) -> Coverage:
        """Add the coverage of another part of the same run."""

        def added(one: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
            return {cell: one.get(cell, 0) + more.get(cell, 0) for cell in sorted({*one, *more})}

        return Coverage(
            added(self.counts, other.counts),
            added(self.advisory, other.advisory),
            added(self.sizes, other.sizes),
            {axis: max(size, other.largest.get(axis, 0)) for axis, size in {**other.largest, **self.largest}.items()},
            self.due_after,
        )


@dataclass(frozen=True)
class CandidateResult:
    """All results for one candidate, on one device. Each case has one of ``dtypes``."""

    candidate: str
    call: str
    spec: str | None
    device: str
    dtypes: tuple[str, ...]
    verdict: Overall
    python: str | None = None  # the interpreter of the candidate; None means the judge's own
    environment_name: str = ""  # the name of this interpreter, if there are several
    laws: tuple[LawResult, ...] = ()
    diagnosis: tuple[NamedBug, ...] = ()
    pairing: Picture | None = None  # for a loss
    difference: Difference | None = None  # for a loss whose bug is unknown
    built: Comparison | None = None  # for a label builder
    coverage: Coverage | None = None
    branches: Branches | None = None  # None if the candidate was never judged
    message: str = ""
    expect: str = "conforms"
    expected_diagnosis: str | None = None
    calls: int = 0
    seconds: float = 0.0
    seconds_in_candidate: float = 0.0
    seconds_in_oracle: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    scope: tuple[str, ...] = ()  # the limits of the verdict: declared exceptions, and parts that were left out
    stale: tuple[str, ...] = ()  # declared exceptions that are no longer needed
    values_only: str = ""  # why its gradient could not be read, although it is declared to have one
    is_nameless: bool = False  # whether it is a Python object, which no other process can find by name

    @property
    def cases(self) -> int:
        return sum(law.cases for law in self.laws)

    @property
    def modes(self) -> tuple[str, ...]:
        """The states of a call in which it was judged and right."""
        passed = (law for law in self.laws if law.mode and law.verdict is Verdict.PASS and law.cases > law.refused)
        return tuple(law.mode for law in passed)

    @property
    def asked(self) -> int:
        """The number of planned laws that were asked."""
        return sum(law.was_asked for law in self.laws)

    @property
    def gaps(self) -> tuple[str, ...]:
        """The missing cells that make the judgement incomplete."""
        return self.coverage.due(self.asked) if self.coverage is not None else ()

    @property
    def as_expected(self) -> bool:
        """Whether it got the verdict and the bug's name that its declaration expects."""
        return str(self.verdict) == self.expect and self.has_expected_name

    @property
    def has_expected_name(self) -> bool:
        """Whether the bug has the name that the declaration expects, if it expects one."""
        names = {name for bug in self.diagnosis for name in (bug.mutant, *bug.also)}
        return self.expected_diagnosis is None or self.expected_diagnosis in names

    def to_json(self) -> dict[str, Any]:
        covered = self.coverage.to_json() if self.coverage is not None else None
        branches = self.branches.to_json() if self.branches is not None else None
        return {
            **asdict(self),
            "coverage": covered,
            "branches": branches,
            "cases": self.cases,
            "modes": list(self.modes),
            "as_expected": self.as_expected,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CandidateResult:
        """Read a CandidateResult from the output of ``to_json``. Results travel between processes as JSON."""
        fields = {name: value for name, value in data.items() if name not in ("cases", "modes", "as_expected")}
        fields["verdict"] = Overall(fields["verdict"])
        fields["laws"] = tuple(law_from_json(law) for law in fields["laws"])
        for name in ("dtypes", "scope", "stale"):
            fields[name] = tuple(fields[name])
        fields["diagnosis"] = tuple(NamedBug(**{**bug, "also": tuple(bug["also"])}) for bug in fields["diagnosis"])
        fields["pairing"] = Picture(**fields["pairing"]) if fields["pairing"] else None
        fields["difference"] = difference_from_json(fields["difference"])
        fields["built"] = Comparison(**fields["built"]) if fields["built"] else None
        fields["coverage"] = Coverage.from_json(fields["coverage"]) if fields["coverage"] else None
        fields["branches"] = Branches.from_json(fields["branches"]) if fields["branches"] else None
        return cls(**fields)


def difference_from_json(data: dict[str, Any] | None) -> Difference | None:
    """Read a Difference from the output of ``dataclasses.asdict``."""
    if not data:
        return None
    factors, patterns = data["factors"] and tuple(data["factors"]), tuple(data["patterns"])
    return Difference(**{**data, "factors": factors, "patterns": patterns})


def law_from_json(data: dict[str, Any]) -> LawResult:
    """Read a LawResult from the output of ``dataclasses.asdict``."""
    found = data["counterexample"]
    return LawResult(
        **{
            **data,
            "level": Level(data["level"]),
            "verdict": Verdict(data["verdict"]),
            "counterexample": Counterexample(**found) if found else None,
            "refusals": tuple(data["refusals"]),
        }
    )


def merge(one: CandidateResult, other: CandidateResult) -> CandidateResult:
    """Merge the results of two processes that each asked some laws of the same candidate.

    The merged result has no final verdict yet: see ``conclude`` in ``harness/judge/conclusion.py``.
    """
    laws = {law.id: law for law in (*one.laws, *other.laws)}
    covered = one.coverage or other.coverage
    if one.coverage is not None and other.coverage is not None:
        covered = one.coverage.with_that_of(other.coverage)
    return replace(
        one,
        laws=tuple(laws.values()),
        diagnosis=one.diagnosis or other.diagnosis,
        pairing=one.pairing or other.pairing,
        difference=one.difference or other.difference,
        built=one.built or other.built,
        coverage=covered,
        branches=_of_both(one.branches, other.branches),
        message=one.message or other.message,
        calls=one.calls + other.calls,
        seconds=max(one.seconds, other.seconds),
        seconds_in_candidate=one.seconds_in_candidate + other.seconds_in_candidate,
        seconds_in_oracle=one.seconds_in_oracle + other.seconds_in_oracle,
        scope=tuple(dict.fromkeys((*one.scope, *other.scope))),
        stale=tuple(dict.fromkeys((*one.stale, *other.stale))),
        values_only=one.values_only or other.values_only,
    )


def _of_both(one: Branches | None, other: Branches | None) -> Branches | None:
    return one.with_those_of(other) if one is not None and other is not None else one or other


_UNDECIDED = (Verdict.INCONCLUSIVE, Verdict.VACUOUS, Verdict.REFUSED)


def overall(
    laws: tuple[LawResult, ...],
    coverage: Coverage | None = None,
    values_only: str = "",
    branches: Branches | None = None,
) -> Overall:
    """The verdict on a candidate, from a result for every planned law. The first that fits:

    - FAILS: a MUST failed, and not only by deadlines.
    - ERROR: a MUST failed by a deadline, or the judge could not ask a law.
    - PARTIAL: the user left out a law.
    - INCONCLUSIVE: a MUST is undecided or refused, no MUST passed, or a cell or branch that must be judged is missing.
    - VALUES_ONLY: ``values_only`` has a reason.
    - CONFORMS.
    """
    must = [law for law in laws if law.level is Level.MUST]
    failed = [law for law in must if law.verdict.is_failure]
    if any(law.verdict is not Verdict.TIMEOUT for law in failed):
        return Overall.FAILS
    if failed or any(law.verdict is Verdict.UNJUDGED for law in laws):
        return Overall.ERROR
    if any(law.verdict is Verdict.NOT_ASKED for law in laws):
        return Overall.PARTIAL
    if any(law.verdict in _UNDECIDED for law in must):
        return Overall.INCONCLUSIVE
    if not any(law.verdict is Verdict.PASS for law in must):
        return Overall.INCONCLUSIVE
    if coverage is not None and coverage.due(len(laws)):
        return Overall.INCONCLUSIVE
    if branches is not None and branches.is_due and branches.exceptions:
        return Overall.INCONCLUSIVE
    return Overall.VALUES_ONLY if values_only else Overall.CONFORMS
