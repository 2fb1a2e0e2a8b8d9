"""The numbers of a case: known bytes, and every regime keeps its word."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shiftproof.harness.cases.build import Case, build_case, forget_cases
from shiftproof.harness.cases.logits import bell, uniform_ints
from shiftproof.harness.cases.recipe import Count, Ids, Mask, Recipe, Regime, Stride, Weights
from shiftproof.reference.profiles import PROFILES

SPEC = PROFILES["torchtune"]
KNOWN = Recipe(rows=2, length=5, classes=11, masks=(Mask.NONE, Mask.PROMPT), seed=3)
FINITE = (Regime.CALM, Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.HUGE)
DTYPES = ("float32", "bfloat16", "float16")


def case_of(recipe: Recipe, regime: Regime, dtype: str = "float32") -> Case:
    return build_case(SPEC, replace(recipe, regime=regime, dtype=dtype))


def wide(seed: int) -> Recipe:
    return Recipe(rows=3, length=9, classes=37, masks=(Mask.NONE, Mask.PROMPT, Mask.HOLES), ids=Ids.EDGES, seed=seed)


def used_places(case: Case) -> Tensor:
    used = torch.zeros(case.pairing.shapes["logits"][:2], dtype=torch.bool)
    for pair in case.pairing.pairs:
        used[pair.logit] = True
    return used


def fingerprint(tensor: Tensor) -> str:
    raw = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


def test_uniform_ints_are_philox_words_cut_in_four() -> None:
    assert uniform_ints(0, 1, 6).tolist() == [53622, 63905, 63683, 53303, 1893, 19489]
    assert uniform_ints(7, 3, 3).tolist() == [50674, 34348, 51121]
    assert uniform_ints(0, 1, 2).tolist() == [53622, 63905]  # fewer are the first of more
    assert uniform_ints(0, 1, 0).tolist() == []


def test_seeds_and_streams_are_independent() -> None:
    drawn = {tuple(uniform_ints(seed, stream, 8).tolist()) for seed in range(20) for stream in range(5)}
    assert len(drawn) == 100


def test_bell_is_exact() -> None:
    assert (bell(0, 1, (2, 2)) * 2**15).tolist() == [[-42688, -10435], [-5261, 48255]]


def test_bell_is_roughly_standard_normal() -> None:
    numbers = bell(5, 1, (40, 1000))
    assert abs(float(numbers.mean())) < 0.02
    assert abs(float(numbers.std()) - 1) < 0.02
    assert float(numbers.abs().max()) <= 3


@pytest.mark.parametrize(
    ("regime", "dtype", "known"),
    [
        (Regime.CALM, "float32", "ae866ad971d07781"),
        (Regime.NORMAL, "float32", "f11e24e886736458"),
        (Regime.NORMAL, "bfloat16", "1d10e7973b01c7d8"),
        (Regime.NORMAL, "float16", "4d1a08e84e42a796"),
        (Regime.SHARP, "float32", "2346cca936fba111"),
        (Regime.TIES, "float32", "2c5a68e9076fd01c"),
        (Regime.HUGE, "float32", "b0e0dce25e808f7b"),
        (Regime.HUGE, "bfloat16", "77f7d2581b0a55c5"),
        (Regime.HUGE, "float16", "5dca8ee841f81274"),
        (Regime.MINUS_INF, "float32", "b923954a13d503e2"),
        (Regime.NAN_IGNORED, "float32", "6c97b30aecf18c16"),
        (Regime.NAN_VALID, "float32", "0941264d44baabc4"),
    ],
)
def test_logits_are_the_same_bytes_everywhere(regime: Regime, dtype: str, known: str) -> None:
    """A change here changes what every stored case means: it must be on purpose."""
    assert fingerprint(case_of(KNOWN, regime, dtype).batch.logits) == known


@pytest.mark.parametrize(
    ("regime", "known"),
    [
        (Regime.CALM, "9a9a5185475e2a3c"),
        (Regime.NORMAL, "c374b6344e38cb90"),
        (Regime.TIES, "d3b77acd594cbc75"),
    ],
)
def test_rows_that_share_their_storage_are_all_the_first(regime: Regime, known: str) -> None:
    """A change of the bytes changes what every stored case means: it must be on purpose."""
    expanded = case_of(replace(KNOWN, stride=Stride.EXPANDED), regime).batch.logits
    assert fingerprint(expanded) == known
    wider = case_of(replace(wide(1), stride=Stride.EXPANDED), regime).batch.logits
    assert torch.equal(wider, case_of(wide(1), regime).batch.logits[:1].expand_as(wider))


@pytest.mark.parametrize("stride", [stride for stride in Stride if stride is not Stride.EXPANDED])
def test_any_other_stride_leaves_the_numbers_alone(stride: Stride) -> None:
    assert fingerprint(case_of(replace(KNOWN, stride=stride), Regime.NORMAL).batch.logits) == "f11e24e886736458"


@pytest.mark.parametrize("regime", Regime)
def test_the_same_recipe_gives_the_same_bytes_again(regime: Regime) -> None:
    first = fingerprint(case_of(KNOWN, regime).batch.logits)
    forget_cases()
    assert fingerprint(case_of(KNOWN, regime).batch.logits) == first
    assert fingerprint(case_of(replace(KNOWN, seed=4), regime).batch.logits) != first


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("regime", FINITE)
def test_finite_regimes_are_finite_in_every_dtype(regime: Regime, dtype: str) -> None:
    for seed in range(5):
        case = case_of(wide(seed), regime, dtype)
        assert bool(case.batch.logits.isfinite().all())
        assert case.oracle.value is not None
        assert math.isfinite(case.oracle.value)


@pytest.mark.parametrize("regime", Regime)
@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 1, 5), (2, 3, 1), (1, 1, 1)])
def test_the_smallest_shapes_can_be_drawn(regime: Regime, shape: tuple[int, int, int]) -> None:
    for stride in (Stride.CONTIGUOUS, Stride.EXPANDED):
        assert case_of(Recipe(*shape, stride=stride), regime).batch.logits.shape == shape


def test_calm_probabilities_are_far_from_0_and_1() -> None:
    for seed in range(10):
        case = case_of(replace(wide(seed), classes=3), Regime.CALM)
        probabilities = torch.softmax(case.batch.logits.double(), -1)
        assert float(probabilities.min()) > 1e-3
        assert float(probabilities.max()) < 0.999


def test_normal_losses_are_far_from_uniform() -> None:
    losses = [float(case_of(wide(seed), Regime.NORMAL).oracle.value or 0) for seed in range(10)]
    assert min(losses) > math.log(37) + 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 37, 4099])
def test_sharp_rows_are_near_one_hot_off_the_target_on_it_and_spread_out_in_turn(classes: int, dtype: str) -> None:
    case = case_of(replace(wide(1), classes=classes), Regime.SHARP, dtype)
    assert len(case.pairing.pairs) >= 6
    for index, pair in enumerate(case.pairing.pairs):
        probabilities = torch.softmax(case.batch.logits[pair.logit].double(), -1)
        peak = int(probabilities.argmax())
        if index % 3 == 0:
            assert float(probabilities[peak]) >= 0.99
            assert peak != pair.target
        elif index % 3 == 1:
            assert float(probabilities[pair.target]) >= 0.99
        else:
            assert float(probabilities[peak]) < 0.997


def test_ties_are_small_integers_with_shared_maxima() -> None:
    logits = case_of(wide(1), Regime.TIES).batch.logits
    assert torch.equal(logits, logits.round())
    assert float(logits.abs().max()) <= 5
    shared = (logits == logits.amax(-1, keepdim=True)).sum(-1) > 1
    assert int(shared.sum()) >= shared.numel() // 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_rows_are_spread_wide_far_up_and_far_down(dtype: str) -> None:
    rows = case_of(wide(1), Regime.HUGE, dtype).batch.logits.double().reshape(-1, 37)
    assert float(rows.abs().max()) < 65504 / 2
    assert float(rows[0::3].min()) == float(torch.tensor(-10000.0, dtype=getattr(torch, dtype)))
    assert float(rows[0::3].max()) == float(torch.tensor(10000.0, dtype=getattr(torch, dtype)))
    assert float(rows[1::3].min()) > 9900
    assert float(rows[2::3].max()) < -9900


def test_minus_inf_is_never_at_a_target_nor_everywhere() -> None:
    for seed in range(10):
        case = case_of(wide(seed), Regime.MINUS_INF)
        gone = case.batch.logits.isneginf()
        assert not any(bool(gone[pair.logit][pair.target]) for pair in case.pairing.pairs)
        assert not bool(gone.all(-1).any())
        assert 0.25 < float(gone.double().mean()) < 0.4
        assert bool((case.batch.logits.isfinite() | gone).all())
        assert math.isfinite(case.oracle.value or 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_inf_has_a_target_far_below_the_rest_in_every_second_row_that_counts(dtype: str) -> None:
    for seed in range(10):
        case = case_of(wide(seed), Regime.MINUS_INF, dtype)
        scores = case.oracle.per_token
        assert float(scores[0::2].min()) > 10
        assert float(scores[1::2].max()) < 20
        assert float(scores[1::2].mean()) < 9


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_has_an_ordinary_row_where_scores_are_multiplied_by_p(dtype: str) -> None:
    for seed in range(10):
        case = build_case(PROFILES["trl.dft"], replace(wide(seed), regime=Regime.HUGE, dtype=dtype, count=Count.VALID))
        first, *others = case.pairing.pairs
        logits = case.batch.logits.double()
        assert float(logits[first.logit].abs().max()) < 10
        assert 0.02 < float(torch.softmax(logits[first.logit], -1)[first.target]) < 0.98
        assert min(float(logits[pair.logit].abs().max()) for pair in others) > 5000
        if dtype != "float32":
            assert max(float(torch.softmax(logits[pair.logit], -1)[pair.target]) for pair in others) == 0


def test_nan_ignored_is_in_every_unused_row_and_no_other() -> None:
    case = case_of(wide(1), Regime.NAN_IGNORED)
    used = used_places(case)
    assert bool((~used).any())
    assert torch.equal(case.batch.logits.isnan().all(-1), ~used)
    assert bool(case.batch.logits[used].isfinite().all())
    assert math.isfinite(case.oracle.value or 0)
    assert bool(case.oracle.gradients["logits"].isfinite().all())


def test_nan_valid_is_in_one_used_row_which_the_seed_chooses() -> None:
    rows = set()
    for seed in range(8):
        case = case_of(wide(seed), Regime.NAN_VALID)
        poisoned = case.batch.logits.isnan().all(-1)
        assert int(poisoned.sum()) == 1
        assert bool((used_places(case) & poisoned).any())
        assert int(case.batch.logits.isnan().sum()) == 37
        assert math.isnan(case.oracle.value or 0)
        rows.add(tuple(poisoned.nonzero()[0].tolist()))
    assert len(rows) == 8


@pytest.mark.parametrize(
    ("regime", "infinity"), [(Regime.PLUS_INF, math.inf), (Regime.TARGET_MINUS_INF, -math.inf)], ids=["plus", "minus"]
)
def test_one_infinite_logit_is_in_a_row_that_counts(regime: Regime, infinity: float) -> None:
    rows = set()
    for seed in range(8):
        case = case_of(wide(seed), regime)
        [place] = case.batch.tensor("logits").isinf().nonzero().tolist()
        assert case.batch.tensor("logits")[tuple(place)] == infinity
        [pair] = [pair for pair in case.pairing.pairs if list(pair.logit) == place[:2]]
        assert (pair.target == place[2]) is (regime is Regime.TARGET_MINUS_INF)
        assert not math.isfinite(case.oracle.value or 0)
        rows.add(tuple(place[:2]))
    assert len(rows) == 8


def test_a_row_of_weight_0_is_not_spoilt() -> None:
    spec = PROFILES["weighted"]
    for seed in range(20):
        recipe = replace(wide(seed), regime=Regime.NAN_VALID, weights=Weights.ZEROS)
        case = build_case(spec, recipe)
        [place] = case.batch.tensor("logits").isnan().all(-1).nonzero().tolist()
        assert all(pair.weight for pair in case.pairing.pairs if list(pair.logit) == place)
