"""Bugs of one text loss, found in larger ones: what the lifted mutant is made of equals the wrong loss as code."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shiftproof.harness.candidates.arguments import bind, lay_back, values_for
from shiftproof.harness.cases.build import Case, build_case
from shiftproof.harness.cases.recipe import Count, Delay, Hollow, Ids, Mask, Recipe, Streams
from shiftproof.harness.cases.space import space
from shiftproof.harness.mutants import MUTANTS, BugVariant
from shiftproof.harness.mutants.views import variants_under, views
from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import Pairing, build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Combine, Documents

SEVERAL = Recipe(
    rows=2,
    length=6,
    classes=13,
    codebooks=4,
    masks=(Mask.NONE, Mask.HOLES, Mask.FIRST),
    ids=Ids.SEEDED,
    dtype="float64",
    seed=4,
)
Loss = Callable[[dict[str, Tensor], Batch], Tensor]


def variant_of(profile: str, name: str, detail: str) -> BugVariant:
    found = {variant.detail: variant for variant in variants_under(MUTANTS[name], PROFILES[profile])}
    assert detail in found, f"{name} has {', '.join(map(repr, found))} under {profile}"
    return found[detail]


def wrong(profile: str, name: str, detail: str = "", recipe: Recipe = SEVERAL) -> Pairing | None:
    spec = PROFILES[profile]
    return variant_of(profile, name, detail).wrong(spec, build_case(spec, recipe).batch)


def mean(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def total(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="sum")


def moved(labels: Tensor, by: int) -> Tensor:
    """Labels that stand ``by`` places later, nothing at the end."""
    by = min(by, labels.shape[1])
    return torch.cat([labels[:, by:], torch.full_like(labels[:, :by], -100)], 1)


def masked(batch: Batch) -> Tensor:
    return batch.tensor("labels").masked_fill(~batch.tensor("loss_mask").bool(), -100)


def books(logits: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = mean) -> Tensor:
    return torch.stack([loss(logits[:, :, k], labels[:, :, k]) for k in range(labels.shape[2])])


def text(x: dict[str, Tensor], batch: Batch, by: int = 1) -> Tensor:
    labels = batch.tensor("labels")
    return mean(x["logits"], moved(labels[..., 0] if labels.dim() == 3 else labels, by))


def higgs(of_text: int, of_audio: int) -> Loss:
    """Text and audio, each shifted so often."""
    return lambda x, batch: (
        text(x, batch, of_text) + books(x["audio_logits"], moved(batch.tensor("audio_labels"), of_audio)).sum()
    )


def boson(audio: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    return lambda x, batch: text(x, batch) + audio(x["audio_logits"], batch.tensor("audio_labels"))


def alone(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    return lambda x, batch: loss(x["logits"], batch.tensor("labels"))


def csm(depth: Callable[[Tensor, Tensor], Tensor], of_text: int = 1) -> Loss:
    return lambda x, batch: text(x, batch, of_text) + depth(x["depth_logits"], batch.tensor("labels"))


def weighted(per_book: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    def loss(x: dict[str, Tensor], batch: Batch) -> Tensor:
        weights = batch.tensor("codebook_weights").double()
        return (weights * per_book(x["logits"], batch.tensor("labels"))).sum() / weights.sum()

    return loss


def positions(labels: Tensor) -> int:
    return labels.shape[0] * labels.shape[1]


def heads(target: Callable[[Tensor, int], Tensor]) -> Loss:
    """Megatron's mean over depths of head d's mean on ``target(labels, d)``."""

    def loss(x: dict[str, Tensor], batch: Batch) -> Tensor:
        losses = [mean(x["mtp_logits"][:, :, d], target(masked(batch), d)) for d in range(x["mtp_logits"].shape[2])]
        return 0.1 * torch.stack(losses).mean()

    return loss


def pooled_unshifted(x: dict[str, Tensor], batch: Batch) -> Tensor:
    logits, labels = x["mtp_logits"], masked(batch)
    depths = logits.shape[2]
    sums = torch.stack([total(logits[:, :, d], labels) for d in range(depths)]).sum()
    return 0.1 * sums / (depths * (labels != -100).sum() + 1e-8)


CODE: list[tuple[str, str, str, Loss]] = [
    ("higgs.hf", "double-shift", "", higgs(2, 2)),
    ("higgs.hf", "double-shift", "in text", higgs(2, 1)),
    ("higgs.hf", "double-shift", "in audio", higgs(1, 2)),
    ("higgs.hf", "no-shift", "in audio", higgs(1, 0)),
    ("higgs.hf", "roll-wrap", "in audio", boson(lambda x, y: books(x, torch.roll(y, -1, 1)).sum())),
    (
        "higgs.hf",
        "denominator-all",
        "kept tail, in audio",
        boson(lambda x, y: books(x, moved(y, 1), total).sum() / positions(y)),
    ),
    ("higgs.boson", "double-shift", "in audio", boson(lambda x, y: mean(x, moved(y, 2)))),
    ("higgs.boson", "no-shift", "in audio", boson(mean)),
    (
        "higgs.boson",
        "denominator-all",
        "kept tail, in audio",
        boson(lambda x, y: total(x, moved(y, 1)) / y.numel()),
    ),
    ("higgs.mean_nonempty", "double-shift", "in audio", boson(lambda x, y: books(x, moved(y, 2)).mean())),
    ("moss_ttsd", "roll-wrap", "", weighted(lambda x, y: books(x, torch.roll(y, -1, 1)))),
    ("moss_ttsd", "double-shift", "", weighted(lambda x, y: books(x, moved(y, 2)))),
    (
        "moss_ttsd",
        "denominator-all",
        "kept tail",
        weighted(lambda x, y: books(x, moved(y, 1), total) / positions(y)),
    ),
    (
        "musicgen",
        "denominator-all",
        "kept tail",
        alone(lambda x, y: books(x, y.masked_fill(y == 13, -100), total).mean() / positions(y)),
    ),
    ("dia", "aligned-shift", "", alone(lambda x, y: mean(x, moved(y, 1)))),
    ("dia", "denominator-all", "kept tail", alone(lambda x, y: total(x, y) / y.numel())),
    (
        "csm",
        "double-shift",
        "in depth",  # two codebooks on, where one was promised
        csm(lambda x, y: mean(x[:, :, :-1], y[..., 2:])),
    ),
    ("csm", "double-shift", "in backbone", csm(lambda x, y: mean(x, y[..., 1:]), of_text=2)),
    (
        "csm",
        "denominator-all",
        "trimmed tail, in depth",
        csm(lambda x, y: total(x, y[..., 1:]) / y[..., 1:].numel()),
    ),
    ("megatron.mtp", "no-shift", "", heads(lambda y, d: y)),
    ("megatron.mtp", "double-shift", "", heads(lambda y, d: moved(y, 2 * (d + 1)))),
    ("megatron.mtp", "roll-wrap", "", heads(lambda y, d: torch.roll(y, -(d + 1), 1))),
    ("maxtext.mtp", "no-shift", "", pooled_unshifted),
]


def assert_same(case: Case, pairing: Pairing | None, code: Loss) -> None:
    """That a pairing has the value and the gradients of some code, and not the right ones."""
    assert pairing is not None
    expected = evaluate(pairing, case.batch)
    leaves = {name: case.batch.tensor(name).clone().requires_grad_() for name in case.spec.logits}
    value = code(leaves, case.batch)
    value.backward()
    assert float(value.detach()) == pytest.approx(expected.value, rel=1e-9)
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert torch.allclose(leaf.grad, expected.gradients[name], rtol=1e-6, atol=1e-9), name
    assert case.oracle.value != pytest.approx(expected.value, rel=1e-6)


@pytest.mark.parametrize(("profile", "name", "detail", "code"), CODE)
def test_a_lifted_mutant_is_what_the_buggy_code_computes(profile: str, name: str, detail: str, code: Loss) -> None:
    for seed in range(3):
        case = build_case(PROFILES[profile], replace(SEVERAL, codebooks=3 + seed, length=12 + seed, seed=seed))
        assert_same(case, variant_of(profile, name, detail).wrong(case.spec, case.batch), code)


LARGER = [name for name, of in PROFILES.items() if len(of.terms) > 1 or "k" in of.axes_of(of.terms[0].logits)]


@pytest.mark.parametrize("profile", LARGER)
def test_the_views_of_what_is_right_add_up_to_it(profile: str) -> None:
    """Lifted, a mutant that leaves each text loss right gives the whole right pairing."""
    spec = PROFILES[profile]
    right = BugVariant("", lambda spec, batch: build_pairing(spec, batch))
    as_mutant = replace(MUTANTS["no-shift"], variants=(right,))
    for recipe in (
        SEVERAL,
        replace(SEVERAL, hollow=Hollow.LAST, delay=Delay.STEP),
        replace(SEVERAL, streams=Streams.SECOND, count=Count.GLOBAL),
        replace(SEVERAL, rows=1, length=2),
    ):
        case = build_case(spec, replace(recipe, count=recipe.count if profile != "torchtitan.mtp" else Count.GLOBAL))
        expected = {(p.term, p.logit, p.label): (p.target, pytest.approx(p.weight)) for p in case.pairing.pairs}
        for variant in variants_under(as_mutant, spec):
            if "codebook by codebook" in variant.detail:
                continue  # a sum of the codebooks' means is another loss
            found = variant.wrong(spec, case.batch)
            assert found is not None
            pairs = {(p.term, p.logit, p.label): (p.target, p.weight) for p in found.pairs}
            assert pairs == expected, variant.detail


def test_views_are_one_a_codebook_head_or_term() -> None:
    batches = {name: build_case(PROFILES[name], SEVERAL).batch for name in ("higgs.hf", "dia", "csm", "medusa")}
    shapes = {
        (name, term.name): [tuple(view.batch.tensor("labels").shape) for view in views(term, batch)]
        for name, batch in batches.items()
        for term in PROFILES[name].terms
    }
    assert shapes == {
        ("higgs.hf", "text"): [(2, 6)],
        ("higgs.hf", "audio"): [(2, 6)] * 4,
        ("dia", "audio"): [(8, 6)],  # they share their denominator: rows of one loss
        ("csm", "backbone"): [(2, 6)],
        ("csm", "depth"): [(12, 4)],  # a row a frame
        ("medusa", "heads"): [(2, 6)] * 4,
    }
    assert {view.spec.terms[0].shift for view in views(PROFILES["medusa"].terms[0], batches["medusa"])} == {2, 3, 4, 5}


def test_a_mutant_of_all_terms_needs_all_of_them() -> None:
    assert wrong("moshi", "no-shift") is None  # its audio does not shift
    assert wrong("moshi", "no-shift", "in text") is not None
    assert wrong("moshi", "aligned-shift", "in audio") is not None
    assert wrong("moshi", "aligned-shift") is None


def test_the_other_terms_stay_right() -> None:
    for profile in ("higgs.hf", "higgs.boson", "csm", "moshi"):
        spec = PROFILES[profile]
        right = build_case(spec, SEVERAL).pairing
        for index, term in enumerate(spec.terms):
            found = wrong(profile, "ignore-unused", f"÷ all, in {term.name}")
            assert found is not None
            others = [pair for pair in right.pairs if pair.term != index]
            assert [pair for pair in found.pairs if pair.term != index] == others
            assert [pair for pair in found.pairs if pair.term == index] != [p for p in right.pairs if p.term == index]


def test_a_text_loss_is_its_own_view() -> None:
    for profile in ("torchtune", "hf.prefix_lm", "liger.smoothing"):
        assert tuple(variants_under(MUTANTS["double-shift"], PROFILES[profile])) == MUTANTS["double-shift"].variants


def test_variants_say_where_they_are() -> None:
    details = [variant.detail for variant in variants_under(MUTANTS["denominator-all"], PROFILES["higgs.hf"])]
    assert details == [
        *("kept tail", "kept tail, in text", "kept tail, in audio"),
        *("trimmed tail", "trimmed tail, in text", "trimmed tail, in audio"),
    ]


# --- Wrong losses as people wrote them --------------------------------------------------------------------------------


def candidates() -> ModuleType:
    path = Path(__file__).parents[2] / "candidates" / "wrong_codebooks.py"
    found = importlib.util.spec_from_file_location("wrong_codebooks", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


WRONG: Any = candidates()


def run(case: Case, function: Callable[..., Any]) -> tuple[float, dict[str, Tensor]]:
    """The value and the gradients, in the batch's shapes, of a candidate; 0 where none flows."""
    parameters = inspect.signature(function).parameters.values()
    bound = bind(function.__name__, [(each.name, each.default is each.empty) for each in parameters], {})
    tensors, scalars = values_for(case, bound)
    leaves = {name: tensors[bound.names[name]].clone().requires_grad_() for name in case.spec.logits}
    returned = function(**{**tensors, **{bound.names[name]: leaf for name, leaf in leaves.items()}, **scalars})
    value = returned["loss"] if isinstance(returned, dict) else returned
    value.backward()
    return float(value.detach()), {
        name: lay_back(case.spec, name, (leaf if leaf.grad is None else leaf.grad).double(), case.pairing.shapes[name])
        * (leaf.grad is not None)
        for name, leaf in leaves.items()
    }


def agree(pairing: Pairing, case: Case, value: float, gradients: dict[str, Tensor]) -> bool:
    """Whether pairs have this value and these gradients. What is left of a mean over nothing is not theirs to say."""
    expected = evaluate(replace(pairing, empty=0.0), case.batch)
    return (math.isnan(value) or value == pytest.approx(expected.value, rel=1e-4)) and all(
        torch.allclose(gradients[at].nan_to_num(), right, rtol=1e-3, atol=1e-6)
        for at, right in expected.gradients.items()
    )


BUGS = {
    name: (profile, bug)
    for name, (profile, bug) in WRONG.WRONG.items()
    if profile in PROFILES and bug in MUTANTS and name != "csm_depth_weighted"  # a weight of its own, told by its ratio
}


def telling(profile: str) -> list[Case]:
    spec = PROFILES[profile]
    counts = space(spec, frozenset({"num_items_in_batch"})).get("count", (Count.ABSENT,))
    changes: list[dict[str, Any]] = [
        {"length": 6, "delay": Delay.NONE, "hollow": Hollow.NONE},
        {"length": 8, "delay": Delay.STEP, "hollow": Hollow.LAST, "codebooks": 3},
        {"length": 7, "delay": Delay.AFTER_FIRST, "hollow": Hollow.FIRST},
        {"length": 4, "rows": 3, "codebooks": 2},
        {"length": 5, "codebooks": 5},
    ]
    recipes = [
        replace(SEVERAL, dtype="float32", seed=seed, count=counts[-1 if seed % 2 else 0], **change)
        for seed, change in enumerate(changes)
    ]
    if profile == "musicgen":
        recipes = [replace(recipe, extra=2) for recipe in recipes]
    return [build_case(spec, recipe) for recipe in recipes]


@pytest.mark.parametrize("name", BUGS)
def test_a_wrong_loss_as_code_is_one_way_to_have_its_mutant(name: str) -> None:
    profile, bug = BUGS[name]
    cases = telling(profile)
    ran = [run(case, getattr(WRONG, name)) for case in cases]
    assert not all(agree(case.pairing, case, *seen) for case, seen in zip(cases, ran, strict=True))
    for variant in variants_under(MUTANTS[bug], PROFILES[profile]):
        pairings = [variant.wrong(case.spec, case.batch) for case in cases]
        known = [entry for entry in zip(pairings, cases, ran, strict=True) if entry[0] is not None]
        if known and all(pairing is not None and agree(pairing, case, *seen) for pairing, case, seen in known):
            return
    pytest.fail(f"no variant of {bug} is {name}")


# --- Heads that predict further ahead ---------------------------------------------------------------------------------

EIGHT = Recipe(rows=1, length=6, classes=11, codebooks=2)
MTP = PROFILES["megatron.mtp"]
PACKED = replace(MTP, name="packed.mtp", terms=(replace(MTP.terms[0], documents=Documents.POSITION_IDS),))


def drawn(pairing: Pairing | None) -> list[str]:
    """The targets of each head: ["1 2 3 4 5 –", …]."""
    assert pairing is not None
    _, length, depths, _ = pairing.shapes["mtp_logits"]
    targets = {pair.logit: str(pair.target) for pair in pairing.pairs if len(pair.logit) == 3}
    return [" ".join(targets.get((0, at, head), "–") for at in range(length)) for head in range(depths)]


@pytest.mark.parametrize(
    ("detail", "of_each"),
    [("further", ["2 3 4 5 – –", "3 4 5 – – –"]), ("nearer", ["0 1 2 3 4 5", "1 2 3 4 5 –"])],
)
def test_heads_are_one_further_or_one_nearer(detail: str, of_each: list[str]) -> None:
    right = build_case(MTP, EIGHT).pairing
    assert drawn(right) == ["1 2 3 4 5 –", "2 3 4 5 – –"]
    found = wrong("megatron.mtp", "head-off-by-one", detail, EIGHT)
    assert drawn(found) == of_each
    assert found is not None
    for head, targets in enumerate(of_each):
        count = sum(target.isdigit() for target in targets.split())
        assert [pair.weight for pair in found.pairs if pair.logit[2] == head] == [
            pytest.approx(0.1 / 2 / count)
        ] * count


def test_heads_of_a_loss_that_shifts_can_be_nearer_too() -> None:
    assert drawn(build_case(PROFILES["medusa"], EIGHT).pairing) == ["2 3 4 5 – –", "3 4 5 – – –"]
    assert drawn(wrong("medusa", "head-off-by-one", "nearer", EIGHT)) == ["1 2 3 4 5 –", "2 3 4 5 – –"]
    main = replace(PROFILES["medusa"].terms[0], shift=1)
    spec = replace(PROFILES["medusa"], terms=(main,))
    nearer = MUTANTS["head-off-by-one"].variants[1].wrong(spec, build_case(spec, EIGHT).batch)
    assert drawn(nearer) == ["0 1 2 3 4 5", "1 2 3 4 5 –"]


@pytest.mark.parametrize(
    ("detail", "of_each"),
    [
        # Labels hold the next token: documents [0 1] [2 3 4 5], so that label 1 is the second one's first token.
        ("at every depth", ["1 2 3 4 5 –", "2 3 4 5 – –"]),
        ("after the first depth", ["– – 3 4 5 –", "2 3 4 5 – –"]),
    ],
)
def test_heads_predict_into_the_next_document(detail: str, of_each: list[str]) -> None:
    packed = replace(EIGHT, documents=2)
    case = build_case(PACKED, packed)
    assert drawn(case.pairing) == ["– – 3 4 5 –", "– – 4 5 – –"]
    found = {variant.detail: variant for variant in MUTANTS["mtp-cross-document"].variants}[detail]
    assert drawn(found.wrong(PACKED, case.batch)) == of_each
    assert found.wrong(MTP, case.batch) is None


@pytest.mark.parametrize(
    ("profile", "weight"),
    [
        ("megatron.mtp", 0.1 / 2 / 6),
        ("maxtext.mtp", 0.1 / (2 * 6)),  # pooled
        ("medusa", 1 / 5),  # it shifts: 5 of the 6 labels are next tokens
    ],
)
def test_depths_over_the_main_count_where_each_was_promised_its_own(profile: str, weight: float) -> None:
    found = wrong(profile, "mtp-scale", recipe=EIGHT)
    assert found is not None
    assert [pair.weight for pair in found.pairs] == [pytest.approx(weight)] * len(found.pairs)


def test_depths_over_their_own_count_where_the_main_one_was_promised() -> None:
    found = wrong("torchtitan.mtp", "mtp-scale", recipe=replace(EIGHT, count=Count.GLOBAL))
    assert found is not None
    by_head = {pair.logit[2]: pair.weight for pair in found.pairs if pair.term == 1}
    assert by_head == {0: pytest.approx(0.3 / 2 / 5), 1: pytest.approx(0.3 / 2 / 4)}
    assert [pair.weight for pair in found.pairs if pair.term == 0] == [pytest.approx(1 / 15)] * 6


def test_what_does_not_predict_ahead_has_none_of_these() -> None:
    for name in ("head-off-by-one", "mtp-cross-document", "mtp-scale"):
        for profile in ("torchtune", "dia", "csm", "packed.position_ids"):
            for variant in MUTANTS[name].variants:
                assert variant.wrong(PROFILES[profile], build_case(PROFILES[profile], SEVERAL).batch) is None


def test_every_combination_of_heads_is_viewed() -> None:
    combined = {term.combine for spec in PROFILES.values() for term in spec.terms if "k" in spec.axes_of(term.logits)}
    assert combined == set(Combine)
