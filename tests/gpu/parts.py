"""The parts, in the order of their worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A module of this folder that is run in a process of its own.

    ``share`` is how much of the time is its own; what it leaves goes to those after it.
    """

    name: str
    module: str
    about: str
    share: float


PARTS = {
    part.name: part
    for part in (
        Part("laws", "laws", "every law of real losses: torch's, the examples', transformers', fused ones", 120),
        Part("kernel", "marked", "the tests of the yardstick's Triton kernels that need a GPU", 90),
        Part("yardstick", "laws", "every law of the yardstick", 90),
        Part("large", "large", "losses of more than 2³¹ logits, each row of their gradient", 40),
        Part("figures", "figures", "time and memory of losses, as a share of the copy bandwidth", 150),
        Part("worker", "marked", "the other tests that need a GPU: the candidate's process, cheats", 50),
        Part("speed", "speed", "shiftproof speed", 30),
    )
}
