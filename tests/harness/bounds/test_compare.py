"""The bounds: right evaluations never fail them, wrong ones do, and on a case where they would not, that is said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.harness.bounds.compare import compare_tensors, different_gradients, same_value
from shiftproof.harness.bounds.derive import Bounds, derive_bounds
from shiftproof.harness.bounds.liveness import dead_gradient_bound, dead_value_bound, misalign, passing_gradients
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Hollow, Ids, Mask, Recipe, Regime, Streams
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute

STRICT, NATIVE = Compute.STRICT, Compute.NATIVE
SHAPES = [  # rows, length, classes
    (1, 2, 2),
    (2, 4, 3),
    (3, 7, 17),
    (5, 8, 101),
    (1, 2, 4099),
    (2, 9, 4099),
    (1, 301, 257),
    (4, 65, 521),
    (40, 51, 7),
    (1, 2001, 2),
]
NUMBERS = (Regime.CALM, Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.HUGE, Regime.MINUS_INF)
LOW = ("bfloat16", "float16")

Loss = Callable[[Tensor, Tensor], Tensor]


def grid(regime: Regime, dtype: str, profile: str = "torchtune") -> Iterator[Case]:
    for rows, length, classes in SHAPES:
        for seed in range(2):
            yield build_case(
                PROFILES[profile],
                Recipe(
                    rows=rows,
                    length=length,
                    classes=classes,
                    masks=(Mask.NONE, Mask.PROMPT) if seed else (Mask.NONE,),
                    ids=Ids.EDGES if seed else Ids.SEEDED,
                    regime=regime,
                    dtype=dtype,
                    seed=seed,
                ),
            )


def run(loss: Loss, case: Case) -> tuple[Tensor, Tensor]:
    """The value and the gradient at the logits of a loss over rows that were shifted already."""
    logits = case.batch.logits.clone().requires_grad_()
    targets = F.pad(case.batch.labels, (0, 1), value=-100)[:, 1:].reshape(-1)
    value = loss(logits.reshape(-1, logits.shape[-1]), targets)
    value.sum().backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


def native(rows: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(rows, targets)


def upcast(rows: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(rows.float(), targets)


def by_logsumexp(rows: Tensor, targets: Tensor) -> Tensor:
    rows, valid = rows.float(), targets != -100
    rows, targets = rows[valid], targets[valid]
    return (torch.logsumexp(rows, -1) - rows.gather(-1, targets[:, None]).squeeze(-1)).mean()


def one_after_the_other(rows: Tensor, targets: Tensor) -> Tensor:
    """Summed in fp32 from left to right, the least exact order."""
    scores = F.cross_entropy(rows.float(), targets, reduction="none")
    return scores.cumsum(0)[-1] / (targets != -100).sum()


def share(error: Tensor | float, bound: Tensor | float) -> float:
    """The largest error over its bound; infinite where there is an error and no bound."""
    error = torch.as_tensor(error, dtype=torch.float64)
    ratio = torch.where(error == 0, torch.zeros_like(error), error / torch.as_tensor(bound, dtype=torch.float64))
    return float(ratio.nan_to_num(nan=math.inf).max())


def shares(loss: Loss, case: Case, precision: Compute) -> tuple[float, float]:
    value, gradient = run(loss, case)
    bounds = derive_bounds(case, precision, value.dtype)
    assert case.oracle.value is not None
    return (
        share(abs(float(value) - case.oracle.value), bounds.value),
        share((gradient.double() - case.oracle.gradients["logits"]).abs(), bounds.gradients["logits"]),
    )


def worst_of(loss: Loss, cases: Iterator[Case], precision: Compute) -> tuple[float, float]:
    pairs = [shares(loss, case, precision) for case in cases]
    worst = max(value for value, _ in pairs), max(gradient for _, gradient in pairs)
    print(f"worst error/bound of {len(pairs)}: value {worst[0]:.3f}, gradient {worst[1]:.3f}")
    return worst


@pytest.mark.representatives(18)
@pytest.mark.parametrize("dtype", ["float32", *LOW])
@pytest.mark.parametrize("regime", NUMBERS)
@pytest.mark.parametrize("loss", [upcast, by_logsumexp, one_after_the_other])
def test_right_losses_in_fp32_are_never_alarmed(loss: Loss, regime: Regime, dtype: str) -> None:
    value, gradient = worst_of(loss, grid(regime, dtype), STRICT)
    assert value < 0.5, "half of what is allowed: the safety factor is used up"
    assert gradient < 0.5


def test_a_large_vocabulary_may_be_summed_one_class_after_the_other() -> None:
    # torch sums exponentials one after the other on a CPU: where many are equal, rounding all goes one way.
    recipes = [Recipe(1, 3, 32000, ids=Ids.SEEDED, regime=Regime.TIES, seed=seed) for seed in range(2)]
    cases = (build_case(PROFILES["torchtune"], recipe) for recipe in recipes)
    assert max(worst_of(upcast, cases, STRICT)) < 0.5


def test_a_class_axis_in_front_is_summed_in_one_chain() -> None:
    """torch sums the exponentials of [1, V, n] one after the other. Of a trained row most are below the roundoff of a
    sum that begins with the likeliest, and of a row of nearly equal logits all are rounded alike."""

    def in_front(rows: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(rows.float().t()[None], targets[None])

    case = build_case(PROFILES["torchtune"], Recipe(1, 3, 70001, ids=Ids.SEEDED))
    ties = build_case(PROFILES["torchtune"], Recipe(1, 3, 70001, ids=Ids.SEEDED, regime=Regime.TIES))
    trained, equal = case.batch.logits.clone(), case.batch.logits * 1e-4
    trained[..., 0] = 20.0
    cases = [ties, *(with_logits(case, logits) for logits in (trained, equal))]
    assert 0.1 < max(worst_of(in_front, iter(cases), STRICT)) < 0.5
    assert max(worst_of(upcast, iter(cases), STRICT)) < 0.5


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("regime", NUMBERS)
def test_native_losses_are_never_alarmed_as_such(regime: Regime, dtype: str) -> None:
    cases = grid(regime, dtype)
    if (regime, dtype) == (Regime.HUGE, "float16"):
        # A mean whose sum is past 65504 is inf, in torch too: only the gradient can be right.
        assert max(shares(native, case, NATIVE)[1] for case in cases) < 1
        return
    assert max(worst_of(native, cases, NATIVE)) < 1


@pytest.mark.parametrize("dtype", LOW)
@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.SHARP])
def test_native_losses_are_not_strict(regime: Regime, dtype: str) -> None:
    def alarmed(case: Case) -> bool:
        value, gradient = run(native, case)
        # Judged by what fp32 arithmetic would return, as upcast losses are.
        bounds = derive_bounds(case, STRICT, torch.float32)
        assert case.oracle.value is not None
        wrong_value = not same_value(float(value), case.oracle.value, bounds.value)
        return (
            wrong_value
            or compare_tensors(gradient.double(), case.oracle.gradients["logits"], bounds.gradients["logits"])
            is not None
        )

    assert any(alarmed(case) for case in grid(regime, dtype))


def test_a_native_gradient_fails_strict_even_where_its_value_is_forgiven() -> None:
    cases = list(grid(Regime.SHARP, "bfloat16"))
    assert any(shares(native, case, STRICT)[1] > 1 for case in cases)
    assert all(shares(upcast, case, STRICT)[1] < 1 for case in cases)


@pytest.mark.parametrize("dtype", ["float32", *LOW])
@pytest.mark.parametrize("regime", NUMBERS)
def test_scores_token_by_token_are_never_alarmed(regime: Regime, dtype: str) -> None:
    def each(rows: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(rows.float(), targets, reduction="none")

    for case in grid(regime, dtype, "per_token"):
        scores = run(each, case)[0].reshape(case.batch.labels.shape)
        found = torch.stack([scores[pair.logit] for pair in case.pairing.pairs]).double()
        bounds = derive_bounds(case, STRICT, torch.float32)
        assert share((found - case.oracle.per_token).abs(), bounds.per_token) < 0.5


def test_bf16_output_is_allowed_its_own_rounding_and_no_more() -> None:
    for case in grid(Regime.NORMAL, "bfloat16"):
        assert case.oracle.value is not None
        rounded = float(torch.tensor(case.oracle.value).bfloat16())
        assert same_value(rounded, case.oracle.value, derive_bounds(case, STRICT, torch.bfloat16).value)
        wrong = case.oracle.value * 1.04
        assert not same_value(wrong, case.oracle.value, derive_bounds(case, STRICT, torch.bfloat16).value)


# Alive: what is wrong fails.


def telling(regime: Regime, dtype: str = "float32") -> list[Case]:
    """Cases on which wrong and right really differ: several labels, more than two classes."""
    return [case for case in grid(regime, dtype) if len(case.pairing.pairs) > 3 and case.recipe.classes > 2]


@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.SHARP, Regime.TIES, Regime.MINUS_INF])
def test_null_candidates_fail(regime: Regime) -> None:
    for case in telling(regime):
        bounds = derive_bounds(case, STRICT, torch.float32)
        right = case.oracle.value
        assert right is not None
        misaligned = evaluate(misalign(case), case.batch)
        assert misaligned.value is not None
        for value in (0.0, math.log(case.recipe.classes), misaligned.value):
            assert not same_value(value, right, bounds.value)
        targets_only = torch.zeros_like(case.oracle.gradients["logits"])
        for pair in case.pairing.pairs:
            targets_only[pair.logit][pair.target] -= pair.weight
        for gradient in (
            torch.zeros_like(case.oracle.gradients["logits"]),
            targets_only,
            misaligned.gradients["logits"],
        ):
            assert compare_tensors(gradient, case.oracle.gradients["logits"], bounds.gradients["logits"]) is not None
        assert dead_value_bound(case, bounds) is None
        assert dead_gradient_bound(case, bounds) is None


@pytest.mark.parametrize("factor", [0.99, 1.01, 1.001])
@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.SHARP, Regime.TIES])
def test_a_little_too_much_or_too_little_fails(regime: Regime, factor: float) -> None:
    for case in telling(regime):
        bounds = derive_bounds(case, STRICT, torch.float32)
        assert case.oracle.value is not None
        assert not same_value(case.oracle.value * factor, case.oracle.value, bounds.value)
        gradient = case.oracle.gradients["logits"] * factor
        assert compare_tensors(gradient, case.oracle.gradients["logits"], bounds.gradients["logits"]) is not None


@pytest.mark.parametrize("dtype", ["float32", *LOW])
@pytest.mark.parametrize("dropped", range(8))
@pytest.mark.parametrize("renormalised", [False, True])
def test_one_token_dropped_of_eight_fails(dropped: int, renormalised: bool, dtype: str) -> None:
    case = build_case(PROFILES["torchtune"], Recipe(1, 9, 32, dtype=dtype, seed=2))
    pairs = [pair for index, pair in enumerate(case.pairing.pairs) if index != dropped]
    if renormalised:
        pairs = [pair._replace(weight=1 / 7) for pair in pairs]
    wrong = evaluate(replace(case.pairing, pairs=tuple(pairs)), case.batch)
    bounds = derive_bounds(case, STRICT, torch.float32)
    assert wrong.value is not None
    assert case.oracle.value is not None
    assert not same_value(wrong.value, case.oracle.value, bounds.value)
    assert (
        compare_tensors(wrong.gradients["logits"], case.oracle.gradients["logits"], bounds.gradients["logits"])
        is not None
    )


def test_one_wrong_label_of_2000_shows_in_the_gradient() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(1, 2001, 7, ids=Ids.SEEDED))
    first, *rest = case.pairing.pairs
    moved = replace(case.pairing, pairs=(first._replace(target=(first.target + 1) % 7), *rest))
    bounds = derive_bounds(case, STRICT, torch.float32)
    mismatch = compare_tensors(
        evaluate(moved, case.batch).gradients["logits"], case.oracle.gradients["logits"], bounds.gradients["logits"]
    )
    assert mismatch is not None
    assert mismatch.wrong == 2


def test_ignored_rows_must_be_exactly_zero() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 7, masks=(Mask.NONE, Mask.ALL)))
    bounds = derive_bounds(case, STRICT, torch.float32)
    assert int((bounds.gradients["logits"][1] != 0).sum()) == 0
    assert int((bounds.gradients["logits"][0, 3] != 0).sum()) == 0
    assert bool((bounds.gradients["logits"][0, :3] > 0).all())
    found = case.oracle.gradients["logits"].clone()
    found[1, 2, 3] = 1e-30
    mismatch = compare_tensors(found, case.oracle.gradients["logits"], bounds.gradients["logits"])
    assert mismatch is not None
    assert mismatch.worst == (1, 2, 3)


def test_nothing_scored_allows_nothing() -> None:
    case = build_case(PROFILES["trl.nll"], Recipe(2, 4, 7, masks=(Mask.ALL,)))
    bounds = derive_bounds(case, STRICT, torch.float32)
    assert (bounds.value, bounds.per_token.numel(), float(bounds.gradients["logits"].abs().sum())) == (0.0, 0, 0.0)
    assert dead_value_bound(case, bounds) is None
    assert dead_gradient_bound(case, bounds) is None


# Dead: a case that proves nothing says so.


def with_logits(case: Case, logits: Tensor) -> Case:
    batch = replace(case.batch, logits=logits)
    return replace(case, batch=batch, oracle=evaluate(case.pairing, batch))


def test_equal_logits_cannot_tell_a_constant() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 7))
    flat = with_logits(case, torch.zeros_like(case.batch.logits))
    assert dead_value_bound(flat, derive_bounds(flat, STRICT, torch.float32)) == "constant"


def test_a_loss_of_nothing_cannot_tell_zero() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 7))
    certain = F.one_hot(F.pad(case.batch.labels, (0, 1))[:, 1:] % 7, 7).float() * 1000
    sure = with_logits(case, certain)
    bounds = derive_bounds(sure, STRICT, torch.float32)
    assert dead_value_bound(sure, bounds) == "zero"
    assert dead_gradient_bound(sure, bounds) == "zero"


def test_equal_labels_cannot_tell_a_shift() -> None:
    # In the sixth binary digit all of the first 32 places are 0; nothing moves.
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 2, digit=5))
    bounds = derive_bounds(case, STRICT, torch.float32)
    assert dead_value_bound(case, bounds) == "misaligned"
    assert dead_gradient_bound(case, bounds) == "misaligned"


def test_wide_bounds_are_called_dead() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 4, 7))
    wide = Bounds(1e9, torch.zeros(0), {"logits": torch.full_like(case.oracle.gradients["logits"], 1e9)})
    assert dead_value_bound(case, wide) == "zero"
    assert dead_gradient_bound(case, wide) == "zero"
    between = replace(wide, gradients={"logits": case.oracle.gradients["logits"].abs() * 0.999})
    assert list(passing_gradients(case, between)) == ["a little off"]


def test_bounds_as_wide_as_the_softmax_cannot_tell_a_gradient_at_the_targets_only() -> None:
    case = build_case(PROFILES["torchtune"], Recipe(2, 5, 17, regime=Regime.CALM))
    softmax_part = case.oracle.gradients["logits"].clone()
    for pair in case.pairing.pairs:
        softmax_part[pair.logit][pair.target] += pair.weight
    bounds = replace(derive_bounds(case, STRICT, torch.float32), gradients={"logits": softmax_part * 1.001})
    assert dead_gradient_bound(case, bounds) == "targets only"


@pytest.mark.parametrize("profile", ["torchtune", "preshifted"])
def test_misaligned_pairs_are_one_label_off(profile: str) -> None:
    case = build_case(PROFILES[profile], Recipe(1, 4, 7))
    moved = [(pair.logit[1], pair.target) for pair in misalign(case).pairs]
    assert moved == {"torchtune": [(0, 0), (1, 1), (2, 2)], "preshifted": [(0, 1), (1, 2), (2, 3)]}[profile]


# Several terms.

SEVERAL = Recipe(2, 6, 17, codebooks=3, masks=(Mask.NONE, Mask.PROMPT), ids=Ids.SEEDED, seed=1)


def streams_in_torch(profile: str, case: Case, dtype: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
    """The value and the gradients of a loss over several streams, as one would write it."""
    logits = {name: case.batch.tensor(name).clone().requires_grad_() for name in case.spec.logits}
    x = {name: of.to(dtype) for name, of in logits.items()}
    y = {name: case.batch.tensor(name) for name in case.spec.labels}

    def mean(rows: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(rows.reshape(-1, rows.shape[-1]), labels.reshape(-1))

    text = mean(x["logits"][:, :-1], (y["labels"] if y["labels"].dim() == 2 else y["labels"][..., 0])[:, 1:])
    match profile:
        case "higgs.hf":
            books = range(y["audio_labels"].shape[-1])
            total = text + sum(mean(x["audio_logits"][:, :-1, k], y["audio_labels"][:, 1:, k]) for k in books)
        case "qwen3_tts":
            total = text + 0.3 * mean(x["depth_logits"], y["labels"][..., 1:])
        case _:
            total = text + mean(x["audio_logits"][:, :-1], y["audio_labels"][:, 1:])
    total.backward()
    return total.detach(), {name: of.grad.double() for name, of in logits.items() if of.grad is not None}


@pytest.mark.parametrize("dtype", ["float32", *LOW])
@pytest.mark.parametrize("regime", NUMBERS)
@pytest.mark.parametrize("profile", ["higgs.hf", "higgs.boson", "qwen3_tts"])
def test_right_losses_of_several_terms_are_never_alarmed(profile: str, regime: Regime, dtype: str) -> None:
    for rows, length, codebooks, classes in ((1, 2, 2, 3), (2, 6, 3, 17), (3, 9, 8, 521), (1, 65, 4, 7)):
        recipe = replace(SEVERAL, rows=rows, length=length, codebooks=codebooks, classes=classes, masks=(Mask.NONE,))
        case = build_case(PROFILES[profile], replace(recipe, regime=regime, dtype=dtype))
        value, gradients = streams_in_torch(profile, case)
        bounds = derive_bounds(case, STRICT, value.dtype)
        assert case.oracle.value is not None
        assert share(abs(float(value) - case.oracle.value), bounds.value) < 0.5
        for name, right in case.oracle.gradients.items():
            assert share((gradients[name] - right).abs(), bounds.gradients[name]) < 0.5, name
        assert different_gradients(gradients, case.oracle.gradients, bounds.gradients) is None


@pytest.mark.parametrize("profile", ["higgs.hf", "higgs.boson", "qwen3_tts"])
def test_native_losses_of_several_terms_are_never_alarmed_as_such(profile: str) -> None:
    case = build_case(PROFILES[profile], replace(SEVERAL, masks=(Mask.NONE,), dtype="bfloat16"))
    value, gradients = streams_in_torch(profile, case, torch.bfloat16)
    native_bounds = derive_bounds(case, NATIVE, value.dtype)
    assert case.oracle.value is not None
    assert same_value(float(value), case.oracle.value, native_bounds.value)
    assert different_gradients(gradients, case.oracle.gradients, native_bounds.gradients) is None
    assert different_gradients(gradients, case.oracle.gradients, derive_bounds(case, STRICT, torch.float32).gradients)


MANY = [name for name, spec in PROFILES.items() if len(spec.terms) > 1 or "k" in spec.axes_of(spec.terms[0].logits)]


def several(profile: str, **fields: object) -> Case:
    choices = {"count": "valid"} if profile == "torchtitan.mtp" else {}
    return build_case(PROFILES[profile], replace(SEVERAL, **choices, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("regime", [Regime.NORMAL, Regime.SHARP, Regime.TIES])
@pytest.mark.parametrize("profile", MANY)
def test_bounds_of_several_terms_are_alive(profile: str, regime: Regime) -> None:
    case = several(profile, regime=regime)
    bounds = derive_bounds(case, PROFILES[profile].compute, torch.float32)
    assert dead_value_bound(case, bounds) is None
    assert dead_gradient_bound(case, bounds) is None


@pytest.mark.parametrize("factor", [0.99, 1.01, 0.0])
@pytest.mark.parametrize("profile", MANY)
def test_one_stream_a_little_wrong_shows_in_the_gradient_and_is_named(profile: str, factor: float) -> None:
    case = several(profile)
    bounds = derive_bounds(case, STRICT, torch.float32)
    for name in case.spec.logits:
        found = {**case.oracle.gradients, name: case.oracle.gradients[name] * factor}
        told = different_gradients(found, case.oracle.gradients, bounds.gradients)
        assert told is not None
        assert (f"gradient at {name}" in told) == (len(case.spec.logits) > 1)


@pytest.mark.parametrize("profile", MANY)
def test_one_codebook_a_little_wrong_shows_in_the_gradient(profile: str) -> None:
    case = several(profile)
    bounds = derive_bounds(case, STRICT, torch.float32)
    for name, right in case.oracle.gradients.items():
        for book in range(right.shape[2] if right.dim() == 4 else 0):
            found = right.clone()
            found[:, :, book] *= 1.01
            mismatch = compare_tensors(found, right, bounds.gradients[name])
            assert mismatch is not None
            assert mismatch.worst[2] == book


def test_the_bound_of_two_terms_is_about_that_of_both() -> None:
    spec = PROFILES["higgs.boson"]
    both, text, audio = (
        derive_bounds(build_case(spec, replace(SEVERAL, streams=streams)), STRICT, torch.float32)
        for streams in (Streams.BOTH, Streams.FIRST, Streams.SECOND)
    )
    assert both.value == pytest.approx(text.value + audio.value, rel=0.1)
    assert torch.equal(both.gradients["logits"], text.gradients["logits"])
    assert torch.equal(both.gradients["audio_logits"], audio.gradients["audio_logits"])
    assert int(text.gradients["audio_logits"].count_nonzero()) == 0


def test_a_light_term_is_bound_as_lightly() -> None:
    spec = PROFILES["qwen3_tts"]
    heavy = replace(spec, terms=(spec.terms[0], replace(spec.terms[1], weight=30.0)))
    light_bounds, heavy_bounds = (
        derive_bounds(build_case(of, SEVERAL), STRICT, torch.float32).gradients for of in (spec, heavy)
    )
    ratio = heavy_bounds["depth_logits"] / light_bounds["depth_logits"]
    assert float(ratio[ratio.isfinite()].median()) == pytest.approx(100, rel=1e-3)
    assert torch.equal(heavy_bounds["logits"], light_bounds["logits"])


def test_an_empty_codebook_must_be_exactly_zero() -> None:
    case = build_case(PROFILES["higgs.mean_nonempty"], replace(SEVERAL, hollow=Hollow.FIRST))
    bound = derive_bounds(case, STRICT, torch.float32).gradients["audio_logits"]
    assert int(bound[:, :, 0].count_nonzero()) == 0
    assert bool((bound[:, :, 1:] > 0).any())


@pytest.mark.parametrize("profile", ["higgs.hf", "dia", "medusa", "qwen3_tts"])
def test_misaligned_pairs_are_one_label_off_in_every_codebook(profile: str) -> None:
    case = several(profile, masks=(Mask.NONE,))
    right = {(pair.term, pair.logit): pair.label for pair in case.pairing.pairs}
    moved = misalign(case).pairs
    assert {pair.term for pair in moved} == set(range(len(case.spec.terms)))
    for pair in moved:
        row, position, *book = right[pair.term, pair.logit]
        step = -1 if case.spec.terms[pair.term].shift else 1
        assert pair.label == (row, position + step, *book)


# Comparators.

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (1.0, 1.0, True),
        (1.1, 1.0, True),
        (0.9, 1.0, True),
        (1.11, 1.0, False),
        (NAN, NAN, True),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (INF, INF, True),
        (-INF, -INF, True),
        (INF, -INF, False),
        (INF, 1.0, False),
        (1.0, INF, False),
        (INF, NAN, False),
    ],
)
def test_two_values_are_the_same(found: float, expected: float, same: bool) -> None:
    assert same_value(found, expected, 0.1 + 1e-12) is same


def test_a_mismatch_says_how_many_where_and_by_how_much() -> None:
    expected = torch.zeros(2, 3, dtype=torch.float64)
    found = torch.tensor([[0.0, 0.5, -0.1], [4.0, 0.0, 1.0]], dtype=torch.float64)
    allowed = torch.tensor([[0.1, 0.1, 0.1], [2.0, 0.1, 0.01]], dtype=torch.float64)
    mismatch = compare_tensors(found, expected, allowed)
    assert mismatch is not None
    assert (mismatch.wrong, mismatch.total, mismatch.worst) == (3, 6, (1, 2))
    assert (mismatch.found, mismatch.expected, mismatch.allowed) == (1.0, 0.0, 0.01)
    assert mismatch.describe("gradient") == (
        "3 of 6 elements of the gradient (50%) are wrong; the worst, at [1, 2], is 1; expected 0 ± 0.01"
    )


@pytest.mark.parametrize(
    ("found", "expected", "wrong"),
    [
        ([NAN, INF, -INF, 1.0], [NAN, INF, -INF, 1.0], 0),
        ([1.0, 1.0], [NAN, 1.0], 1),
        ([NAN, 1.0], [1.0, 1.0], 1),
        ([INF, 1.0], [1.0, 1.0], 1),
        ([INF, 1.0], [-INF, 1.0], 1),
        ([1.0, 1.5], [1.0, 1.0], 0),
        ([], [], 0),
    ],
)
def test_elements_that_are_not_finite(found: list[float], expected: list[float], wrong: int) -> None:
    mismatch = compare_tensors(torch.tensor(found).double(), torch.tensor(expected).double(), 0.5)
    assert (0 if mismatch is None else mismatch.wrong) == wrong
    if mismatch is not None:
        assert mismatch.worst == (0,)


def test_a_scalar_is_a_tensor_too() -> None:
    one = torch.tensor(1.0, dtype=torch.float64)
    assert compare_tensors(one, one, 0.0) is None
    mismatch = compare_tensors(one, one + 1, 0.5)
    assert mismatch is not None
    assert mismatch.worst == ()


@pytest.mark.parametrize(
    ("profile", "dtype", "compute", "returned", "value", "per_token", "gradient"),
    [
        ("torchtune", "float32", Compute.STRICT, torch.float32, 6.823108e-6, 2.002043e-5, 7.317977e-6),
        ("torchtune", "bfloat16", Compute.STRICT, torch.float32, 6.826597e-6, 2.002929e-5, 2.994553e-2),
        ("torchtune", "bfloat16", Compute.NATIVE, torch.bfloat16, 0.1821964, 1.093158, 0.3333974),
        ("per_token", "float32", Compute.STRICT, torch.float32, 4.093865e-5, 2.002043e-5, 4.390786e-5),
    ],
)
def test_the_bounds_of_a_case_to_the_digit(
    profile: str,
    dtype: str,
    compute: Compute,
    returned: torch.dtype,
    value: float,
    per_token: float,
    gradient: float,
) -> None:
    """As docs/bounds.md derives them. A bound that grows lets wrong losses pass which no other test has."""
    bounds = derive_bounds(build_case(PROFILES[profile], Recipe(2, 4, 7, seed=1, dtype=dtype)), compute, returned)
    found = bounds.value, float(bounds.per_token.sum()), float(bounds.gradients["logits"].sum())
    assert found == pytest.approx((value, per_token, gradient), rel=1e-4)
