"""Losses that are right in exact arithmetic and wrong in their own arithmetic. The mutants use that arithmetic too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.pairing import Pair, Pairing, aligned
from shiftproof.reference.score import charge
from shiftproof.reference.spec import LossSpec, Score

from ..candidates.loss import Observation
from ..candidates.variant import Asked
from .behaviour import Act, Behaviour, answer, computed, needs_fp32, variants
from .scores import Wrong

LogP = Callable[[Tensor], Tensor]
"""z [n, V] -> the candidate's version of −log softmax(z), [n, V], in the dtype of z."""


def _scored(of_z: LogP, narrow: bool = False) -> Act:
    """Return a loss over −log p from ``of_z``, in fp32, or in the dtype of the logits if ``narrow``."""

    def score(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
        z = rows if how.logit_scale == 1 else rows * how.logit_scale
        z = z if how.softcap is None else how.softcap * torch.tanh(z / how.softcap)
        cost = of_z(z)
        charges = charge(how, rows.shape[-1], class_weights)
        of_target = cost.gather(-1, targets[:, None]).squeeze(-1)
        loss = charges.target[targets].to(z.dtype) * of_target
        if how.label_smoothing:
            loss = loss + cost @ charges.every.to(z.dtype)
        if how.z_loss:
            loss = loss + how.z_loss * torch.logsumexp(z, -1) ** 2
        return loss * torch.exp(-of_target.detach()) if how.dft else loss

    return lambda asked: computed(asked, score, None if narrow else torch.float32)


def _overflowing(z: Tensor) -> Tensor:
    return torch.log(torch.exp(z).sum(-1, keepdim=True)) - z


def _log_eps(eps: float) -> LogP:
    return lambda z: -torch.log(torch.softmax(z, -1) + eps)


def _z_clamped(most: float) -> LogP:
    return lambda z: -torch.log_softmax(z.clamp(-most, most), -1)


def _p_clamped(least: float) -> LogP:
    return lambda z: -torch.log(torch.softmax(z, -1).clamp(least, 1.0))


def _plain(z: Tensor) -> Tensor:
    return -torch.log_softmax(z, -1)


def _narrow_lse(z: Tensor) -> Tensor:
    """Return logsumexp rounded to bf16, minus z."""
    return torch.logsumexp(z, -1, keepdim=True).to(torch.bfloat16).to(z.dtype) - z


def _sees_offsets(spec: LossSpec) -> str | None:
    if any(term.score.softcap for term in spec.terms):
        return "logits that are not capped: an offset is gone before the logsumexp"
    return needs_fp32(spec)


def _over_ignored(extra: Wrong, applies: Callable[[Score], bool]) -> Act:
    """Add ``extra`` to the right loss at every aligned place whose label does not count, weighted like a pair."""

    def act(asked: Asked) -> Observation:
        case = asked.case
        pairs: list[Pair] = []
        for index, term in enumerate(case.spec.terms):
            own = {pair.logit: pair for pair in case.pairing.pairs if pair.term == index}
            if not applies(term.score) or not own:
                continue
            weight = next(iter(own.values())).weight
            pairs += [Pair(index, at, label, 0, weight) for at, label in aligned(term, case.batch) if at not in own]
        if not pairs:
            return answer(asked)
        added = replace(case.pairing, pairs=tuple(pairs), empty=0.0)
        return _sum(asked, answer(asked), computed(replace_pairing(asked, added), extra, torch.float64))

    return act


def replace_pairing(asked: Asked, pairing: Pairing) -> Asked:
    """Return the same call on a case that pretends to have other pairs."""
    return replace(asked, case=replace(asked.case, pairing=pairing))


def _sum(asked: Asked, one: Observation, other: Observation) -> Observation:
    assert one.returned is not None
    assert other.returned is not None
    assert one.value is not None
    assert other.value is not None
    gradients = None
    if one.gradients is not None and other.gradients is not None:
        gradients = {name: gradient + other.gradients[name] for name, gradient in one.gradients.items()}
    return replace(one, value=one.value + other.value, returned=one.returned + other.returned, gradients=gradients)


def _smoothed_part(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    z = rows * how.logit_scale
    z = z if how.softcap is None else how.softcap * torch.tanh(z / how.softcap)
    every = charge(how, rows.shape[-1], class_weights).every.to(rows.dtype)
    return -torch.log_softmax(z, -1) @ every


def _squared_lse(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    z = rows * how.logit_scale
    z = z if how.softcap is None else how.softcap * torch.tanh(z / how.softcap)
    return how.z_loss * torch.logsumexp(z, -1) ** 2


def _smoothed(score: Score) -> bool:
    return score.label_smoothing > 0


def _has_z_loss(score: Score) -> bool:
    return score.z_loss > 0


def _needs(applies: Callable[[Score], bool], what: str) -> Callable[[LossSpec], str | None]:
    return lambda spec: None if any(applies(term.score) for term in spec.terms) else what


NUMERICS: tuple[Behaviour, ...] = (
    *variants(
        "offset-cancel",
        [("logsumexp in bf16", _scored(_narrow_lse))],
        formula="logsumexp(z) − z_y, the logsumexp rounded far from 0 (in fp32 the bounds allow it, and Liger does it)",
        tells="logits with a large offset",
        seen="mlx#4188",
        needs=_sees_offsets,
        dtype="bfloat16",
        numeric=True,
    ),
    *variants(
        "exp-overflow",
        [("", _scored(_overflowing))],
        formula="log Σ exp(z) without taking the maximum off first",
        tells="logits of 1e4",
        seen="common",
        needs=_sees_offsets,
        numeric=True,
    ),
    *variants(
        "log-eps",
        [(f"{eps:g}", _scored(_log_eps(eps))) for eps in (1e-12, 1e-10, 1e-8, 1e-6)],
        formula="−log(p_y + ε)",
        tells="p_y → 0",
        seen="common",
        needs=needs_fp32,
        numeric=True,
    ),
    *variants(
        "clamped",
        [
            *((f"z to ±{most:g}", _scored(_z_clamped(most))) for most in (20.0, 50.0, 100.0)),
            *((f"p from {least:g}", _scored(_p_clamped(least))) for least in (1e-12, 1e-7)),
        ],
        formula="logits or probabilities are clamped",
        tells="logits of ±1e4; p_y → 0",
        seen="common",
        needs=needs_fp32,
        numeric=True,
    ),
    *variants(
        "no-upcast",
        [("", _scored(_plain, narrow=True))],
        formula="scored in the dtype of the logits where fp32 was promised",
        tells="bf16 and p_y near 1",
        seen="unsloth#1254",
        needs=needs_fp32,
        dtype="bfloat16",
        numeric=True,
    ),
    *variants(
        "smooth-ignored",
        [("", _over_ignored(_smoothed_part, _smoothed))],
        formula="the smoothed part ε runs over ignored rows too",
        tells="ε > 0 and an ignored label",
        seen="pytorch#73205",
        needs=_needs(_smoothed, "label smoothing"),
    ),
    *variants(
        "aux-over-ignored",
        [("", _over_ignored(_squared_lse, _has_z_loss))],
        formula="the z-loss runs over ignored rows too",
        tells="a z-loss and an ignored label",
        seen="Bamba",
        needs=_needs(_has_z_loss, "a z-loss"),
    ),
)
