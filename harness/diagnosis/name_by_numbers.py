"""Name the arithmetic of right pairs with wrong numbers: an overflow, a lost upcast, a clamp."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations, islice

import torch
from torch import Tensor

from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.spec import Compute

from ..bounds.compare import different_gradients, same_value
from ..bounds.derive import Bounds, derive_bounds
from ..candidates.loss import Observation, Trial
from ..candidates.model_gaps import with_array
from ..candidates.variant import Asked
from ..cases.recipe import Recipe, Regime
from ..cases.space import hand_made
from ..mutants.behaviours import BEHAVIOURS
from ..results import NamedBug
from .bug import symptom

_MOST_WAYS = 64  # in which codebooks with a loss near 0 are left out, or not

AS_COMPUTED = 0.01
"""Two ways of the same arithmetic differ by less than this, relative to the result."""


def name_by_numbers(trial: Trial) -> tuple[NamedBug, ...]:
    """Name the arithmetic that gives the same numbers, for right pairs with wrong numbers."""
    observed = [trial.observe_cached(recipe) for recipe in hard_on_numbers(trial)]
    observed = [each for each in observed if each.problem is None and each.case.pairing.pairs]
    right = [_conforms(each, trial.compute) for each in observed]
    if not observed or (all(by_value for by_value, _ in right) and all(by_gradient for _, by_gradient in right)):
        return ()
    found = [
        behaviour
        for behaviour in BEHAVIOURS
        if behaviour.numeric
        and behaviour.needs(trial.spec) is None
        and (behaviour.dtype == "float32" or trial.dtypes[0] != "float32")
        and all(same_numbers(each, behaviour.act(Asked(each.case)), trial.bounds(each)) for each in observed)
    ]
    if found:
        name, detail = found[0].name, found[0].detail
        also = tuple(dict.fromkeys(other.name for other in found if other.name != name))
        return (replace(symptom(name, detail), also=also),)
    value_is_wrong = not all(by_value for by_value, _ in right)
    native = value_is_wrong and trial.compute is Compute.STRICT and trial.dtypes[0] not in ("float32", "float64")
    if native and all(all(_conforms(each, Compute.NATIVE)) for each in observed):
        return (symptom("no-upcast", "the numbers are right for arithmetic in the dtype of the logits"),)
    return ()


def hard_on_numbers(trial: Trial) -> list[Recipe]:
    """Return cases that expose arithmetic: probabilities near 0 and 1, logits far from 0, and the most classes."""
    several = hand_made(trial.space)
    hard = [replace(recipe, regime=regime) for recipe in several[:3] for regime in (Regime.SHARP, Regime.HUGE)]
    return [
        *hard,
        replace(several[0], regime=Regime.NORMAL),
        *(recipe for recipe in several if recipe.classes > 1 << 15),
    ]


def _conforms(observed: Observation, compute: Compute) -> tuple[bool, bool]:
    """Return whether value and gradient are the oracle's, within the bounds of this arithmetic."""
    bounds = derive_bounds(observed.case, compute, observed.dtype)
    oracle = observed.case.oracle
    by_value = oracle.value is None or same_value(observed.value or 0.0, oracle.value, bounds.value)
    if observed.gradients is None:
        return by_value, True
    return by_value, different_gradients(observed.gradients, oracle.gradients, bounds.gradients) is None


def same_numbers(observed: Observation, predicted: Observation, bounds: Bounds) -> bool:
    """Return whether two answers are the same apart from rounding, and not finite in the same places."""
    if observed.value is None or predicted.value is None:
        return False
    if not _near(torch.tensor(observed.value), torch.tensor(predicted.value), bounds.value):
        return False
    if observed.gradients is None or predicted.gradients is None:
        return observed.gradients is predicted.gradients
    return all(
        _near(gradient, predicted.gradients[name], bounds.gradients[name])
        for name, gradient in observed.gradients.items()
    )


def _near(found: Tensor, predicted: Tensor, bound: Tensor | float) -> bool:
    off = (found - predicted).abs()
    near = off <= AS_COMPUTED * predicted.abs() + bound
    return bool((near | (~found.isfinite() & ~predicted.isfinite())).all())


def leaves_out_zeros(observed: Observation, bounds: Bounds) -> bool:
    """Return whether the value is that without the codebooks whose loss is 0, as `if loss > 0` leaves them out."""
    case = observed.case
    all_zero: dict[tuple[str, int], bool] = {}
    for pair, loss, lse in zip(case.pairing.pairs, case.oracle.per_token, case.oracle.lse, strict=True):
        if len(pair.label) == 3:
            key = case.spec.terms[pair.term].labels, pair.label[2]
            is_zero = bool(loss <= torch.finfo(torch.float32).eps * lse.abs().clamp(min=1.0))
            all_zero[key] = all_zero.get(key, True) and is_zero
    near = [key for key, is_zero in all_zero.items() if is_zero]
    # In fp32, a loss of less than a rounding error of its logits may come out as 0, or not.
    some = (chosen for many in range(len(near), 0, -1) for chosen in combinations(near, many))
    return any(_is_without(observed, chosen, bounds) for chosen in islice(some, _MOST_WAYS))


def _is_without(observed: Observation, codebooks: Iterable[tuple[str, int]], bounds: Bounds) -> bool:
    """Return whether the value is that without these codebooks, each the name of its labels and its place."""
    case, batch = observed.case, observed.case.batch
    for name, book in codebooks:
        ignored = next(term.ignore_index for term in case.spec.terms if term.labels == name)
        labels = batch.tensor(name).clone()
        labels[..., book] = -100 if ignored is None else ignored
        batch = with_array(batch, name, labels)
    without = evaluate(build_pairing(case.spec, batch), batch).value
    if observed.value is None or without is None:
        return False
    return same_value(observed.value, without, bounds.value)
