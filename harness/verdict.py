"""What can be said of a candidate: never a bare boolean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What one law found, or one case of it."""

    PASS = "pass"
    FAIL = "fail"  # an answer, and a wrong one
    ERROR = "error"  # no answer: it raised, or returned what is no loss
    CRASH = "crash"  # its process died
    TIMEOUT = "timeout"  # no answer within the deadline
    SKIP = "skip"  # does not apply, with a reason
    VACUOUS = "vacuous"  # a case that would have let a null candidate pass
    REFUSED = "refused"  # the candidate raised NotImplementedError: not judged
    ALLOWED = "allowed"  # the user declared that the candidate need not keep this law
    INCONCLUSIVE = "inconclusive"
    UNJUDGED = "unjudged"  # the judge itself failed, or never came to ask
    NOT_ASKED = "not_asked"  # the user left it out, as by -k or -x

    @property
    def is_failure(self) -> bool:
        return self in (Verdict.FAIL, Verdict.ERROR, Verdict.CRASH, Verdict.TIMEOUT)

    @property
    def is_costly(self) -> bool:
        """Whether asking for it again costs a process or a deadline."""
        return self in (Verdict.CRASH, Verdict.TIMEOUT, Verdict.UNJUDGED)


class Level(StrEnum):
    """How binding a law is."""

    MUST = "MUST"
    SHOULD = "SHOULD"  # the field does not agree: a failure is told and does not fail the candidate


class Overall(StrEnum):
    """What is said of a whole candidate."""

    CONFORMS = "conforms"
    FAILS = "fails"
    INCONCLUSIVE = "inconclusive"
    PARTIAL = "partial"  # no violation in the laws that were asked; the user left the others out
    VALUES_ONLY = "values_only"  # no violation, and nobody declared that its gradient cannot be read
    ERROR = "error"  # it could not be judged


@dataclass(frozen=True)
class Counterexample:
    """The smallest case found on which a law fails, and the id under which it is stored."""

    replay: str
    recipe: dict[str, Any]


@dataclass(frozen=True)
class LawResult:
    """What one law found of one candidate.

    ``cases`` were judged; ``vacuous`` more proved nothing; the candidate ``refused`` others, in the cells that
    ``refusals`` names. ``first_failure`` says which of the cases, counted from 1, failed first. ``follows`` is the law
    whose failure this one's is to be expected from.

    Raises:
        ValueError: for a counterexample of what is no failure, or a verdict that needs a reason and has none.
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

    def __post_init__(self) -> None:
        may_have = self.verdict.is_failure or self.verdict is Verdict.ALLOWED
        if self.counterexample is not None and not may_have:
            raise ValueError(f"law {self.id}: a counterexample belongs to a failure, and the verdict is {self.verdict}")
        if self.verdict in _WITH_A_REASON and not self.message:
            raise ValueError(f"law {self.id}: {self.verdict} needs its reason")

    @property
    def was_asked(self) -> bool:
        return self.verdict not in (Verdict.UNJUDGED, Verdict.NOT_ASKED)


_WITH_A_REASON = (Verdict.SKIP, Verdict.REFUSED, Verdict.ALLOWED, Verdict.UNJUDGED, Verdict.NOT_ASKED)


@dataclass(frozen=True)
class NamedBug:
    """A mutant that explains what was found: ``agreement`` is the share of the evidence that it predicts exactly."""

    mutant: str
    agreement: float
    detail: str
    formula: str
    seen: str
    also: tuple[str, ...] = ()  # mutants that predict the same on all of the evidence


@dataclass(frozen=True)
class Picture:
    """One small case drawn: each logit place with the label places expected and found, (−1, −1) for one off the
    drawing; ``of`` says which logits."""

    recipe: dict[str, Any]
    of: str
    labels: list[list[int]]
    expected: list[dict[str, Any]]
    found: list[dict[str, Any]]
    drawing: str


@dataclass(frozen=True)
class Difference:
    """How what was scored differs from the right ``pairs`` on ``cases``: pairs that are missing, added, or moved (where
    to, and how many); and how many of the ``weights`` looked at are off, by factors from least to most."""

    cases: int
    pairs: int
    missing: int
    added: int
    moved: Mapping[str, int]
    weights: int
    weights_off: int
    factors: tuple[float, float] | None


@dataclass(frozen=True)
class Comparison:
    """What should have been built and what was, on one small case: ``expected`` and ``found`` are rows along the last
    axis; ``of`` is the spec."""

    recipe: dict[str, Any]
    of: str
    expected: list[list[int]]
    found: list[list[int]]
    drawing: str


@dataclass(frozen=True)
class Coverage:
    """Which cells of the space of cases, structure × regime × dtype × reduction, have been judged.

    ``counts`` has every cell that laws that decide can judge, and how many cases they judged; ``advisory`` those of the
    other laws. Once ``due_after`` laws have been asked no cell may be missing; None where that is merely told.
    """

    counts: Mapping[str, int]
    advisory: Mapping[str, int] = field(default_factory=dict)
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

    def due(self, asked: int) -> tuple[str, ...]:
        """The cells that should have been judged by now that so many laws have been asked."""
        return self.missing if self.due_after is not None and asked >= self.due_after else ()

    def to_json(self) -> dict[str, Any]:
        return {"demanded": self.demanded, "hit": self.hit, "missing": list(self.missing), **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Coverage:
        """Read back what ``to_json`` wrote."""
        return cls(data["counts"], data["advisory"], data["due_after"])

    def with_that_of(self, other: Coverage) -> Coverage:
        """The coverage of two parts of one run."""

        def added(one: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
            return {cell: one.get(cell, 0) + more.get(cell, 0) for cell in sorted({*one, *more})}

        return Coverage(added(self.counts, other.counts), added(self.advisory, other.advisory), self.due_after)


@dataclass(frozen=True)
class CandidateResult:
    """Everything found of one candidate, on one device, in one dtype."""

    candidate: str
    call: str
    spec: str | None
    device: str
    dtype: str
    verdict: Overall
    python: str | None = None  # the interpreter that it was judged under; None is the judge's own
    environment_name: str = ""  # which of several interpreters that is, in words
    laws: tuple[LawResult, ...] = ()
    diagnosis: tuple[NamedBug, ...] = ()
    pairing: Picture | None = None  # of a loss
    difference: Difference | None = None  # of a loss that fails by no known bug
    built: Comparison | None = None  # of a label builder
    coverage: Coverage | None = None
    message: str = ""
    expect: str = "conforms"
    expected_diagnosis: str | None = None
    calls: int = 0
    seconds: float = 0.0
    seconds_in_candidate: float = 0.0
    seconds_in_oracle: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    scope: tuple[str, ...] = ()  # what the verdict is limited to: what the user declared away, and what was left out
    stale: tuple[str, ...] = ()  # what was declared away and matches nothing any more
    values_only: str = ""  # why its gradient could not be read, although nobody declared that it has none

    @property
    def cases(self) -> int:
        return sum(law.cases for law in self.laws)

    @property
    def asked(self) -> int:
        """How many laws were asked, of those that were planned."""
        return sum(law.was_asked for law in self.laws)

    @property
    def gaps(self) -> tuple[str, ...]:
        """The cells for whose lack this is no complete judgement."""
        return self.coverage.due(self.asked) if self.coverage is not None else ()

    @property
    def as_expected(self) -> bool:
        """Whether it got the verdict, and the name, that its declaration expects."""
        return str(self.verdict) == self.expect and self.has_expected_name

    @property
    def has_expected_name(self) -> bool:
        """Whether the bug is called as its declaration expects, if that expects a name."""
        names = {name for bug in self.diagnosis for name in (bug.mutant, *bug.also)}
        return self.expected_diagnosis is None or self.expected_diagnosis in names

    def to_json(self) -> dict[str, Any]:
        covered = self.coverage.to_json() if self.coverage is not None else None
        return {**asdict(self), "coverage": covered, "cases": self.cases, "as_expected": self.as_expected}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CandidateResult:
        """Read back what ``to_json`` wrote, as results travel between processes."""
        fields = {name: value for name, value in data.items() if name not in ("cases", "as_expected")}
        fields["verdict"] = Overall(fields["verdict"])
        fields["laws"] = tuple(law_from_json(law) for law in fields["laws"])
        fields["scope"], fields["stale"] = tuple(fields["scope"]), tuple(fields["stale"])
        fields["diagnosis"] = tuple(NamedBug(**{**bug, "also": tuple(bug["also"])}) for bug in fields["diagnosis"])
        fields["pairing"] = Picture(**fields["pairing"]) if fields["pairing"] else None
        fields["difference"] = difference_from_json(fields["difference"])
        fields["built"] = Comparison(**fields["built"]) if fields["built"] else None
        fields["coverage"] = Coverage.from_json(fields["coverage"]) if fields["coverage"] else None
        return cls(**fields)


def difference_from_json(data: dict[str, Any] | None) -> Difference | None:
    """Read back a Difference from ``dataclasses.asdict``."""
    return Difference(**{**data, "factors": data["factors"] and tuple(data["factors"])}) if data else None


def law_from_json(data: dict[str, Any]) -> LawResult:
    """Read back a LawResult from ``dataclasses.asdict``."""
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
    """What two processes found of one candidate, whose laws they asked in parts, as one. The verdict on it is still to
    come: see :func:`.conclusion.conclude`."""
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
        message=one.message or other.message,
        calls=one.calls + other.calls,
        seconds=max(one.seconds, other.seconds),
        seconds_in_candidate=one.seconds_in_candidate + other.seconds_in_candidate,
        seconds_in_oracle=one.seconds_in_oracle + other.seconds_in_oracle,
        scope=tuple(dict.fromkeys((*one.scope, *other.scope))),
        stale=tuple(dict.fromkeys((*one.stale, *other.stale))),
        values_only=one.values_only or other.values_only,
    )


_UNDECIDED = (Verdict.INCONCLUSIVE, Verdict.VACUOUS, Verdict.REFUSED)


def overall(laws: tuple[LawResult, ...], coverage: Coverage | None = None, values_only: str = "") -> Overall:
    """The verdict on a candidate from a result of every law that was planned.

    One MUST that fails is enough to fail. Then: what the judge could not ask, or had no answer to within the deadline
    and to nothing else, was not judged. What the user left out makes it partial. A MUST that was undecided or refused,
    no MUST that passed, or a lack of cells that had to be judged, is inconclusive.
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
    return Overall.VALUES_ONLY if values_only else Overall.CONFORMS
