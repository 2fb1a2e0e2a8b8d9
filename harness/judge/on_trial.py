"""What the judge needs to know of a trial, whether of a loss or of a label builder."""

from __future__ import annotations

from typing import Any, Protocol

from ..candidates.declaration import Candidate
from .coverage import Counted


class Named(Protocol):
    @property
    def name(self) -> str: ...


class OnTrial(Counted, Protocol):
    """The interface of a trial, of a loss or of a builder, that the judge uses. Laws know the rest."""

    ahead: Any
    """The recipe that is asked about next, or None."""

    regions: Any
    """Cases for every law at sizes at which the candidate's own code takes another way."""

    near_regions: Any
    """More cases there, if the candidate is not slow."""

    def affords(self, recipe: Any) -> bool:
        """Whether the case of a region is small enough to be called again and again."""

    def takes_long(self, recipe: Any) -> bool:
        """Whether a call on this case would take seconds, by the calls so far."""

    @property
    def candidate(self) -> Candidate: ...

    @property
    def spec(self) -> Named: ...

    @property
    def device(self) -> str: ...

    @property
    def failed(self) -> set[str]: ...

    @property
    def unjudged(self) -> dict[str, str]:
        """The laws that could not be asked so far: id -> reason."""

    @property
    def share(self) -> float:
        """The part of each law's budget that this candidate gets."""

    @property
    def most_places(self) -> int:
        """The most B·S of a case at a size beyond the ordinary ones."""

    def skip_reason(self, law: str) -> str | None:
        """The reason why the law with this id does not apply to the candidate, or None."""

    def fit(self, recipe: Any) -> Any:
        """Return the recipe with the fields that all cases of this trial share."""
