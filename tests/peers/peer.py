"""What a driver is: one package's own loss, asked about one batch, answering in the reference's canonical layout.

A driver takes a `Batch` in canonical layout, hands the package what it expects, and returns an `Answer`: the value, and
the gradient of every array of logits, laid out as the batch's. `@peer` registers it under the package, the function
that computes the loss, and the profile that it speaks for. Options are fields of the profile's term or of its score
that differ from the profile (`label_smoothing=0.1`), and reach the driver by the same names; so stacked decorators give
one driver several rows in the table:

    @peer("liger-kernel", "liger_kernel.transformers.functional.liger_cross_entropy", "liger")
    @peer("liger-kernel", "liger_kernel.transformers.functional.liger_cross_entropy", "liger", softcap=5.0)
    def liger(batch, softcap=None): ...

A driver raises `Cannot` for a batch outside the package's domain and `Missing` when the package does not load; either
is a skip, with that reason. What the package cannot do in general is said once, beside it: see `Peer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from shiftproof.harness.cases.recipe import Regime
from shiftproof.reference.batch import Batch
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute, LossSpec, Score

DTYPES = ("float32", "bfloat16")
REGIMES = (Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.CALM, Regime.HUGE)


class Cannot(Exception):
    """The package cannot answer this batch. The message says why."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The loss's value, and d(sum of value)/d(logits) for every array of logits, in canonical layout."""

    value: Tensor
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Peer:
    """One row of the table: a driver with its options.

    Attributes:
        options: fields of the profile's first term, or of its score, that differ from the profile.
        variant: the package's own business, such as a chunk size, that changes nothing that is promised.
        within: from any batch of the profile to one that the package can answer.
        compute: the arithmetic of this function, where it is not the profile's; ``note`` says why.
        regimes, dtypes, classes: the logits that it is asked about; no classes: those of the profile.
        interpreted: whether its kernels are interpreted, which is slow, so that it is asked about small cases.
        nan_everywhere: whether a gradient of NaN is all right where the value is NaN for want of a pair: no profile
            promises what the gradient of 0/0 is. ``note`` says what the package does.
        differs: the name of the bug that shiftproof knows this function to have, or None where it is right.
        note: what the table says of the row.
    """

    distribution: str
    function: str
    profile: str
    driver: Callable[..., Answer]
    options: Mapping[str, object] = field(default_factory=dict)
    variant: Mapping[str, object] = field(default_factory=dict)
    within: Callable[[Batch], Batch] | None = None
    compute: Compute | None = None
    regimes: tuple[Regime, ...] = REGIMES
    dtypes: tuple[str, ...] = DTYPES
    classes: tuple[int, ...] = ()
    interpreted: bool = False
    nan_everywhere: bool = False
    differs: str | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """As the table and the test ids show it: ``liger_kernel … liger_cross_entropy[softcap=5.0]``."""
        options = ",".join(f"{name}={value}" for name, value in {**self.options, **self.variant}.items())
        return f"{self.function}[{options}]" if options else self.function

    @property
    def spec(self) -> LossSpec:
        """What this row promises: the profile with its options, and the arithmetic of the function."""
        profile = PROFILES[self.profile]
        of_score = {field.name for field in fields(Score)}
        first, *others = profile.terms
        score = replace(first.score, **{name: value for name, value in self.options.items() if name in of_score})
        term = replace(
            first, score=score, **{name: value for name, value in self.options.items() if name not in of_score}
        )
        return replace(profile, terms=(term, *others), compute=self.compute or profile.compute)

    @property
    def profiles(self) -> list[str]:
        """The profiles that this row speaks for: those that promise what its spec does, or the one it differs from."""
        same = [name for name, profile in PROFILES.items() if profile.terms == self.spec.terms]
        return sorted(same, key=lambda name: name != self.profile)

    def ask(self, batch: Batch) -> Answer:
        """The package's answer.

        Raises:
            Cannot: when the batch is outside its domain.
            Missing: when it is not installed.
        """
        return self.driver(batch, **self.options, **self.variant)


PEERS: list[Peer] = []
"""Every driver that the modules imported so far have registered."""


def peer(
    distribution: str,
    function: str,
    profile: str,
    *,
    within: Callable[[Batch], Batch] | None = None,
    variant: Mapping[str, object] | None = None,
    compute: Compute | None = None,
    regimes: tuple[Regime, ...] = REGIMES,
    dtypes: tuple[str, ...] = DTYPES,
    classes: tuple[int, ...] = (),
    interpreted: bool = False,
    nan_everywhere: bool = False,
    differs: str | None = None,
    note: str = "",
    **options: object,
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Registers a driver as a `Peer` with these attributes; all others are ``options``."""

    def register(driver: Callable[..., Answer]) -> Callable[..., Answer]:
        PEERS.append(
            Peer(
                distribution,
                function,
                profile,
                driver,
                options,
                variant or {},
                within,
                compute,
                regimes,
                dtypes,
                classes,
                interpreted,
                nan_everywhere,
                differs,
                note,
            )
        )
        return driver

    return register


def leaf(tensor: Tensor) -> Tensor:
    """A copy that gradients are asked for."""
    return tensor.detach().clone().requires_grad_()


def answer(value: Tensor, **leaves: Tensor) -> Answer:
    """The value and the leaves' gradients; 0 for a leaf that the value does not depend on."""
    tensors = list(leaves.values())
    found: tuple[Tensor | None, ...] = (None,) * len(tensors)
    if value.requires_grad:
        found = torch.autograd.grad(value.sum(), tensors, allow_unused=True)
    gradients = [torch.zeros_like(there) if it is None else it for it, there in zip(found, tensors, strict=True)]
    return Answer(value.detach(), dict(zip(leaves, gradients, strict=True)))


def shifted(tensor: Tensor, fill: int, by: int = 1) -> Tensor:
    """Moved left along the positions (axis 1), as data pipelines do it; the tail filled."""
    result = torch.full_like(tensor, fill)
    result[:, : max(tensor.shape[1] - by, 0)] = tensor[:, by:]
    return result


class Gives(nn.Module):
    """Stands where a model has its backbone or its head, and gives what it was made with, whatever it is asked."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self._output = [output]

    def forward(self, *args: object, **kwargs: object) -> object:
        return self._output[0]
