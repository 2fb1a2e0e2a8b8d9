"""Asking a package about drawn cases, and how near it comes to the reference, in units of what may be off."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from shiftproof.harness.bounds.compare import agreement
from shiftproof.harness.bounds.derive import derive_bounds
from shiftproof.harness.bounds.liveness import dead_gradient_bound, dead_value_bound
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Recipe
from shiftproof.harness.cases.space import hand_made, random_recipes, space
from shiftproof.harness.mutants import MUTANTS
from shiftproof.harness.mutants.base import Wrong
from shiftproof.harness.mutants.views import variants_under
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing, first_logit
from shiftproof.reference.spec import Reduction

from .packages import Missing
from .peer import Answer, Cannot, Peer

SEED = 20
CASES, CASES_INTERPRETED = 60, 24
PATIENCE = 5  # draws for each case wanted, before what a package cannot answer ends the search
TAKES = frozenset({"num_items_in_batch", "shift_labels"})


@dataclass
class Judged:
    """What was found of one row under one dtype.

    Attributes:
        cases: how many were compared.
        worst_value: the largest error of the value, in units of its bound; 1 is the most that is right.
        worst_gradient: the same of any element of any gradient.
        at_value, at_gradient: the recipes of those.
        alive: on how many cases the bounds of value or gradient tell the reference from every null candidate.
        refused: why the package did not answer a case -> how often.
        missing: why it could not be asked at all, or "".
    """

    cases: int = 0
    worst_value: float = 0.0
    worst_gradient: float = 0.0
    at_value: Recipe | None = None
    at_gradient: Recipe | None = None
    alive: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    missing: str = ""


def judge(peer: Peer, dtype: str) -> Judged:
    """Every case of a row, against the reference."""
    judged = Judged()
    for case, answer in answered(peer, dtype, judged):
        value, gradient = errors(peer, case, answer)
        judged.cases += 1
        judged.alive += _is_alive(peer, case, answer)
        if value > judged.worst_value:
            judged.worst_value, judged.at_value = value, case.recipe
        if gradient > judged.worst_gradient:
            judged.worst_gradient, judged.at_gradient = gradient, case.recipe
    return judged


def answered(peer: Peer, dtype: str, judged: Judged) -> Iterator[tuple[Case, Answer]]:
    """The cases that the package answered, until there are enough; what it did not is counted in ``judged``."""
    wanted = CASES_INTERPRETED if peer.interpreted else CASES
    found = 0
    for recipe in islice(recipes(peer, dtype), PATIENCE * wanted):
        case = case_of(peer, recipe)
        try:
            answer = peer.ask(case.batch)
        except Missing as error:
            judged.missing = str(error)
            return
        except Cannot as error:
            judged.refused[str(error)] += 1
            continue
        yield case, answer
        found += 1
        if found == wanted:
            return


def recipes(peer: Peer, dtype: str) -> Iterator[Recipe]:
    """The hand-made cases, then drawn ones without end, always the same; small ones where kernels are interpreted."""
    choices = {**space(peer.spec, TAKES, (dtype,)), "regime": peer.regimes}
    if peer.interpreted:
        choices |= {"rows": (1, 2, 3), "length": (2, 3, 4, 6), "classes": (2, 3, 5, 7, 11, 17, 32)}
    if peer.classes:
        choices |= {"classes": peer.classes}
    for recipe in hand_made(choices):
        if not peer.interpreted or recipe.rows * recipe.length * recipe.classes <= 600:
            yield recipe
    yield from random_recipes(choices, SEED)


def case_of(peer: Peer, recipe: Recipe) -> Case:
    """The case of a recipe, brought into the package's domain."""
    case = build_case(peer.spec, recipe)
    if peer.within is None:
        return case
    batch = peer.within(case.batch)
    pairing = build_pairing(peer.spec, batch)
    return Case(peer.spec, recipe, batch, pairing, evaluate(pairing, batch))


def errors(peer: Peer, case: Case, answer: Answer) -> tuple[float, float]:
    """The errors of the value and of the worst gradient element against the case's oracle, over their bounds.

    0 where both are the same, NaN and infinities included; infinite where one of them is NaN and the other is not, or
    where nothing may be off and something is.
    """
    oracle = case.oracle
    bounds = derive_bounds(case, peer.spec.compute, answer.value.dtype)
    if peer.spec.terms[0].reduction is Reduction.NONE:
        if answer.value.shape != case.pairing.output_shape:
            return math.inf, math.inf
        value = error(answer.value, _spread(case, oracle.per_token), _spread(case, bounds.per_token))
    else:
        assert oracle.value is not None
        value = error(answer.value.reshape(()), torch.tensor(oracle.value, dtype=torch.float64), bounds.value)
    gradient = 0.0
    for name, expected in oracle.gradients.items():
        found = answer.gradients[name]
        if peer.nan_everywhere and oracle.value is not None and math.isnan(oracle.value):
            expected = torch.where(found.isnan(), torch.nan, expected)
        gradient = max(gradient, error(found, expected, bounds.gradients[name]))
    return value, gradient


def error(found: Tensor, expected: Tensor, bound: Tensor | float) -> float:
    """The largest difference between two tensors of one shape, element by element in units of ``bound``."""
    if found.shape != expected.shape:
        return math.inf
    if not expected.numel():
        return 0.0
    found = found.double()
    allowed = torch.as_tensor(bound, dtype=torch.float64).expand(expected.shape)
    over = ((found - expected).abs() / allowed).nan_to_num(nan=math.inf, posinf=math.inf)
    return float(over.masked_fill(agreement(found, expected, 0.0), 0.0).max())


def known_bugs(peer: Peer, dtype: str) -> list[str]:
    """The bugs of shiftproof's that predict a row's answer to every case, value and gradient, within the bounds."""
    known = list(answered(peer, dtype, Judged()))

    def predicts(wrong: Wrong) -> bool:
        for case, answer in known:
            pairing = wrong(peer.spec, case.batch)
            if pairing is None:
                return False
            predicted = replace(case, pairing=pairing, oracle=evaluate(pairing, case.batch))
            if max(errors(peer, predicted, answer)) > 1:
                return False
        return bool(known)

    return [
        name
        for name, mutant in MUTANTS.items()
        if any(predicts(variant.wrong) for variant in variants_under(mutant, peer.spec))
    ]


def _is_alive(peer: Peer, case: Case, answer: Answer) -> bool:
    bounds = derive_bounds(case, peer.spec.compute, answer.value.dtype)
    return not (dead_value_bound(case, bounds) and dead_gradient_bound(case, bounds))


def _spread(case: Case, per_pair: Tensor) -> Tensor:
    """One number a pair -> one a label position that the output has, 0 where nothing is scored."""
    dense = torch.zeros(case.pairing.output_shape, dtype=torch.float64)
    first = first_logit(case.spec.terms[0], case.batch)
    for pair, number in zip(case.pairing.pairs, per_pair.tolist(), strict=True):
        dense[pair.logit[0], pair.logit[1] - first] = number
    return dense
