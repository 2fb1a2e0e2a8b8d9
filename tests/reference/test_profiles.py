"""Every profile means what its formula says: each has a second opinion here, written without the reference."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftproof.reference import profiles
from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Layout, Reduction

# Second opinions: a batch in, a loss out, in the idioms of the systems themselves


def nll(logits, labels, ignore_index=-100):
    """ℓ at every position, [B, S]; 0 where ignored."""
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=ignore_index, reduction="none")


def next_nll(batch):
    """ℓ(x_t, y_{t+1}), [B, S−1]; 0 where ignored."""
    return nll(batch.logits[:, :-1], batch.labels[:, 1:])


def count(labels):
    return (labels != -100).sum()


def hf_causal_lm(batch):
    labels = F.pad(batch.labels[:, 1:], (0, 1), value=-100) if batch.shift_labels is None else batch.shift_labels
    return nll(batch.logits, labels).sum() / (batch.num_items_in_batch or count(labels))


def hf_prefix_lm(batch):
    text = batch.logits[:, batch.logits.shape[1] - batch.labels.shape[1] :]
    return nll(text[:, :-1], batch.labels[:, 1:]).sum() / count(batch.labels[:, 1:])


def flat_mean(batch):
    return F.cross_entropy(batch.logits.flatten(0, 1), batch.labels.flatten())


def flat_mean_or_zero(batch):
    return nll(batch.logits, batch.labels).sum() / max(int(count(batch.labels)), 1)


def nanogpt(batch):
    return F.cross_entropy(batch.logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-1)


def higgs_text(batch):
    return nll(batch.logits[:, : batch.labels.shape[1]], batch.labels).sum() / count(batch.labels)


def torchtune(batch):
    filler = torch.full((batch.labels.shape[0], 1), -100)
    return F.cross_entropy(batch.logits.flatten(0, 1), torch.hstack((batch.labels[..., 1:], filler)).flatten())


def torchtitan(batch):
    return (
        F.cross_entropy(batch.logits.flatten(0, 1), batch.labels.flatten(), reduction="sum") / batch.num_items_in_batch
    )


def megatron(batch):
    mask = batch.loss_mask.double()
    return (nll(batch.logits, batch.labels) * mask).sum() / mask.sum().clamp(min=1)


def maxtext(batch):
    mask = (batch.segment_ids != 0).double()
    return (nll(batch.logits, batch.labels) * mask).sum() / (mask.sum() + 1e-8)


def trl_nll(batch):
    return next_nll(batch).sum() / max(int(count(batch.labels[:, 1:])), 1)


def eagle3(batch):
    return (next_nll(batch) * batch.loss_mask[:, 1:]).sum() / batch.labels.numel()


def ms_swift(batch):
    return (next_nll(batch) * batch.token_weights[:, 1:]).sum() / batch.num_items_in_batch


def weighted_count(batch):
    return (next_nll(batch) * batch.token_weights[:, 1:]).sum() / count(batch.labels[:, 1:])


def weighted(batch):
    weights = batch.token_weights[:, 1:] * (batch.labels[:, 1:] != -100)
    return (next_nll(batch) * weights).sum() / weights.sum()


def masked(batch):
    labels = batch.labels.where(batch.loss_mask.bool(), -100)
    return F.cross_entropy(batch.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def packed(batch, documents):
    """The mean over documents cut out of the batch, each with a next-token loss of its own."""
    pieces = [(logits[:-1], labels[1:]) for logits, labels in documents if len(labels) > 1]
    total = sum((F.cross_entropy(*piece, reduction="sum") for piece in pieces), batch.logits.sum() * 0)
    return total / torch.tensor(sum(int(count(labels)) for _, labels in pieces))


def packed_by_position_ids(batch):
    documents = []
    for logits, labels, positions in zip(batch.logits, batch.labels, batch.position_ids, strict=True):
        starts = (positions == 0).nonzero().flatten().tolist()
        ends = [*starts[1:], len(positions)]
        documents += [(logits[start:end], labels[start:end]) for start, end in zip(starts, ends, strict=True)]
    return packed(batch, documents)


def packed_by_cu_seqlens(batch):
    lengths = batch.cu_seqlens.diff().tolist()
    cut = zip(batch.logits.flatten(0, 1).split(lengths), batch.labels.flatten().split(lengths), strict=True)
    return packed(batch, list(cut))


def packed_by_segment_ids(batch):
    documents = []
    for logits, labels, segments in zip(batch.logits, batch.labels, batch.segment_ids, strict=True):
        documents += [(logits[segments == at], labels[segments == at]) for at in segments.unique() if at != 0]
    return packed(batch, documents)


def per_token(batch):
    return nll(batch.logits, F.pad(batch.labels[:, 1:], (0, 1), value=-100))


SECOND_OPINIONS = {
    "hf.causal_lm": hf_causal_lm,
    "hf.seq2seq": flat_mean,
    "hf.prefix_lm": hf_prefix_lm,
    "torch.cross_entropy": flat_mean,
    "nanogpt": nanogpt,
    "preshifted": flat_mean,
    "higgs.text": higgs_text,
    "litgpt": flat_mean_or_zero,
    "torchtune": torchtune,
    "torchtitan": torchtitan,
    "megatron": megatron,
    "maxtext": maxtext,
    "trl.nll": trl_nll,
    "liger": flat_mean_or_zero,
    "fla": flat_mean_or_zero,
    "eagle3": eagle3,
    "ms_swift": ms_swift,
    "weighted.count": weighted_count,
    "weighted": weighted,
    "masked": masked,
    "packed.position_ids": packed_by_position_ids,
    "packed.cu_seqlens": packed_by_cu_seqlens,
    "packed.segment_ids": packed_by_segment_ids,
    "sum": lambda batch: next_nll(batch).sum(),
    "per_token": per_token,
    "per_token.trimmed": next_nll,
}


# What a batch must be like for a second opinion on it to make sense. It is not asked of the spec, which is on trial.
IGNORE_INDEX = {"nanogpt": -1, "megatron": None, "maxtext": None, "eagle3": None}  # the others: -100
EXTRA_LOGITS = {"hf.prefix_lm": 3, "higgs.text": 2}  # at most
NEEDS_NUM_ITEMS = {"torchtitan", "ms_swift"}


def text_batch(name, seed, nothing):
    """A random batch with every argument there is; with ``nothing``, none of its labels counts."""
    rng, choose = torch.Generator().manual_seed(seed), random.Random(seed)
    rows, length, classes = choose.randint(1, 3), choose.randint(1, 7), choose.randint(2, 9)
    extra = choose.randint(0, EXTRA_LOGITS.get(name, 0))
    ignore_index = IGNORE_INDEX.get(name, -100)

    def some(share):
        return torch.rand(rows, length, generator=rng) < (1 if nothing else share)

    def labels():
        drawn = torch.randint(classes, (rows, length), generator=rng)
        return drawn if ignore_index is None else drawn.masked_fill(some(0.3), ignore_index)

    columns = torch.arange(length).expand(rows, length)
    starts = (torch.rand(rows, length, generator=rng) < 0.3) | (columns == 0)
    padding = columns >= (0 if nothing else choose.randint(1, length + 2))
    return Batch(
        logits=3 * torch.randn(rows, length + extra, classes, dtype=torch.float64, generator=rng),
        labels=labels(),
        shift_labels=labels() if choose.random() < 0.5 else None,
        loss_mask=(~some(0.4)).long(),
        token_weights=torch.rand(rows, length, dtype=torch.float64, generator=rng) + 0.1,
        position_ids=columns - columns.where(starts, 0).cummax(1).values,
        segment_ids=starts.cumsum(1).masked_fill(padding, 0),
        cu_seqlens=torch.tensor([*starts.flatten().nonzero().flatten().tolist(), rows * length]),
        num_items_in_batch=choose.randint(1, 50) if name in NEEDS_NUM_ITEMS or choose.random() < 0.5 else None,
    )


@pytest.mark.parametrize("name", PROFILES)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), nothing=st.booleans())
def test_a_second_opinion_agrees_on_value_and_gradient(name, seed, nothing):
    assert name in SECOND_OPINIONS, "write the loss down once more, without the reference, in SECOND_OPINIONS"
    batch = text_batch(name, seed, nothing)
    oracle = evaluate(build_pairing(PROFILES[name], batch), batch.logits)
    leaf = batch.logits.clone().requires_grad_()
    loss = SECOND_OPINIONS[name](replace(batch, logits=leaf)).sum()
    assert oracle.value == pytest.approx(loss.item(), rel=1e-13, abs=1e-13, nan_ok=True)
    if math.isnan(oracle.value):
        assert not oracle.gradient.any()  # no pairs; what autograd makes of 0/0 is no opinion
    else:
        (gradient,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(oracle.gradient, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in PROFILES if PROFILES[name].terms[0].reduction is Reduction.NONE])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_second_opinion_agrees_on_each_token_and_where_it_stands(name, seed):
    batch = text_batch(name, seed, nothing=False)
    pairing = build_pairing(PROFILES[name], batch)
    losses = torch.zeros(pairing.output_shape, dtype=torch.float64)
    for pair, loss in zip(pairing.pairs, evaluate(pairing, batch.logits).per_token, strict=True):
        losses[pair.logit] = pair.weight * loss
    torch.testing.assert_close(losses, SECOND_OPINIONS[name](batch), rtol=1e-12, atol=1e-13)


def test_no_second_opinion_is_left_over():
    assert {*SECOND_OPINIONS, *IGNORE_INDEX, *EXTRA_LOGITS, *NEEDS_NUM_ITEMS} <= set(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_has_its_name_a_formula_and_a_source(name):
    spec = PROFILES[name]
    assert spec.name == name
    assert spec.formula.strip()
    assert spec.source.strip()


def test_a_profile_is_written_down_once():
    with pytest.raises(ValueError, match="two profiles are called 'sum'"):
        profiles._profile("sum", PROFILES["sum"].terms[0], "Σ ℓ", "here")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("torch.cross_entropy", math.nan),
        ("hf.seq2seq", math.nan),
        ("torchtune", math.nan),
        ("litgpt", 0.0),
        ("trl.nll", 0.0),
        ("fla", 0.0),
        ("liger", 0.0),
        ("megatron", 0.0),
        ("maxtext", 0.0),
        ("eagle3", 0.0),
        ("ms_swift", 0.0),
        ("weighted.count", math.nan),
    ],
)
def test_the_field_does_not_agree_on_a_batch_where_nothing_counts(name, value):
    batch = text_batch(name, 0, nothing=True)
    assert evaluate(build_pairing(PROFILES[name], batch), batch.logits).value == pytest.approx(value, nan_ok=True)


@pytest.mark.parametrize("name", PROFILES)
def test_only_flattened_losses_are_flat(name):
    flat = {"torch.cross_entropy", "liger", "fla"}
    assert PROFILES[name].layout is (Layout.FLAT if name in flat else Layout.BATCHED)
