"""How much a run judges."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """How much a run judges.

    Attributes:
        factor: multiplies each law's budget of cases.
        seed: a fixed seed, if runs must be repeatable.
        complete: whether every cell of the space that can be judged must be judged.
        finds_regions: whether the candidate is traced for sizes at which its code takes another way.
    """

    name: str
    factor: float
    seed: int | None = None
    complete: bool = False
    finds_regions: bool = True


PROFILES: dict[str, Profile] = {
    "brief": Profile(
        "brief", 0.1, finds_regions=False
    ),  # for candidates that take a second per case, and for hundreds of candidates
    "quick": Profile("quick", 1.0),
    "ci": Profile("ci", 2.0, seed=0, complete=True),
    "deep": Profile("deep", 20.0, complete=True),
}
