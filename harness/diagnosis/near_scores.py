"""Scores near the promised one, for right pairs with other numbers: another constant, softcap or smoothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from shiftproof.reference.score import charge
from shiftproof.reference.spec import LossSpec, Score, Smoothing

from ..mutants.scores import Wrong, predict_score, taken
from .evidence import Evidence

_POINTS = 33  # of the first, coarse search
_STEPS = 40  # of the golden section between two of these points
_GOLDEN = (math.sqrt(5) - 1) / 2
_CASES = 6  # that a constant is fitted on; the caller proves it on all
_SMALLEST_WEIGHT = 1e-6
_ALIKE = 0.01


def other_scores(evidence: Sequence[Evidence], spec: LossSpec) -> Iterator[tuple[Wrong, str]]:
    """Yield scores that differ from the promised one in its softcap or in one constant, each with its words.

    A constant is fitted to the values of the evidence. The words are like "logit_scale is 1.05, not 1". Whether the
    score explains the evidence is for the caller to see.
    """
    fitted = [each for each in evidence if _is_fit(each)][:_CASES]
    how = spec.terms[0].score
    if not fitted or any(term.score != how for term in spec.terms):
        return
    if how.softcap is not None:
        yield _twice, "the softcap is applied twice"
        yield _cut, f"logits are cut at ±{how.softcap:g} in place of a tanh"
    searched: list[tuple[str, float | None, float, float]] = [
        ("logit_scale", how.logit_scale, how.logit_scale / 8, how.logit_scale * 8),
        ("softcap", how.softcap, (how.softcap or 8.0) / 8, (how.softcap or 64.0) * 8),
        ("label_smoothing", how.label_smoothing, 1e-3, 0.9),
        ("z_loss", how.z_loss, 1e-6, 10.0),
    ]
    for name, promised, least, most in searched[: 2 if how.dft else None]:  # dft allows no more
        found = _fit(lambda value, name=name: _misfit(fitted, _with(name, value)), least, most)  # type: ignore[misc]
        yield (
            _with(name, found),
            f"{name} is {found:.4g}, not {promised:g}"
            if promised
            else f"{name} is {found:.4g}, where none is promised",
        )


def _twice(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    assert how.softcap is not None
    capped = how.softcap * torch.tanh(rows * how.logit_scale / how.softcap)
    return taken(capped / how.logit_scale, targets, how, class_weights)


def _cut(rows: Tensor, targets: Tensor, how: Score, class_weights: Tensor | None) -> Tensor:
    assert how.softcap is not None
    most = how.softcap / abs(how.logit_scale)
    return taken(rows.clamp(-most, most), targets, replace(how, softcap=None), class_weights)


def _is_fit(each: Evidence) -> bool:
    value = each.seen.value if each.seen is not None else None
    return value is not None and math.isfinite(value) and bool(each.case.pairing.pairs)


def _with(name: str, value: float) -> Wrong:
    return lambda rows, targets, how, class_weights: taken(rows, targets, replace(how, **{name: value}), class_weights)  # type: ignore[arg-type]


def _misfit(evidence: Sequence[Evidence], score: Wrong) -> float:
    """The sum of the squared relative differences of the values."""
    total = 0.0
    for each in evidence:
        assert each.seen is not None
        assert each.seen.value is not None
        value, _ = predict_score(score, each.case.pairing, each.case.batch)
        total += ((value - each.seen.value) / max(abs(each.seen.value), 1e-3)) ** 2
    return total


def _fit(misfit: Callable[[float], float], least: float, most: float) -> float:
    """The value between ``least`` and ``most`` with the smallest misfit: a grid of powers, then a golden section."""
    step = math.log(most / least) / (_POINTS - 1)
    grid = [least * math.exp(step * index) for index in range(_POINTS)]
    best = min(range(_POINTS), key=lambda index: misfit(grid[index]))
    low, high = math.log(grid[max(best - 1, 0)]), math.log(grid[min(best + 1, _POINTS - 1)])
    near, far = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    of_near, of_far = misfit(math.exp(near)), misfit(math.exp(far))
    for _ in range(_STEPS):
        if of_near < of_far:
            high, far, of_far = far, near, of_near
            near = high - _GOLDEN * (high - low)
            of_near = misfit(math.exp(near))
        else:
            low, near, of_near = near, far, of_far
            far = low + _GOLDEN * (high - low)
            of_far = misfit(math.exp(far))
    return math.exp((low + high) / 2)


def other_mass(evidence: Sequence[Evidence], spec: LossSpec) -> str:
    """How a loss with label smoothing shares its mass otherwise than promised, in words, or "" if it does not.

    With mass m on the target and c on each class besides, a row's gradient is W·((m + c·V)·p − c − m·onehot(y)). The
    three numbers follow from the gradient alone.
    """
    how = spec.terms[0].score
    plain = how.softcap is None and how.logit_scale == 1 and not (how.z_loss or how.dft or how.class_weights)
    if not how.label_smoothing or not plain or any(term.score != how for term in spec.terms):
        return ""
    targets, others, masses = [], [], []
    for each in evidence:
        if each.seen is None or each.seen.gradients is None:
            continue
        for pair in each.case.pairing.pairs:
            name = spec.terms[pair.term].logits
            row = each.seen.gradients[name][pair.logit]
            logits = each.case.batch.tensor(name)[pair.logit].double()
            classes = len(row)
            if classes < 5 or abs(pair.weight) < _SMALLEST_WEIGHT:
                continue
            p = torch.softmax(logits, -1)
            onehot = torch.zeros_like(p)
            onehot[pair.target] = 1.0
            design = torch.stack((p, -torch.ones_like(p), -onehot), -1)
            found = torch.linalg.lstsq(design, row[:, None]).solution[:, 0]
            if float((design @ found - row).abs().max()) > _ALIKE * float(row.abs().max()):
                return ""
            whole, every, on_target = (found / pair.weight).tolist()
            of_target, of_every = charge(how, classes)
            targets.append((on_target + every) / float(of_target[pair.target] + of_every[pair.target]))
            others.append(every / float(of_every[0]))
            masses.append(whole)
    if len(targets) < 3 or all(abs(ratio - 1) <= _ALIKE for ratio in (*targets, *others, *masses)):
        return ""
    among = "all classes" if how.smoothing_over is Smoothing.ALL else "the other classes"
    return (
        f"the mass is {_range(masses)} in all, not 1: the target has {_range(targets)} times its share, and each other "
        f"class {_range(others)} times that of ε over {among}"
    )


def _range(numbers: Sequence[float]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:.3g}" if most - least <= _ALIKE * abs(most) else f"{least:.3g} to {most:.3g}"
