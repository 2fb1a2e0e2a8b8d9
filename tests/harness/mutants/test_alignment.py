"""Misaligned losses, worked by hand on labels [[0, 1, 2, 3], [4, 5, 6, 7]], and against the buggy code itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.harness.cases.build import build_batch, build_case
from shiftproof.harness.cases.recipe import Ids, Mask, Recipe, ShiftLabels
from shiftproof.harness.mutants import MUTANTS
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import Pairing, build_pairing
from shiftproof.reference.profiles import PROFILES

EIGHT = Recipe(rows=2, length=4, classes=11)


def wrong(name: str, detail: str = "", profile: str = "torchtune", recipe: Recipe = EIGHT) -> Pairing | None:
    spec = PROFILES[profile]
    variant = {variant.detail: variant for variant in MUTANTS[name].variants}[detail]
    return variant.wrong(spec, build_batch(spec, recipe))


def drawn(pairing: Pairing | None) -> str:
    """The target of every logit row: "1 2 3 – | 5 6 7 –"."""
    assert pairing is not None
    rows, length, _ = pairing.shapes["logits"]
    targets = {pair.logit: str(pair.target) for pair in pairing.pairs}
    return " | ".join(" ".join(targets.get((row, at), "–") for at in range(length)) for row in range(rows))


def weights(pairing: Pairing | None) -> set[float]:
    assert pairing is not None
    return {round(pair.weight, 12) for pair in pairing.pairs}


def test_right_is_what_it_is_compared_with() -> None:
    spec = PROFILES["torchtune"]
    assert drawn(build_pairing(spec, build_batch(spec, EIGHT))) == "1 2 3 – | 5 6 7 –"


@pytest.mark.parametrize(
    ("name", "detail", "pairs"),
    [
        ("no-shift", "", "0 1 2 3 | 4 5 6 7"),
        ("double-shift", "", "2 3 – – | 6 7 – –"),
        ("flat-double-shift", "", "2 3 5 – | 6 7 – –"),
        ("reverse-shift", "", "– 0 1 2 | – 4 5 6"),
        ("flatten-then-shift", "", "1 2 3 4 | 5 6 7 –"),
        ("roll-wrap", "", "1 2 3 0 | 5 6 7 4"),
        ("index-minus-one", "", "1 2 3 0 | 5 6 7 4"),
        ("tail-pad-target", "the pad id", "1 2 3 1 | 5 6 7 1"),
        ("tail-pad-target", "id 0", "1 2 3 0 | 5 6 7 0"),
        ("drop-last-response", "", "1 2 – – | 5 6 – –"),
        ("shard-then-shift", "2", "1 – 3 – | 5 – 7 –"),
        ("shard-then-shift", "4", "– – – – | – – – –"),
    ],
)
def test_pairs_by_hand(name: str, detail: str, pairs: str) -> None:
    found = wrong(name, detail)
    assert drawn(found) == pairs
    count = sum(target.isdigit() for target in pairs.split())
    assert weights(found) == ({round(1 / count, 12)} if count else set())


def test_flat_double_shift_equals_double_shift_in_one_row() -> None:
    one = Recipe(rows=1, length=5, classes=11)
    assert drawn(wrong("flat-double-shift", recipe=one)) == drawn(wrong("double-shift", recipe=one)) == "2 3 4 – –"


def test_aligned_labels_are_shifted_where_they_were_right() -> None:
    assert drawn(wrong("aligned-shift", profile="hf.seq2seq")) == "1 2 3 – | 5 6 7 –"
    assert wrong("aligned-shift", profile="torchtune") is None
    assert wrong("double-shift", profile="hf.seq2seq") is None


def test_labels_that_the_data_shifted_are_shifted_again() -> None:
    assert drawn(wrong("double-shift", profile="nanogpt")) == "1 2 3 – | 5 6 7 –"
    assert drawn(wrong("reverse-shift", profile="nanogpt")) == "– 0 1 2 | – 4 5 6"


def test_a_loss_that_does_not_shift_cannot_forget_to() -> None:
    preshifted = ("no-shift", "flat-double-shift", "flatten-then-shift", "roll-wrap", "index-minus-one")
    assert [wrong(name, profile="preshifted") for name in preshifted] == [None] * 5
    for count in ("2", "4", "8"):
        assert wrong("shard-then-shift", count, "preshifted") is None


def test_given_shift_labels_there_is_nothing_to_shift() -> None:
    given = Recipe(rows=2, length=4, classes=11, shift_labels=ShiftLabels.SHARDED)
    assert wrong("no-shift", profile="hf.causal_lm", recipe=given) is None
    assert drawn(wrong("double-shift", profile="hf.causal_lm", recipe=given)) == "1 2 3 – | 5 6 7 –"


@pytest.mark.parametrize(
    ("detail", "pairs"),
    [("-1", "– 1 2 3 – –"), ("1", "– – – 1 2 3"), ("none", "1 2 3 – – –")],
)
def test_a_prefix_cut_at_the_wrong_place(detail: str, pairs: str) -> None:
    prefixed = Recipe(rows=1, length=4, classes=11, extra=2)
    spec = PROFILES["hf.prefix_lm"]
    assert drawn(build_pairing(spec, build_batch(spec, prefixed))) == "– – 1 2 3 –"
    assert drawn(wrong("prefix-slice", detail, "hf.prefix_lm", prefixed)) == pairs
    assert wrong("prefix-slice", detail, "hf.prefix_lm", EIGHT) is None
    assert wrong("prefix-slice", detail, "torchtune", EIGHT) is None


def test_the_other_bugs_start_after_the_prefix() -> None:
    prefixed = Recipe(rows=1, length=4, classes=11, extra=2)
    assert drawn(wrong("no-shift", profile="hf.prefix_lm", recipe=prefixed)) == "– – 0 1 2 3"
    assert drawn(wrong("double-shift", profile="hf.prefix_lm", recipe=prefixed)) == "– – 2 3 – –"
    assert drawn(wrong("tail-pad-target", "id 0", "hf.prefix_lm", prefixed)) == "– – 1 2 3 0"
    assert drawn(wrong("shard-then-shift", "2", "hf.prefix_lm", prefixed)) == "– – 1 – 3 –"


@pytest.mark.parametrize("detail", ["mask and label", "mask alone"])
def test_a_mask_that_is_not_shifted_drops_the_first_of_a_response(detail: str) -> None:
    prompt = Recipe(rows=1, length=4, classes=11, masks=(Mask.PROMPT,))  # trained: labels 2 and 3
    assert drawn(wrong("drop-first-response", detail, recipe=prompt)) == "– – 3 –"


@pytest.mark.parametrize(("detail", "pairs"), [("mask and label", "1 – 3 –"), ("mask alone", "– – 3 –")])
def test_an_explicit_mask_that_is_not_shifted(detail: str, pairs: str) -> None:
    holes = Recipe(rows=1, length=4, classes=11, masks=(Mask.HOLES,))  # trained: labels 0, 2 and 3
    assert drawn(wrong("drop-first-response", detail, "masked", holes)) == pairs


def test_each_response_loses_its_last_token() -> None:
    holes = Recipe(rows=1, length=7, classes=11, masks=(Mask.HOLES,))  # responses: 0, then 2 3, then 5 6
    assert drawn(wrong("drop-last-response", recipe=holes)) == "– 2 – – 5 – –"


# The same bugs as code: what was really written, and its gradient by autograd.


def mean(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), ignore_index=-100)


def padded(logits: Tensor, labels: Tensor) -> Tensor:
    return mean(logits, F.pad(labels, (0, 1), value=-100)[..., 1:])


def git(logits: Tensor, labels: Tensor) -> Tensor:
    return padded(logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


def sharded(logits: Tensor, labels: Tensor) -> Tensor:
    return mean(logits, torch.cat([F.pad(part, (0, 1), value=-100)[:, 1:] for part in labels.chunk(2, dim=1)], 1))


def padded_with_zero(logits: Tensor, labels: Tensor) -> Tensor:
    return mean(logits, F.pad(labels, (0, 1), value=0)[..., 1:])


CODE: list[tuple[str, str, Callable[[Tensor, Tensor], Tensor]]] = [
    ("no-shift", "", mean),
    ("double-shift", "", lambda x, y: padded(x[:, :-1], y[:, 1:])),
    ("flat-double-shift", "", git),
    ("reverse-shift", "", lambda x, y: mean(x[:, 1:], y[:, :-1])),
    ("flatten-then-shift", "", lambda x, y: mean(x.flatten(0, 1)[:-1], y.flatten()[1:])),
    ("roll-wrap", "", lambda x, y: mean(x, torch.roll(y, -1, 1))),
    ("tail-pad-target", "id 0", padded_with_zero),
    ("shard-then-shift", "2", sharded),
]


@pytest.mark.parametrize(("name", "detail", "code"), CODE)
def test_a_mutant_is_what_the_buggy_code_computes(
    name: str, detail: str, code: Callable[[Tensor, Tensor], Tensor]
) -> None:
    for seed in range(4):
        masks = (Mask.NONE, Mask.HOLES, Mask.PROMPT, Mask.PADDING)[: seed + 1]
        recipe = Recipe(seed + 2, 7 + seed, 13, masks=masks, ids=Ids.SEEDED, dtype="float64", seed=seed)
        case = build_case(PROFILES["torchtune"], recipe)
        expected = evaluate(wrong(name, detail, recipe=recipe) or case.pairing, case.batch)
        leaf = case.batch.tensor("logits").clone().requires_grad_()
        value = code(leaf, case.batch.tensor("labels"))
        value.backward()
        assert float(value.detach()) == pytest.approx(expected.value, rel=1e-12)
        assert leaf.grad is not None
        assert torch.allclose(leaf.grad, expected.gradients["logits"], rtol=1e-9, atol=1e-12)
        assert case.oracle.value != pytest.approx(expected.value)
