"""Every profile means what its formula says: each has a second opinion here, written without the reference."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from inspect import Parameter, signature
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftproof.harness.candidates.arguments import bind, lay_back, values_for
from shiftproof.harness.cases.build import build_case
from shiftproof.harness.cases.space import recipes, space
from shiftproof.reference import profiles
from shiftproof.reference.batch import Batch
from shiftproof.reference.oracle import evaluate
from shiftproof.reference.pairing import build_pairing
from shiftproof.reference.profiles import PROFILES
from shiftproof.reference.spec import Compute, LossSpec, LossTerm, Reduction, Score, ShiftedBy, Tail

CANDIDATES = Path(__file__).parents[1] / "candidates"

# Second opinions: a batch in, a loss out, in the idioms of the systems themselves


def nll(logits, labels, ignore_index=-100, **score):
    """ℓ at every position, [B, S] or [B, S, K]; 0 where ignored."""
    return F.cross_entropy(logits.movedim(-1, 1), labels, ignore_index=ignore_index, reduction="none", **score)


def next_nll(batch):
    """ℓ(x_t, y_{t+1}), [B, S−1]; 0 where ignored."""
    return nll(batch.logits[:, :-1], batch.labels[:, 1:])


def count(labels):
    return (labels != -100).sum()


def mean(logits, labels, given=None):
    """Σ ℓ over the number of labels that are not −100, or over a count that is given."""
    return nll(logits, labels).sum() / (count(labels) if given is None else given)


def mean_or_zero(logits, labels):
    return mean(logits, labels, max(int(count(labels)), 1))


def causal(logits, labels, given=None):
    return mean(logits[:, :-1], labels[:, 1:], given)


def hf_causal_lm(batch):
    labels = F.pad(batch.labels[:, 1:], (0, 1), value=-100) if batch.shift_labels is None else batch.shift_labels
    return nll(batch.logits, labels).sum() / (batch.num_items_in_batch or count(labels))


def hf_prefix_lm(batch):
    text = batch.logits[:, batch.logits.shape[1] - batch.labels.shape[1] :]
    return nll(text[:, :-1], batch.labels[:, 1:]).sum() / (batch.num_items_in_batch or count(batch.labels[:, 1:]))


def hf_seq2seq(batch):
    return nll(batch.logits, batch.labels).sum() / (batch.num_items_in_batch or count(batch.labels))


def flat_mean(batch):
    return F.cross_entropy(batch.logits.flatten(0, 1), batch.labels.flatten())


def flat_mean_or_zero(batch):
    return mean_or_zero(batch.logits, batch.labels)


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


def trl_count(batch):
    tokens = count(batch.labels[:, 1:]) if batch.num_items_in_batch is None else batch.num_items_in_batch
    return torch.as_tensor(tokens).clamp(min=1)


def trl_nll(batch):
    return next_nll(batch).sum() / trl_count(batch)


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


# Scores other than cross-entropy


def valid(batch, ignore_index=-100):
    """The logits [N, V] and the labels [N] of the aligned places that count."""
    counts = batch.labels != ignore_index
    return batch.logits[counts], batch.labels[counts]


def torch_smoothing(batch):
    return F.cross_entropy(batch.logits.flatten(0, 1), batch.labels.flatten(), label_smoothing=0.1)


def torch_weight(batch):
    return F.cross_entropy(batch.logits.flatten(0, 1), batch.labels.flatten(), weight=batch.class_weights)


def hf_label_smoother(batch):
    log_p = batch.logits[:, :-1].log_softmax(-1)
    labels = batch.labels[:, 1:]
    ignored = labels == -100
    own = -log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(ignored, 0)
    spread = -log_p.sum(-1).masked_fill(ignored, 0)
    tokens = (~ignored).sum() if batch.num_items_in_batch is None else batch.num_items_in_batch
    return 0.9 * own.sum() / tokens + 0.1 * spread.sum() / (tokens * log_p.shape[-1])


def over_others(logits, labels):
    """fairseq's label_smoothed_nll_loss of each row [n], ε = 0.1."""
    log_p = logits.log_softmax(-1)
    own, each = -log_p.gather(-1, labels[..., None])[..., 0], 0.1 / (logits.shape[-1] - 1)
    return (1 - 0.1 - each) * own - each * log_p.sum(-1)


def fairseq(batch):
    return over_others(*valid(batch, ignore_index=1)).sum()


def megatron_smoothing(batch):
    mask = batch.loss_mask.double()
    return (over_others(batch.logits, batch.labels) * mask).sum() / mask.sum().clamp(min=1)


def nanochat(batch):
    capped = 15 * torch.tanh(batch.logits / 15)
    return F.cross_entropy(capped.flatten(0, 1), batch.labels.flatten(), ignore_index=-1)


def liger_smoothing(batch):
    return nll(batch.logits, batch.labels, label_smoothing=0.1).sum() / max(int(count(batch.labels)), 1)


def liger_z_loss(batch):
    logits, labels = valid(batch)
    total = F.cross_entropy(logits, labels, reduction="sum") + 0.01 * logits.logsumexp(-1).square().sum()
    return total / max(len(labels), 1)


def liger_softcap(batch):
    return mean_or_zero(30 * torch.tanh(batch.logits / 30), batch.labels)


def liger_weight(batch):
    logits, labels = valid(batch)
    weights = batch.class_weights[labels]
    return (F.cross_entropy(logits, labels, reduction="none") * weights).sum() / (weights.sum() if len(labels) else 1)


def fla_scaled(batch):
    return mean_or_zero(20 * torch.tanh(0.5 * batch.logits / 20), batch.labels)


def maxtext_z_loss(batch):
    mask = (batch.segment_ids != 0).double()
    losses = nll(batch.logits, batch.labels) + 0.01 * batch.logits.logsumexp(-1) ** 2
    return (losses * mask).sum() / (mask.sum() + 1e-8)


def trl_dft(batch):
    log_p = -next_nll(batch)
    return -(log_p * log_p.exp().detach()).sum() / trl_count(batch)


# Heads ahead: mtp_logits [B, S, D, V]


def left(tensor, steps, fill):
    """Moved left by ``steps``, ``fill`` coming in."""
    for _step in range(steps):
        tensor = torch.cat([tensor[:, 1:], torch.full_like(tensor[:, :1], fill)], 1)
    return tensor


def medusa(batch):
    loss = batch.mtp_logits.sum() * 0
    for head in range(batch.mtp_logits.shape[2]):
        labels = batch.labels[:, 2 + head :]
        loss = loss + mean(batch.mtp_logits[:, : labels.shape[1], head], labels)
    return loss


def masked_heads(batch):
    """Each head's Σ m ℓ and Σ m."""
    for head, logits in enumerate(batch.mtp_logits.unbind(2), start=1):
        mask = left(batch.loss_mask, head, 0)
        yield (nll(logits, left(batch.labels, head, 0)) * mask).sum(), mask.sum().double()


def megatron_mtp(batch):
    return 0.1 * torch.stack([total / items for total, items in masked_heads(batch)]).mean()


def megatron_mtp_packed(batch):
    lengths = batch.cu_seqlens.diff()
    documents = torch.arange(len(lengths)).repeat_interleave(lengths).reshape(batch.labels.shape)
    means = []
    after = torch.cat([documents, documents[:, -1:].expand(-1, batch.mtp_logits.shape[2] + 1)], 1)
    for head, logits in enumerate(batch.mtp_logits.unbind(2), start=1):
        of_token = after[:, head + 1 :][:, : documents.shape[1]]  # a label is the token after its column's
        mask = left(batch.loss_mask, head, 0) * (of_token == documents)
        means.append((nll(logits, left(batch.labels, head, 0)) * mask).sum() / mask.sum().double())
    return 0.1 * torch.stack(means).mean()


def maxtext_mtp(batch):
    totals, items = (torch.stack(each).sum() for each in zip(*masked_heads(batch), strict=True))
    return 0.1 * totals / (items + 1e-8)


def torchtitan_mtp(batch):
    totals = [
        nll(logits, left(batch.labels, head, -100)).sum()
        for head, logits in enumerate(batch.mtp_logits.unbind(2), start=1)
    ]
    main = nll(batch.logits, batch.labels).sum()
    return (main + 0.3 * torch.stack(totals).mean()) / batch.num_items_in_batch


# Codebooks and streams: [B, S, K, V] and [B, S, K]


def means_of_books(logits, labels):
    return torch.stack([mean(logits[:, :, book], labels[:, :, book]) for book in range(labels.shape[2])])


def higgs_hf(batch):
    given = batch.num_items_in_batch
    loss = causal(batch.logits, batch.labels, given)
    for book in range(batch.audio_labels.shape[2]):
        loss = loss + causal(batch.audio_logits[:, :, book], batch.audio_labels[:, :, book], given)
    return loss


def higgs_boson(batch):
    audio = mean_or_zero(batch.audio_logits[:, :-1], batch.audio_labels[:, 1:])
    return causal(batch.logits, batch.labels) + audio


def higgs_mean_nonempty(batch):
    logits, labels = batch.audio_logits[:, :-1], batch.audio_labels[:, 1:]
    filled = [book for book in range(labels.shape[2]) if bool((labels[:, :, book] != -100).any())]
    text = causal(batch.logits, batch.labels)
    if not filled:
        return text + 0 * batch.audio_logits.sum()
    return text + means_of_books(logits[:, :, filled], labels[:, :, filled]).mean()


def csm(batch):
    backbone = causal(batch.logits, batch.labels[:, :, 0], batch.num_items_in_batch)
    return backbone + mean(batch.depth_logits, batch.labels[:, :, 1:], batch.num_items_in_batch)


def qwen3_tts(batch):
    return causal(batch.logits, batch.labels[:, :, 0]) + 0.3 * mean(batch.depth_logits, batch.labels[:, :, 1:])


def without_sentinel(labels, logits):
    return labels.where(labels != logits.shape[-1], -100)


def moshi(batch):
    audio = mean(batch.audio_logits, without_sentinel(batch.audio_labels, batch.audio_logits))
    return causal(batch.logits, batch.labels, batch.num_items_in_batch) + audio


def moshi_finetune(batch):
    loss = 0
    for logits, labels, weights in (
        (batch.logits, batch.labels, batch.token_weights),
        (batch.audio_logits, batch.audio_labels, batch.codebook_weights),
    ):
        used = weights * (labels != -100)
        loss = loss + (nll(logits, labels) * used).sum() / used.sum()
    return loss


def musicgen(batch):
    logits = batch.logits[:, batch.logits.shape[1] - batch.labels.shape[1] :]
    return means_of_books(logits, without_sentinel(batch.labels, logits)).mean()


def parler(batch):
    trained = (batch.input_ids != batch.eos_token_id) & (batch.labels != batch.bos_token_id)
    losses = means_of_books(batch.logits, batch.labels.where(trained, -100))
    return (losses * batch.codebook_weights).sum() / batch.codebook_weights.sum()


def dia(batch):
    return mean(batch.logits, batch.labels, batch.num_items_in_batch)


def moss_ttsd(batch):
    losses = means_of_books(batch.logits[:, :-1], batch.labels[:, 1:])
    return (losses * batch.codebook_weights / batch.codebook_weights.sum()).sum()


SECOND_OPINIONS = {
    "hf.causal_lm": hf_causal_lm,
    "torch.cross_entropy.smoothing": torch_smoothing,
    "torch.cross_entropy.weight": torch_weight,
    "torch.linear_cross_entropy": flat_mean,
    "hf.label_smoother": hf_label_smoother,
    "fairseq": fairseq,
    "megatron.smoothing": megatron_smoothing,
    "nanochat": nanochat,
    "liger.smoothing": liger_smoothing,
    "liger.z_loss": liger_z_loss,
    "liger.softcap": liger_softcap,
    "liger.weight": liger_weight,
    "fla.scaled": fla_scaled,
    "maxtext.z_loss": maxtext_z_loss,
    "trl.dft": trl_dft,
    "cce": torchtune,
    "medusa": medusa,
    "megatron.mtp": megatron_mtp,
    "megatron.mtp.packed": megatron_mtp_packed,
    "maxtext.mtp": maxtext_mtp,
    "torchtitan.mtp": torchtitan_mtp,
    "higgs.hf": higgs_hf,
    "higgs.boson": higgs_boson,
    "higgs.mean_nonempty": higgs_mean_nonempty,
    "csm": csm,
    "qwen3_tts": qwen3_tts,
    "moshi": moshi,
    "moshi.finetune": moshi_finetune,
    "musicgen": musicgen,
    "parler": parler,
    "dia": dia,
    "moss_ttsd": moss_ttsd,
    "hf.seq2seq": hf_seq2seq,
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
BOOKS = {"musicgen", "parler", "dia", "moss_ttsd"}  # logits [B, L, K, V], labels [B, S, K]
DEPTH = {"csm", "qwen3_tts"}  # logits [B, S, V], depth_logits [B, S, K − 1, V], labels [B, S, K]
AUDIO = {"higgs.hf", "higgs.boson", "higgs.mean_nonempty", "moshi", "moshi.finetune"}  # text beside [A, T, K, V]
AHEAD = {"medusa", "megatron.mtp", "megatron.mtp.packed", "maxtext.mtp"}  # mtp_logits [B, S, D, V]
MAIN_AND_AHEAD = {"torchtitan.mtp"}  # and logits [B, S, V]
MEGATRON = {"megatron", "megatron.smoothing", "megatron.mtp", "megatron.mtp.packed"}
ALL_LABELS = {*MEGATRON, "maxtext", "maxtext.z_loss", "maxtext.mtp", "eagle3"}
IGNORE_INDEX = {"nanogpt": -1, "nanochat": -1, "fairseq": 1} | dict.fromkeys(ALL_LABELS)  # the others: -100
SENTINEL = {"moshi": "audio_labels", "musicgen": "labels"}  # labels where V is ignored too
EXTRA_LOGITS = {"hf.prefix_lm": 3, "higgs.text": 2, "musicgen": 3}  # at most
NEEDS_NUM_ITEMS = {"torchtitan", "torchtitan.mtp", "ms_swift"}


def logits_of(name):
    """The arguments that hold the logits of a profile."""
    if name in AHEAD:
        return {"mtp_logits"}
    seconds = {"audio_logits": AUDIO, "depth_logits": DEPTH, "mtp_logits": MAIN_AND_AHEAD}
    return {"logits", *(second for second, names in seconds.items() if name in names)}


def random_batch(name, seed, nothing):
    """A random batch with every argument there is; with ``nothing``, none of its labels counts."""
    rng, choose = torch.Generator().manual_seed(seed), random.Random(seed)
    rows, length, classes, books = (
        choose.randint(1, 3),
        choose.randint(1, 7),
        choose.randint(2, 9),
        choose.randint(1, 4),
    )
    books += name in DEPTH
    extra = choose.randint(0, EXTRA_LOGITS.get(name, 0))
    ignore_index = IGNORE_INDEX.get(name, -100)
    hollow = choose.choice([None, None, 0, books - 1])  # a codebook without any label

    def some(share, shape=(rows, length)):
        return torch.rand(shape, generator=rng) < (1 if nothing else share)

    def labels(shape=(rows, length), argument="labels"):
        drawn = torch.randint(classes, shape, generator=rng)
        if ignore_index is not None:
            ignored = some(0.3, shape)
            if len(shape) == 3 and hollow is not None:
                ignored[..., hollow] = True
            drawn = drawn.masked_fill(ignored, ignore_index)
            if SENTINEL.get(name) == argument:
                drawn = drawn.masked_fill(ignored & (torch.rand(shape, generator=rng) < 0.5), classes)
        return drawn

    def logits(*shape):
        return 3 * torch.randn(shape, dtype=torch.float64, generator=rng)

    def weights(*shape):
        return torch.rand(shape, dtype=torch.float64, generator=rng) + 0.1

    shape = (rows, length, books) if name in BOOKS | DEPTH else (rows, length)
    sound = (choose.randint(1, 2), choose.randint(1, 6), books)
    columns = torch.arange(length).expand(rows, length)
    starts = (torch.rand(rows, length, generator=rng) < 0.3) | (columns == 0)
    padding = columns >= (0 if nothing else choose.randint(1, length + 2))
    arrays = {
        "logits": logits(rows, length + extra, *([books] if name in BOOKS else []), classes),
        "audio_logits": logits(*sound, classes),
        "depth_logits": logits(rows, length, max(books - 1, 1), classes),
        "mtp_logits": logits(rows, length, books, classes),
    }
    return Batch(
        labels=labels(shape),
        shift_labels=labels(shape) if choose.random() < 0.5 else None,
        audio_labels=labels(sound, "audio_labels"),
        loss_mask=(~some(0.4)).long(),
        token_weights=weights(rows, length),
        position_ids=columns - columns.where(starts, 0).cummax(1).values,
        segment_ids=starts.cumsum(1).masked_fill(padding, 0),
        cu_seqlens=torch.tensor([*starts.flatten().nonzero().flatten().tolist(), rows * length]),
        input_ids=torch.randint(classes, shape, generator=rng),
        codebook_weights=weights(books),
        class_weights=weights(classes),
        num_items_in_batch=choose.randint(1, 50) if name in NEEDS_NUM_ITEMS or choose.random() < 0.5 else None,
        bos_token_id=choose.randrange(classes),
        eos_token_id=choose.randrange(classes),
        **{argument: value for argument, value in arrays.items() if argument in logits_of(name)},
    )


def assert_a_second_opinion_agrees(name, batch):
    oracle = evaluate(build_pairing(PROFILES[name], batch), batch)
    leaves = {argument: getattr(batch, argument).clone().requires_grad_() for argument in logits_of(name)}
    loss = SECOND_OPINIONS[name](replace(batch, **leaves)).sum()
    assert oracle.value == pytest.approx(loss.item(), rel=1e-13, abs=1e-13, nan_ok=True)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    assert oracle.gradients.keys() == leaves.keys()
    for argument, gradient in zip(leaves, gradients, strict=True):
        expected = torch.zeros_like(leaves[argument]) if gradient is None else gradient
        if math.isnan(oracle.value):  # of a group without pairs, of which autograd's NaN from 0/0 is no opinion
            expected = expected.nan_to_num(nan=0.0)
        torch.testing.assert_close(oracle.gradients[argument], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", PROFILES)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), nothing=st.booleans())
def test_a_second_opinion_agrees_on_value_and_gradient(name, seed, nothing):
    assert name in SECOND_OPINIONS, "write the loss down once more, without the reference, in SECOND_OPINIONS"
    assert_a_second_opinion_agrees(name, random_batch(name, seed, nothing))


@pytest.mark.parametrize("name", [name for name in PROFILES if PROFILES[name].terms[0].reduction is Reduction.NONE])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_second_opinion_agrees_on_each_token_and_where_it_stands(name, seed):
    batch = random_batch(name, seed, nothing=False)
    pairing = build_pairing(PROFILES[name], batch)
    losses = torch.zeros(pairing.output_shape, dtype=torch.float64)
    for pair, loss in zip(pairing.pairs, evaluate(pairing, batch).per_token, strict=True):
        losses[pair.logit] = pair.weight * loss
    torch.testing.assert_close(losses, SECOND_OPINIONS[name](batch), rtol=1e-12, atol=1e-13)


def test_no_second_opinion_is_left_over():
    kinds = BOOKS | DEPTH | AUDIO | AHEAD | MAIN_AND_AHEAD | NEEDS_NUM_ITEMS
    assert {*SECOND_OPINIONS, *IGNORE_INDEX, *SENTINEL, *EXTRA_LOGITS, *kinds} <= set(PROFILES)


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
    batch = random_batch(name, 0, nothing=True)
    assert evaluate(build_pairing(PROFILES[name], batch), batch).value == pytest.approx(value, nan_ok=True)


# How arrays are handed over; those that are not named lie as b, s, k, v
FLAT = {"logits": "(b s) v", "labels": "(b s)"}
LAYOUTS = {
    "torch.cross_entropy": FLAT,
    "torch.cross_entropy.smoothing": FLAT,
    "torch.cross_entropy.weight": FLAT,
    "torch.linear_cross_entropy": FLAT,
    "liger": FLAT,
    "liger.smoothing": FLAT,
    "liger.z_loss": FLAT,
    "liger.softcap": FLAT,
    "liger.weight": FLAT,
    "fla": FLAT,
    "fla.scaled": FLAT,
    "medusa": {"mtp_logits": "k b s v"},
    "megatron.mtp": {"mtp_logits": "k b s v"},
    "megatron.mtp.packed": {"mtp_logits": "k b s v"},
    "torchtitan.mtp": {"mtp_logits": "k b s v"},
    "maxtext.mtp": {"mtp_logits": "k b s v"},
    "higgs.boson": {"audio_logits": "(b s) k v", "audio_labels": "k (b s)"},
    "higgs.mean_nonempty": {"audio_logits": "(b s) k v", "audio_labels": "k (b s)"},
    "csm": {"depth_logits": "(b s) k v"},
    "qwen3_tts": {"depth_logits": "(b s) k v"},
    "moshi": {"audio_logits": "(b s) k v", "audio_labels": "(b s) k"},
    "moshi.finetune": {"audio_logits": "b k s v", "audio_labels": "b k s"},
    "musicgen": {"logits": "b k s v"},
    "parler": {"logits": "b k s v"},
    "dia": {"logits": "(b k) s v", "labels": "(b k) s"},
}


@pytest.mark.parametrize("name", PROFILES)
def test_arrays_are_laid_out_as_the_systems_have_them(name):
    assert dict(PROFILES[name].layouts) == LAYOUTS.get(name, {})


@pytest.mark.parametrize("name", PROFILES)
def test_labels_are_ignored_by_the_value_that_the_system_ignores(name):
    assert {term.ignore_index for term in PROFILES[name].terms} == {IGNORE_INDEX.get(name, -100)}


# What the terms are called, in reports; all others are the one term "text"
TERMS = {
    "medusa": ("heads",),
    "megatron.mtp": ("mtp",),
    "megatron.mtp.packed": ("mtp",),
    "torchtitan.mtp": ("main", "mtp"),
    "maxtext.mtp": ("mtp",),
    "csm": ("backbone", "depth"),
    "qwen3_tts": ("talker", "depth"),
    **dict.fromkeys(sorted(AUDIO), ("text", "audio")),
    **dict.fromkeys(sorted(BOOKS), ("audio",)),
}


@pytest.mark.parametrize("name", PROFILES)
def test_terms_are_called_after_what_they_train(name):
    assert tuple(term.name for term in PROFILES[name].terms) == TERMS.get(name, ("text",))


def test_what_a_count_is_at_least():
    clamps = {name: {term.clamp for term in spec.terms} - {None} for name, spec in PROFILES.items()}
    names = {"litgpt", "megatron", "megatron.smoothing", "trl.nll", "trl.dft", "fla", "fla.scaled"}
    assert {name: clamp for name, clamp in clamps.items() if clamp} == {name: {1.0} for name in names}


def test_a_sum_says_that_it_is_one_and_not_a_mean_over_one():
    reductions = {name: spec.terms[0].reduction for name, spec in PROFILES.items()}
    assert {name for name, reduction in reductions.items() if reduction is Reduction.SUM} == {"sum", "fairseq"}
    assert {name for name, reduction in reductions.items() if reduction is Reduction.NONE} == {
        "per_token",
        "per_token.trimmed",
    }


def test_labels_that_the_data_shifted():
    by_data = {name for name, spec in PROFILES.items() if {term.shifted_by for term in spec.terms} == {ShiftedBy.DATA}}
    families = ("torch.", "torchtitan", "megatron", "liger", "fla", "nano")
    others = {"preshifted", "higgs.text", "litgpt", "maxtext.mtp"}
    assert by_data == others | {name for name in PROFILES if name.startswith(families)}


def test_labels_that_meet_inputs_which_were_shifted():
    by_inputs = {name for name, spec in PROFILES.items() for term in spec.terms if term.shifted_by is ShiftedBy.INPUTS}
    codebooks = {"dia", "moshi", "moshi.finetune", "musicgen", "parler"}
    assert by_inputs == codebooks | {"fairseq", "hf.seq2seq", "maxtext", "maxtext.z_loss"}


def test_losses_that_cut_their_last_logits_off():
    trimmed = {name for name, spec in PROFILES.items() for term in spec.terms if term.tail is Tail.TRIM}
    assert trimmed == {"hf.label_smoother", "cce", "medusa", "per_token.trimmed"}


def test_losses_that_do_not_upcast_are_native():
    assert {name for name, spec in PROFILES.items() if spec.compute is Compute.NATIVE} == {
        "torch.cross_entropy",
        "torch.cross_entropy.smoothing",
        "torch.cross_entropy.weight",
        "torch.linear_cross_entropy",
        "litgpt",
        "hf.label_smoother",
        "medusa",
        "musicgen",
        "parler",
    }


# The systems whose losses were read, in the order of the field's conventions; each is a profile or two
READ = """
torch.cross_entropy torch.linear_cross_entropy hf.causal_lm hf.label_smoother higgs.hf higgs.boson higgs.mean_nonempty
csm moshi moshi.finetune musicgen parler dia qwen3_tts moss_ttsd nanogpt litgpt torchtune torchtitan torchtitan.mtp
megatron megatron.mtp megatron.mtp.packed maxtext maxtext.z_loss maxtext.mtp medusa liger liger.smoothing liger.z_loss
liger.softcap liger.weight cce fla fla.scaled trl.nll trl.dft ms_swift fairseq
"""


@pytest.mark.parametrize("name", READ.split())
def test_every_loss_that_was_read_is_a_profile(name):
    assert name in PROFILES


# The same candidates that the judge must pass, written by others: on laid-out batches, as a candidate is given them


def right_losses(file):
    """Every loss of a file of candidates, with the spec that it follows."""
    found = spec_from_file_location(Path(file).stem, CANDIDATES / file)
    module = module_from_spec(found)
    found.loader.exec_module(module)
    scores = getattr(module, "SCORES", {})
    for name, follows in module.RIGHT.items():
        if follows in scores:
            score, fields = scores[follows]
            spec = LossSpec(follows, (LossTerm(score=Score(**score), **fields),), "", "")
        else:
            spec = PROFILES[follows]
        yield pytest.param(getattr(module, name), spec, id=name)


@pytest.mark.parametrize(("right", "spec"), [*right_losses("right_audio.py"), *right_losses("right_scores.py")])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_right_candidate_agrees_on_what_it_is_given(right, spec, data):
    parameters = signature(right).parameters
    binding = bind(right.__name__, [(name, each.default is Parameter.empty) for name, each in parameters.items()], {})
    ours = {theirs: name for name, theirs in binding.names.items()}
    recipe = data.draw(recipes(space(spec, frozenset(binding.names))))
    case = build_case(spec, recipe)
    tensors, scalars = values_for(case, binding)
    leaves = {name: value.clone().requires_grad_() for name, value in tensors.items() if ours[name] in spec.logits}
    loss = right(**tensors | leaves, **scalars)
    assert loss.item() == pytest.approx(case.oracle.value, rel=2e-5, abs=1e-6, nan_ok=True)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        gradient = torch.zeros_like(leaf) if gradient is None else gradient
        found = lay_back(spec, ours[name], gradient, case.pairing.shapes[ours[name]]).double()
        expected = case.oracle.gradients[ours[name]]
        if not math.isfinite(case.oracle.value):  # of what is divided by 0, a gradient may be 0 or not finite
            comparable = found.isfinite() & expected.isfinite()
            found, expected = found[comparable], expected[comparable]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
