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
    SKIP = "skip"  # not asked, with a reason
    VACUOUS = "vacuous"  # a case that would have let a null candidate pass
    INCONCLUSIVE = "inconclusive"
    UNJUDGED = "unjudged"  # the judge could not ask: nothing is said of the candidate

    @property
    def is_failure(self) -> bool:
        return self in (Verdict.FAIL, Verdict.ERROR, Verdict.CRASH, Verdict.TIMEOUT)

    @property
    def is_costly(self) -> bool:
        """Whether it cost a process or a deadline, and the next question may cost another."""
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
    ERROR = "error"  # it could not be judged at all


@dataclass(frozen=True)
class Counterexample:
    """The smallest case found on which a law fails, and the id under which it is stored."""

    replay: str
    recipe: dict[str, Any]


@dataclass(frozen=True)
class LawResult:
    """What one law found of one candidate.

    ``cases`` were judged; ``vacuous`` more proved nothing. ``first_failure`` says which of the cases, counted from 1,
    failed first. ``follows`` is the law whose failure this one's is to be expected from.
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

    def __post_init__(self) -> None:
        if self.counterexample is not None and not self.verdict.is_failure:
            raise ValueError(f"law {self.id}: a counterexample belongs to a failure, and the verdict is {self.verdict}")
        if self.verdict is Verdict.SKIP and not self.message:
            raise ValueError(f"law {self.id}: a skip needs its reason")
        if self.verdict is Verdict.UNJUDGED and not self.message:
            raise ValueError(f"law {self.id}: what could not be asked needs its reason")


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

    @property
    def cases(self) -> int:
        return sum(law.cases for law in self.laws)

    @property
    def gaps(self) -> tuple[str, ...]:
        """The cells for whose lack this is no complete judgement."""
        return self.coverage.due(len(self.laws)) if self.coverage is not None else ()

    @property
    def as_expected(self) -> bool:
        """Whether it got the verdict, and the name, that its declaration expects."""
        if str(self.verdict) != self.expect:
            return False
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
        }
    )


def merge(one: CandidateResult, other: CandidateResult) -> CandidateResult:
    """Two partial results of one candidate, whose laws were asked in different processes, as one."""
    laws = {law.id: law for law in (*one.laws, *other.laws)}
    together = tuple(laws.values())
    broken = any(each.verdict is Overall.ERROR and not each.laws for each in (one, other))
    covered = one.coverage or other.coverage
    if one.coverage is not None and other.coverage is not None:
        covered = one.coverage.with_that_of(other.coverage)
    return replace(
        one,
        laws=together,
        verdict=Overall.ERROR if broken else overall(together, covered),
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
    )


def overall(laws: tuple[LawResult, ...], coverage: Coverage | None = None) -> Overall:
    """The verdict on a candidate from its laws'. One failed MUST fails it, but missed deadlines alone are an error, and
    so is a law of any level that could not be asked. Nothing judged is inconclusive, and so is a lack of cells that had
    to be judged."""
    failed = {law.verdict for law in laws if law.verdict.is_failure and law.level is Level.MUST}
    if failed - {Verdict.TIMEOUT}:
        return Overall.FAILS
    if failed or any(law.verdict is Verdict.UNJUDGED for law in laws):
        return Overall.ERROR
    undecided = (Verdict.INCONCLUSIVE, Verdict.VACUOUS)
    if any(law.verdict in undecided and law.level is Level.MUST for law in laws):
        return Overall.INCONCLUSIVE
    if not any(law.verdict is Verdict.PASS and law.level is Level.MUST for law in laws):
        return Overall.INCONCLUSIVE
    if coverage is not None and coverage.due(len(laws)):
        return Overall.INCONCLUSIVE
    return Overall.CONFORMS


def why_unjudged(laws: tuple[LawResult, ...]) -> str:
    """What kept a candidate whose verdict is ERROR from being judged, in a sentence; "" where no law says."""
    for law in laws:
        if law.verdict is Verdict.UNJUDGED:
            return f"{law.id}: the candidate {law.message}"
    late = [law for law in laws if law.verdict is Verdict.TIMEOUT and law.level is Level.MUST]
    if not late:
        return ""
    return (
        f"{late[0].id}: the candidate {late[0].message}, and no law failed otherwise. It hangs, or it is slow, or the "
        "machine is busy: try a longer --deadline"
    )
