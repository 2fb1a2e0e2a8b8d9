"""Known-wrong scores: the right pairs and weights, but another ℓ than promised.

Pairs and weights do not show these bugs, so the diagnosis compares value and gradient. Each mutant is a wrong ℓ in
plain torch, and its gradient comes from autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shiftproof.reference.batch import Batch
from shiftproof.reference.pairing import Pairing
from shiftproof.reference.score import charge
from shiftproof.reference.spec import Score, Smoothing

Wrong = Callable[[Tensor, Tensor, Score, Tensor | None], Tensor]
"""(rows [n, V] float64, targets [n], the promised score, class weights [V]) -> the score used instead, [n]."""


@dataclass(frozen=True)
class ScoreMutant:
    """A wrong score. ``applies`` states under which promised scores it is possible."""

    name: str
    formula: str
    seen: str
    applies: Callable[[Score], bool]
    wrong: Wrong

    @property
    def needs(self) -> str:
        """What a spec must have for this bug."""
        return _NEEDED[self.name.partition("-")[0]]


_NEEDED = {
    "smoothing": "label smoothing",
    "softcap": "a softcap",
    "scale": "a logit_scale",
    "z": "a z-loss",
    "dft": "dft",
    "class": "class weights",
}


def taken(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    """Return the right score, differentiably."""
    return _of_logits(_capped(rows * how.logit_scale, how.softcap), targets, how, class_weights)


def _capped(z: Tensor, softcap: float | None) -> Tensor:
    return z if softcap is None else softcap * torch.tanh(z / softcap)


def _of_logits(
    z: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None, *, attached: bool = False
) -> Tensor:
    lse = torch.logsumexp(z, -1)
    target, every = charge(how, z.shape[-1], class_weights)
    of_target = lse - z.gather(-1, targets[:, None]).squeeze(-1)
    loss = target[targets] * of_target + (lse[:, None] - z) @ every + how.z_loss * lse**2
    if how.dft:
        p = torch.exp(-of_target)
        loss = loss * (p if attached else p.detach())
    return loss


def _otherwise(**fields: object) -> Wrong:
    """Return the score with some of its fields changed."""

    def wrong(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
        return taken(rows, targets, replace(how, **fields), class_weights)  # type: ignore[arg-type]

    return wrong


def _other_set(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    other = Smoothing.OTHERS if how.smoothing_over is Smoothing.ALL else Smoothing.ALL
    return taken(rows, targets, replace(how, smoothing_over=other), class_weights)


def _inverted(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    return taken(rows, targets, replace(how, logit_scale=1 / how.logit_scale), class_weights)


def _times_tanh(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    z = rows * how.logit_scale
    return _of_logits(z * torch.tanh(z / (how.softcap or 1.0)), targets, how, class_weights)


def _forward_only(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    z = rows * how.logit_scale
    return _of_logits(z + (_capped(z, how.softcap) - z).detach(), targets, how, class_weights)


def _not_squared(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    lse = torch.logsumexp(_capped(rows * how.logit_scale, how.softcap), -1)
    return taken(rows, targets, replace(how, z_loss=0.0), class_weights) + how.z_loss * lse


def _through_p(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    z = _capped(rows * how.logit_scale, how.softcap)
    return _of_logits(z, targets, how, class_weights, attached=True)


def _smoothed(how: Score) -> bool:
    return how.label_smoothing > 0


def _has_softcap(how: Score) -> bool:
    return how.softcap is not None


def _is_scaled(how: Score) -> bool:
    return how.logit_scale != 1


def _has_z_loss(how: Score) -> bool:
    return how.z_loss > 0


def _is_dft(how: Score) -> bool:
    return how.dft


SCORES: dict[str, ScoreMutant] = {
    mutant.name: mutant
    for mutant in (
        ScoreMutant("smoothing-unused", "ε = 0", "an easy slip", _smoothed, _otherwise(label_smoothing=0.0)),
        ScoreMutant(
            "smoothing-wrong-set",
            "ε is shared by all V classes where the V−1 others were promised, or the other way round",
            "torch's smoothing under fairseq's promise",
            _smoothed,
            _other_set,
        ),
        ScoreMutant("softcap-unused", "no softcap", "an easy slip", _has_softcap, _otherwise(softcap=None)),
        ScoreMutant("softcap-formula", "x·tanh(x/c)", "unsloth-zoo", _has_softcap, _times_tanh),
        ScoreMutant(
            "softcap-forward-only",
            "the gradient is that of logits without their softcap",
            "an easy slip in a hand-written backward",
            _has_softcap,
            _forward_only,
        ),
        ScoreMutant("scale-unused", "no logit_scale", "an easy slip", _is_scaled, _otherwise(logit_scale=1.0)),
        ScoreMutant("scale-inverted", "divides by logit_scale", "a temperature for a scale", _is_scaled, _inverted),
        ScoreMutant("z-loss-unused", "no z-loss", "an easy slip", _has_z_loss, _otherwise(z_loss=0.0)),
        ScoreMutant("z-loss-not-squared", "s·lse for s·lse²", "an easy slip", _has_z_loss, _not_squared),
        ScoreMutant("dft-unused", "plain cross-entropy", "an easy slip", _is_dft, _otherwise(dft=False)),
        ScoreMutant("dft-not-detached", "the gradient flows through p_y too", "an easy slip", _is_dft, _through_p),
        ScoreMutant(
            "class-weights-unused",
            "class weights are accepted and not used in the score",
            "an easy slip",
            lambda how: how.class_weights,
            _otherwise(class_weights=False),
        ),
    )
}


def predict_score(wrong: Wrong, pairing: Pairing, batch: Batch) -> tuple[float, Mapping[str, Tensor]]:
    """Return value and gradients of a loss with exactly these pairs and the score ``wrong`` in every term."""
    leaves = {name: batch.tensor(name).double().detach().requires_grad_() for name in pairing.shapes}
    total = torch.zeros((), dtype=torch.float64)
    for index, term in enumerate(pairing.terms):
        _, rows, targets, weights = pairing.by_term[index]
        class_weights = batch.tensor("class_weights").double() if term.score.class_weights else None
        flat = leaves[term.logits].flatten(0, -2)[rows]
        total = total + (weights * wrong(flat, targets, term.score, class_weights)).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    gradients = {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }
    return float(total.detach()), gradients
