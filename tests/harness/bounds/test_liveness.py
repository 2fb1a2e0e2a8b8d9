"""Null candidates: found out wherever the bounds can, said to pass wherever they cannot, and rarely passing at all."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from itertools import islice

import pytest
import torch
from torch import Tensor

from shiftproof.harness.bounds.compare import agreement, same_value
from shiftproof.harness.bounds.derive import Bounds, derive_bounds
from shiftproof.harness.bounds.liveness import (
    LITTLE,
    dead_gradient_bound,
    dead_value_bound,
    misalign,
    passing_gradients,
    passing_values,
)
from shiftproof.harness.candidates.arguments import ARGUMENTS, bind
from shiftproof.harness.candidates.declaration import Candidate
from shiftproof.harness.candidates.loss import Observation, Trial
from shiftproof.harness.candidates.variant import Asked
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Ids, Recipe, Regime
from shiftproof.harness.cases.space import random_recipes, space
from shiftproof.harness.judge.ask import judge_or_redraw
from shiftproof.harness.judge.pool import Pool
from shiftproof.harness.judge.profile import PROFILES as SIZES
from shiftproof.harness.laws import LAWS
from shiftproof.harness.laws.numerics import judge_both
from shiftproof.harness.results import Verdict
from shiftproof.harness.worker.exchange import Call, Outcome
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import Pairing, first_logit
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute, Reduction, Score

STRICT, NATIVE = Compute.STRICT, Compute.NATIVE
OF_VALUES = ["zero", "constant", "mean log V", "misaligned", "a little off"]
OF_GRADIENTS = ["zero", "half the classes", "targets only", "a little off", "misaligned", "one token"]
SCORES = {
    "plain": Score(),
    "smoothed": Score(label_smoothing=0.2),
    "z-loss": Score(z_loss=1e-2),
    "scaled": Score(logit_scale=0.5),
    "capped": Score(softcap=5.0),
    "class weights": Score(class_weights=True),
    "dft": Score(dft=True),
}
RECIPE = Recipe(2, 5, 7, ids=Ids.SEEDED, seed=1)


def case_of(profile: str = "torchtune", score: Score | None = None, **fields: object) -> Case:
    spec = PROFILES[profile]
    if score is not None:
        spec = replace(spec, terms=tuple(replace(term, score=score) for term in spec.terms))
    return build_case(spec, replace(RECIPE, **fields))  # type: ignore[arg-type]


def of_width(case: Case, width: float) -> Bounds:
    """The case's own bounds, made wider by a factor."""
    bounds = derive_bounds(case, STRICT, torch.float32)
    wider = {name: bound * width for name, bound in bounds.gradients.items()}
    return replace(bounds, value=bounds.value * width, per_token=bounds.per_token * width, gradients=wider)


# By the long way: each null as a pairing or as tensors of its own.


def within(gradients: dict[str, Tensor], case: Case, bounds: Bounds) -> bool:
    expected = case.oracle.gradients
    return all(bool(agreement(gradients[at], expected[at], bounds.gradients[at]).all()) for at in expected)


def gradients_of(case: Case, pairing: Pairing) -> dict[str, Tensor]:
    return dict(evaluate(pairing, case.batch).gradients)


def with_one_wrong(case: Case) -> Iterable[Pairing]:
    for index, pair in enumerate(case.pairing.pairs):
        classes = case.pairing.shapes[case.pairing.terms[pair.term].logits][-1]
        wrong = pair._replace(target=(pair.target + 1) % classes)
        yield replace(case.pairing, pairs=(*case.pairing.pairs[:index], wrong, *case.pairing.pairs[index + 1 :]))


def gradients_by_hand(case: Case, bounds: Bounds) -> set[str]:
    right = case.oracle.gradients
    targets = {name: torch.zeros_like(gradient, dtype=torch.bool) for name, gradient in right.items()}
    for pair in case.pairing.pairs:
        targets[case.pairing.terms[pair.term].logits][pair.logit][pair.target] = True
    upper = {
        name: (torch.arange(gradient.shape[-1]) >= (gradient.shape[-1] + 1) // 2).expand_as(gradient)
        for name, gradient in right.items()
    }
    nulls = {
        "zero": [{name: 0 * gradient for name, gradient in right.items()}],
        "half the classes": [
            {name: gradient.masked_fill(upper[name] if high else ~upper[name], 0.0) for name, gradient in right.items()}
            for high in (True, False)
        ],
        "targets only": [{name: gradient.where(targets[name], 0.0) for name, gradient in right.items()}],
        "a little off": [{name: gradient * (1 + LITTLE) for name, gradient in right.items()}],
        "misaligned": [gradients_of(case, misalign(case))],
        "one token": [gradients_of(case, pairing) for pairing in with_one_wrong(case)],
    }
    return {name for name, each in nulls.items() if any(within(gradients, case, bounds) for gradients in each)}


def values_by_hand(case: Case, bounds: Bounds) -> set[str]:
    right = case.oracle.value
    misaligned = evaluate(misalign(case), case.batch).value
    assert right is not None
    assert misaligned is not None
    shapes, terms = case.pairing.shapes, case.pairing.terms
    nulls = {
        "zero": 0.0,
        "constant": math.log(shapes[terms[0].logits][-1]),
        "mean log V": sum(pair.weight * math.log(shapes[terms[pair.term].logits][-1]) for pair in case.pairing.pairs),
        "misaligned": misaligned,
        "a little off": right * (1 + LITTLE),
    }
    return {name for name, value in nulls.items() if same_value(value, right, bounds.value)}


@pytest.mark.representatives(6)
@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
@pytest.mark.parametrize("profile", ["torchtune", "parler", "higgs.mean_nonempty", "csm"])
def test_what_passes_is_what_the_long_way_finds(profile: str, score: Score) -> None:
    found: set[str] = set()
    for recipe in islice(random_recipes(space(PROFILES[profile], frozenset(), ("float32",)), 3), 4):
        if score.class_weights and profile != "torchtune":
            return
        case = case_of(profile, score, **{**vars(recipe), "regime": Regime.NORMAL, "length": 4, "rows": 2})
        for width in (1.0, 3e2, 3e4, 3e5, 1e6, 3e6, 1e7, 1e13):
            bounds = of_width(case, width)
            if case.pairing.pairs and math.isfinite(case.oracle.value or 0.0):
                assert set(passing_gradients(case, bounds)) == gradients_by_hand(case, bounds), width
                assert set(passing_values(case, bounds)) == values_by_hand(case, bounds), width
                found |= set(passing_gradients(case, bounds))
    assert found == set(OF_GRADIENTS)


@pytest.mark.parametrize("profile", ["torchtune", "per_token", "higgs.boson", "musicgen"])
def test_bounds_of_any_width_let_all_pass(profile: str) -> None:
    bounds = of_width(case_of(profile), 1e12)
    assert list(passing_values(case_of(profile), bounds)) == OF_VALUES
    assert list(passing_gradients(case_of(profile), bounds)) == OF_GRADIENTS
    assert dead_value_bound(case_of(profile), bounds) == dead_gradient_bound(case_of(profile), bounds) == "zero"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("profile", ["torchtune", "per_token", "higgs.boson", "musicgen"])
def test_ordinary_bounds_let_none_pass(profile: str, dtype: str) -> None:
    case = case_of(profile, dtype=dtype)
    for returned in (torch.float32, getattr(torch, dtype)):
        bounds = derive_bounds(case, STRICT, returned)
        assert list(passing_values(case, bounds)) == []
        assert list(passing_gradients(case, bounds)) == []


def test_token_by_token_one_score_out_of_bounds_is_enough() -> None:
    case = case_of("per_token", ids=Ids.COUNTING)
    bounds = of_width(case, 1e12)
    tight = bounds.per_token.clone()
    tight[3] = 1e-9
    assert list(passing_values(case, replace(bounds, per_token=tight))) == []


def test_nothing_is_asked_of_a_case_that_scores_nothing_or_is_not_finite() -> None:
    empty, poisoned = case_of(length=1), case_of(regime=Regime.NAN_VALID)
    for case in (empty, poisoned):
        bounds = Bounds(1e9, torch.zeros(0), {"logits": torch.full_like(case.oracle.gradients["logits"], 1e9)})
        assert list(passing_values(case, bounds)) == []
        assert list(passing_gradients(case, bounds)) == []


def test_a_wrong_token_of_4000_shows_in_the_gradient_and_hardly_in_the_value() -> None:
    case = case_of(rows=1, length=4001, classes=17)
    bounds = derive_bounds(case, STRICT, torch.float32)
    assert list(passing_gradients(case, bounds)) == []
    off = [
        abs((evaluate(wrong, case.batch).value or 0) - (case.oracle.value or 0))
        for wrong in islice(with_one_wrong(case), 40)
    ]
    assert sum(each <= bounds.value for each in off) > 4


# How rarely a case proves nothing.


class _Nobody:
    """Who is called by nobody."""

    seconds_in_candidate = 0.0

    def call(self, call: Call, meanwhile: Callable[[], None] = lambda: None) -> Outcome:
        raise AssertionError("the answers are the oracle's")


class OracleOnTrial(Trial):
    """A trial whose candidate takes every argument and answers with the oracle's own numbers."""

    def __init__(self, profile: str, dtype: str, compute: Compute) -> None:
        binding = bind("oracle", [(name, False) for name in ARGUMENTS], {})
        candidate = Candidate("oracle", "m:f", precision=compute)
        super().__init__(candidate, PROFILES[profile], binding, _Nobody(), dtypes=(dtype,), device="cpu")

    def answer(self, asked: Asked) -> Observation:
        case = asked.case
        assert not isinstance(asked.grad_output, Tensor)
        value = torch.tensor(case.oracle.value or 0.0, dtype=torch.float64)
        if case.spec.terms[0].reduction is Reduction.NONE:
            value = torch.zeros(case.pairing.output_shape, dtype=torch.float64)
            first = first_logit(case.spec.terms[0], case.batch)
            for pair, score in zip(case.pairing.pairs, case.oracle.per_token.tolist(), strict=True):
                value[pair.logit[0], pair.logit[1] - first] = score
        return Observation(
            case,
            problem=None,
            value=float(value.sum()),
            returned=value,
            dtype=torch.float32 if self.compute is STRICT else getattr(torch, case.recipe.dtype),
            gradients={name: gradient * asked.grad_output for name, gradient in case.oracle.gradients.items()},
        )


ASKED = ("VALUE-1", "GRAD-1", "GRAD-3", "STABLE-1", "STABLE-2", "STABLE-4")
LOW = ("bfloat16", "float16")
FEW = ("hf.causal_lm", "higgs.mean_nonempty")


@cache
def shares(profiles: tuple[str, ...], dtype: str, compute: Compute, large: bool = False) -> dict[str, float]:
    """The share of vacuous cases of each law under the quick profile, all ``profiles`` together.

    Under "both": of the cases of VALUE-1 and GRAD-1, how many leave value and gradient without proof. What is printed
    besides is the share of cases that were vacuous before they were drawn again.
    """
    found: dict[str, Counter[Verdict]] = {law: Counter() for law in (*ASKED, "both")}
    redrawn: Counter[str] = Counter()
    for profile in profiles:
        trial = OracleOnTrial(profile, dtype, compute)
        for id in ASKED:
            law = LAWS[id]
            if law.skip_reason(trial) is not None:
                continue
            for recipe in Pool({law.id: law}, trial, replace(SIZES["quick"], varies_sizes=large), 0).of(law):
                last, judgement = judge_or_redraw(law, trial, recipe)
                assert not judgement.verdict.is_failure, (profile, id, last, judgement.message)
                found[id][judgement.verdict] += 1
                redrawn[id] += last != recipe
                if id in ("VALUE-1", "GRAD-1") and judgement.verdict is not Verdict.SKIP:
                    found["both"][judge_both(trial, trial.observe_cached(last)).verdict] += 1
    cases = {id: verdicts[Verdict.PASS] + verdicts[Verdict.VACUOUS] for id, verdicts in found.items()}
    vacuous = {id: verdicts[Verdict.VACUOUS] / max(cases[id], 1) for id, verdicts in found.items()}
    before = {id: vacuous[id] + redrawn[id] / max(cases[id], 1) for id in found}
    print(dtype, compute, {id: f"{before[id]:.2%} -> {vacuous[id]:.2%} of {cases[id]}" for id in found})
    assert cases["VALUE-1"] > 0
    return vacuous


EVERY_WAY = [("float32", STRICT), *((dtype, compute) for compute in Compute for dtype in LOW)]


@pytest.mark.representatives(1)
@pytest.mark.parametrize(("dtype", "compute"), EVERY_WAY)
def test_hardly_a_case_is_vacuous(dtype: str, compute: Compute) -> None:
    assert max(shares(FEW, dtype, compute).values()) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "compute"), EVERY_WAY)
def test_hardly_a_case_of_any_profile_is_vacuous(dtype: str, compute: Compute) -> None:
    assert max(shares(tuple(PROFILES), dtype, compute, large=True).values()) <= 0.01


def test_long_rows_are_told_from_other_labels_even_in_8_bits() -> None:
    """Over 4098 tokens the mean of other labels is the same mean, unless a third of the rows are certain of theirs."""
    trial = OracleOnTrial("torchtune", "bfloat16", NATIVE)
    long = Recipe(1, 4099, 7, ids=Ids.SEEDED, regime=Regime.TIES, dtype="bfloat16", seed=707)
    assert LAWS["VALUE-1"].check(trial, long).verdict is Verdict.VACUOUS
    last, judgement = judge_or_redraw(LAWS["VALUE-1"], trial, long)
    assert judgement.verdict is Verdict.PASS
    assert (last.regime, last.length) == (Regime.SHARP, 4099)


@pytest.mark.parametrize("compute", Compute)
def test_long_rows_beside_nan_are_told_from_other_labels_too(compute: Compute) -> None:
    trial = OracleOnTrial("hf.causal_lm", "bfloat16", compute)
    long = Recipe(1, 1026, 3, ids=Ids.SEEDED, regime=Regime.NAN_IGNORED, dtype="bfloat16", seed=246)
    assert LAWS["STABLE-4"].check(trial, long).verdict is Verdict.PASS
