"""What became of one class of a library, as one line of a sweep's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from ..verdict import Counterexample


class Outcome(StrEnum):
    """What is said of a class."""

    CONFORMS = "conforms"
    FAILS = "fails"
    UNSHIFTED = "unshifted"  # scores each logit on the label beside it: the caller has to shift
    NOT_BUILT = "not-built"  # no small one could be made
    NOT_JUDGED = "not-judged"  # it was made, and then no answer came


class Documentation(StrEnum):
    """Whether a class that does not shift is documented not to."""

    BY = "by its documentation"
    AGAINST = "against it"
    SILENT = ""


@dataclass(frozen=True)
class Row:
    """One class, judged.

    Attributes:
        target: ``package:Class``.
        reason: one line on why, for every outcome but ``conforms``.
        laws: ids of the laws that fail.
        diagnosis: names of the bugs that explain it.
        alignment: which label a logit is scored on, in words, such as ``k=1`` or ``k=0, inputs shifted by the model``.
        documentation, sentence: of an unshifted class, what its documentation says of that, and where it says so.
        prefix: how many logits a row has before the first of a label (of an image, a prompt, …).
        seconds: spent on it.
        counterexample: the smallest failing case, and the id under which it is stored, if it is.
        environment: versions of what it was judged under.
        seed: what its cases were drawn from.

    Raises:
        ValueError: for what no judge can have found: a reason that is missing or has several lines, laws that failed of
            a class that conforms, documentation of a shift that is not missing.
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
            raise ValueError(f"{self.target} {self.outcome}: expected one line of reason, got {self.reason!r}")
        if self.outcome is Outcome.CONFORMS and (self.laws or self.diagnosis or self.counterexample):
            raise ValueError(f"{self.target} conforms: no law, diagnosis or counterexample belongs to that")
        if self.documentation and self.outcome is not Outcome.UNSHIFTED:
            raise ValueError(f"{self.target} {self.outcome}: only what is unshifted is so {self.documentation}")

    @property
    def name(self) -> str:
        """The class alone."""
        return self.target.rpartition(":")[2]

    @property
    def is_alarm(self) -> bool:
        """Whether whoever trains it as documented trains on the wrong thing."""
        return bool(self.laws) or self.documentation is Documentation.AGAINST

    @property
    def is_verdict(self) -> bool:
        """Whether anything was found out about its loss."""
        return self.outcome not in (Outcome.NOT_BUILT, Outcome.NOT_JUDGED)

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
        """Read back what ``to_json`` wrote."""
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
    """The row of a class on which no answer came; of ``reason`` its first line."""
    line = reason.strip().partition("\n")[0].strip() or "no reason was given"
    return Row(target, Outcome.NOT_JUDGED, line, seconds=round(seconds, 3), seed=seed)
