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
        varies_sizes: whether the candidate is judged at sizes beyond the ordinary ones too: at pairs of size classes,
            and where its own code takes another way.
        compiled_by: the backends of torch.compile under which every candidate is judged too.
    """

    name: str
    factor: float
    seed: int | None = None
    complete: bool = False
    varies_sizes: bool = False
    compiled_by: tuple[str, ...] = ()


PROFILES: dict[str, Profile] = {
    "brief": Profile("brief", 0.1),  # for candidates that take a second per case, and for hundreds of candidates
    "quick": Profile("quick", 1.0, varies_sizes=True),
    "ci": Profile("ci", 2.0, seed=0, complete=True, varies_sizes=True, compiled_by=("eager",)),
    "deep": Profile("deep", 20.0, complete=True, varies_sizes=True, compiled_by=("eager", "inductor")),
}
