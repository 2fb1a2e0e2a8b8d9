"""What ``shiftproof.check`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shiftproof.reference.batch import Batch
from shiftproof.reference.builders import BuilderSpec

from ..cases.build import build_case
from ..cases.recipe import Recipe
from ..judge.loading import find_spec
from ..label_builders.cases import BuilderRecipe, build_builder_case
from ..report.events import RunFinished
from ..report.findings import as_html, as_text
from ..report.json_report import as_json, worst_of
from ..results import CandidateResult, LawResult, Level, NamedBug, Overall


class DoesNotConform(AssertionError):
    """A candidate is wrong, or could not be fully judged. Its text is the report.

    Attributes:
        result: all that was found.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(f"\n{result}")
        self.result = result


@dataclass(frozen=True)
class FailingCase:
    """The smallest case found on which a law fails.

    Attributes:
        law: the id of the law.
        message: what is wrong there.
        recipe: what the case is made of: sizes, masks, regime, dtype, seed.
        replay: the id for ``shiftproof replay``.
        spec: the spec that it was judged under.
    """

    law: str
    message: str
    recipe: Mapping[str, Any]
    replay: str
    spec: str

    def batch(self) -> Batch | Any:
        """The tensors of the case: a ``Batch``; for a label builder, its integers."""
        spec = find_spec(self.spec)
        if isinstance(spec, BuilderSpec):
            return build_builder_case(spec, BuilderRecipe.from_json(dict(self.recipe))).batch
        return build_case(spec, Recipe.from_json(dict(self.recipe))).batch


@dataclass(frozen=True)
class Result:
    """What was found about a target.

    It has a candidate for each device, and for each dtype if dtypes were given. ``laws``, ``diagnosis``,
    ``counterexample`` and ``picture`` are those of the first candidate with the worst verdict.

    In a condition, it is true if the verdict is CONFORMS. Its text is the report.
    """

    run: RunFinished

    @property
    def candidates(self) -> tuple[CandidateResult, ...]:
        """All that was found, one for each device and dtype."""
        return self.run.results

    @property
    def verdict(self) -> Overall:
        """The worst verdict: "conforms", "fails", "inconclusive", "partial", "values_only" or "error"."""
        return worst_of(self.run.results)

    @property
    def worst(self) -> CandidateResult:
        """The first candidate with that verdict."""
        return next(each for each in self.candidates if each.verdict is self.verdict)

    @property
    def laws(self) -> tuple[LawResult, ...]:
        """The result of every law."""
        return self.worst.laws

    @property
    def diagnosis(self) -> tuple[NamedBug, ...]:
        """The bug by name: none, one, or two at once."""
        return self.worst.diagnosis

    @property
    def counterexample(self) -> FailingCase | None:
        """The smallest case found on which a MUST law fails."""
        worst = self.worst
        failing = (law for law in worst.laws if law.verdict.is_failure and law.level is Level.MUST)
        law = next((law for law in failing if law.counterexample is not None), None)
        if law is None or law.counterexample is None:
            return None
        shown = law.counterexample
        return FailingCase(law.id, law.message, shown.recipe, shown.replay, worst.spec or "")

    @property
    def picture(self) -> str:
        """Which label each logit was scored on, drawn; for a label builder, the labels. "" if there is none."""
        drawn = self.worst.pairing or self.worst.built
        return "" if drawn is None else drawn.drawing

    @property
    def seed(self) -> int:
        """The seed that draws the same cases again."""
        return self.run.seed

    def to_json(self) -> dict[str, Any]:
        """The report as plain data, as ``shiftproof check --json`` writes it."""
        return as_json(self.run)

    def raise_for_failure(self) -> None:
        """Do nothing if the verdict is CONFORMS.

        Raises:
            DoesNotConform: for any other verdict. It is an AssertionError, and its text is the report.
        """
        if not self:
            raise DoesNotConform(self)

    def __bool__(self) -> bool:
        return self.verdict is Overall.CONFORMS

    def __str__(self) -> str:
        return "\n".join(map(as_text, self.candidates))

    def __repr__(self) -> str:
        worst = self.worst
        names = f", {'+'.join(bug.mutant for bug in worst.diagnosis)}" if worst.diagnosis else ""
        return f"<{self.verdict}{names}: {worst.candidate} against {worst.spec}, {worst.cases} cases>"

    def _repr_html_(self) -> str:
        return "\n".join(map(as_html, self.candidates))
