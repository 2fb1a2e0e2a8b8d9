"""Who is to be tried, and how: what the process of one trial is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tried:
    """Which candidate, under which spec (``laid_out`` as that says, or as batches are), and how many cases.

    Attributes:
        factor: times each law's usual number of cases.
        expect, diagnosis: how its declaration says it ends: "conforms", or "fails" and under which name.
        needs: what torch.nn.functional has to have for it.
    """

    part: str
    name: str
    call: str
    spec: str
    dtype: str
    device: str
    factor: float
    precision: str | None = None
    laid_out: bool = True
    expect: str = "conforms"
    diagnosis: str | None = None
    needs: str | None = None

    @property
    def title(self) -> str:
        return f"{self.name} [{self.dtype}]"
