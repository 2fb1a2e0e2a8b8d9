"""The result for one class of a library, as one line of a sweep's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from ..results import Counterexample


class Outcome(StrEnum):
    """The outcome of a class."""

    CONFORMS = "conforms"
    FAILS = "fails"
    UNSHIFTED = "unshifted"  # scores each logit on the label at the same place: the caller must shift
    NO_PAIRS = "no-pairs"  # its loss scores no logit on one label, as CTC, regression and flow: no loss of this kind
    NOT_BUILT = "not-built"  # a small instance could not be made
    NOT_JUDGED = "not-judged"  # an instance was made, but no answer came


class Documentation(StrEnum):
    """Whether the documentation of a class states that it does not shift."""

    BY = "by its documentation"
    AGAINST = "against it"
    SILENT = ""


@dataclass(frozen=True)
class Row:
    """The result for one class.

    Attributes:
        target: ``package:Class``.
        reason: the reason in one line, for every outcome but ``conforms``.
        laws: ids of the laws that fail.
        diagnosis: names of the bugs that explain it.
        alignment: in words, which label a logit is scored on, such as ``k=1`` or ``k=0, inputs shifted by the model``.
        documentation, sentence: for an unshifted class, what its documentation states about that, and the sentence.
        prefix: the number of logits in a row before the first one of a label (of an image, a prompt, …).
        seconds: the time spent on it.
        counterexample: the smallest failing case, and the id under which it is stored, if it is.
        environment: the versions under which it was judged.
        seed: the seed that its cases were drawn from.

    Raises:
        ValueError: for values that no judge can have found: a missing reason or one of several lines, failed laws of a
            class that conforms, documentation of a missing shift for a class that is not unshifted.
    """

    target: str
    outcome: Outcome
    reason: str = ""
    laws: tuple[str, ...] = ()
    diagnosis: tuple[str, ...] = ()
    alignment: str = ""
    documentation: Documentation = Documentation.SILENT
    sentence: str = ""
    prefix: int = 0
    seconds: float = 0.0
    counterexample: Counterexample | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.reason.splitlines()) != 1 and (self.reason or self.outcome is not Outcome.CONFORMS):
            raise ValueError(f"{self.target} {self.outcome}: expected a reason of one line, got {self.reason!r}")
        if self.outcome is Outcome.CONFORMS and (self.laws or self.diagnosis or self.counterexample):
            raise ValueError(f"{self.target} conforms, so it must have no law, diagnosis or counterexample")
        if self.documentation and self.outcome is not Outcome.UNSHIFTED:
            raise ValueError(f"{self.target} {self.outcome}: only an unshifted class can be so {self.documentation}")

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.target.rpartition(":")[2]

    @property
    def is_alarm(self) -> bool:
        """Whether a user who trains it as documented trains on the wrong thing."""
        return bool(self.laws) or self.documentation is Documentation.AGAINST

    @property
    def is_verdict(self) -> bool:
        """Whether it was judged whether its logits are scored on the right labels."""
        return self.outcome not in (Outcome.NO_PAIRS, Outcome.NOT_BUILT, Outcome.NOT_JUDGED)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to find about its loss: it was judged, or it has no pairs to judge."""
        return self.is_verdict or self.outcome is Outcome.NO_PAIRS

    @property
    def may_be_tried_again(self) -> bool:
        """Whether a later sweep may find a verdict where this one found none."""
        return self.outcome is Outcome.NOT_JUDGED

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "outcome": str(self.outcome),
            "documentation": str(self.documentation),
            "laws": list(self.laws),
            "diagnosis": list(self.diagnosis),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """Read back the output of ``to_json``."""
        found = data["counterexample"]
        return cls(
            **{
                **data,
                "outcome": Outcome(data["outcome"]),
                "documentation": Documentation(data["documentation"]),
                "laws": tuple(data["laws"]),
                "diagnosis": tuple(data["diagnosis"]),
                "counterexample": Counterexample(**found) if found else None,
            }
        )


def not_judged(target: str, reason: str, seconds: float = 0.0, seed: int = 0) -> Row:
    """Return the row of a class without an answer. It keeps the first line of ``reason``."""
    line = reason.strip().partition("\n")[0].strip() or "no reason was given"
    return Row(target, Outcome.NOT_JUDGED, line, seconds=round(seconds, 3), seed=seed)
