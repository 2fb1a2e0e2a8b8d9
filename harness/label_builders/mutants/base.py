"""What a known-wrong label builder is, and what several of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from shiftproof.reference.builders import (
    BuilderBatch,
    BuilderSpec,
    answer,
)

Wrong = Callable[[BuilderSpec, BuilderBatch, str], Tensor]
"""Returns the output of a buggy builder for a batch. The string selects the variant of the bug."""


@dataclass(frozen=True)
class BuilderMutant:
    """A re-enacted bug that shipped, or an easy slip.

    Attributes:
        name: the name of the bug, as in the diagnosis.
        of: the specs under which the bug is possible.
        formula: what is built instead.
        tells: the smallest input on which it differs from the right builder.
        seen: where the bug happened.
        details: the variants of the bug. ``wrong`` gets one of them.
    """

    name: str
    of: tuple[str, ...]
    formula: str
    tells: str
    seen: str
    details: tuple[str, ...]
    wrong: Wrong


BUILDER_MUTANTS: dict[str, BuilderMutant] = {}

_SLIP = "an easy slip"
MASKS = ("mask.padding", "mask.prompt", "mask.prompt.left", "mask.assistant", "mask.turns")
HIGGS = ("delay.labels.boson", "delay.labels.filled", "delay.labels.hf")


def mutants_of(spec: BuilderSpec) -> tuple[BuilderMutant, ...]:
    """Return the known-wrong builders of one spec."""
    return tuple(mutant for mutant in BUILDER_MUTANTS.values() if spec.name in mutant.of)


def mutant(
    name: str, *, of: Iterable[str], formula: str, tells: str, seen: str = _SLIP, details: tuple[str, ...] = ("",)
) -> Callable[[Wrong], Wrong]:
    """Register the decorated function as a mutant."""

    def register(wrong: Wrong) -> Wrong:
        if name in BUILDER_MUTANTS:
            raise ValueError(f"two mutants have the name {name!r}")
        BUILDER_MUTANTS[name] = BuilderMutant(name, tuple(of), formula, tells, seen, details, wrong)
        return wrong

    return register


def right_of(spec: BuilderSpec, batch: BuilderBatch) -> Tensor:
    return answer(spec.build, batch)


def fitted(built: Tensor, right: Tensor, fill: int) -> Tensor:
    """Cut or pad ``built`` at its end to the right number of frames, so that its shape does not give the bug away."""
    frames, wanted = built.shape[-1], right.shape[-1]
    if frames >= wanted:
        return built[..., :wanted]
    return torch.cat([built, built.new_full((*built.shape[:-1], wanted - frames), fill)], dim=-1)


def known(value: int | None) -> int:
    assert value is not None  # every batch of cases.py has its special ids
    return value


def ids_of(batch: BuilderBatch) -> Tensor:
    assert batch.input_ids is not None
    return batch.input_ids
