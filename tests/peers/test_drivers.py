"""Every driver against plain arithmetic on a batch made by hand: that it asks its package what its profile says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from shiftproof.reference.batch import Batch

from . import drivers_ahead, drivers_audio, drivers_text
from .packages import Missing
from .peer import PEERS, Cannot, Peer

pytestmark = pytest.mark.peers
MODULES = (drivers_ahead, drivers_audio, drivers_text)  # imported, they register

B, S, V, K, D, N = 2, 6, 7, 3, 2, 9


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ids(*shape: int, below: int = V) -> Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(len(shape)))


def text(kind: str) -> Batch:
    labels = ids(B, S)
    labels[0, 3] = labels[1, 5] = -100
    if kind == "ignored":
        labels[:] = -100
    return Batch(
        logits=numbers(B, S, V),
        labels=labels,
        class_weights=numbers(V).abs() + 0.5,
        loss_mask=numbers(B, S, seed=1) > -0.5,
        token_weights=numbers(B, S, seed=2).abs(),
    )


def minus_one(kind: str) -> Batch:
    batch = text(kind)
    return Batch(logits=batch.logits, labels=batch.tensor("labels").clamp(min=-1))


def with_image(kind: str) -> Batch:
    batch = text(kind)
    return Batch(logits=torch.cat([numbers(B, 3, V, seed=4), batch.tensor("logits")], 1), labels=batch.labels)


def with_items(kind: str) -> Batch:
    batch = text(kind)
    return Batch(logits=batch.logits, labels=batch.labels, token_weights=batch.token_weights, num_items_in_batch=N)


def all_ids(kind: str) -> Batch:
    batch = text(kind)
    assert batch.labels is not None
    return Batch(
        logits=batch.logits, labels=batch.labels.clamp(min=0), mtp_logits=numbers(B, S, D, V), loss_mask=batch.loss_mask
    )


def codes(kind: str) -> Batch:
    labels = ids(B, S, K)
    labels[0, 2, 2] = -100
    labels[1, 3] = -100
    if kind == "ignored":
        labels[:] = -100
    return Batch(
        logits=numbers(B, S, K, V),
        labels=labels,
        input_ids=ids(B, S, K),
        codebook_weights=torch.tensor([1.0, 2.0, 0.5]),
        bos_token_id=2,
        eos_token_id=1,
    )


def frames(kind: str) -> Batch:
    return Batch(logits=numbers(B, S, V), labels=codes(kind).labels, depth_logits=numbers(B, S, K - 1, V, seed=3))


def two_streams(kind: str) -> Batch:
    labels = codes(kind).labels
    return Batch(
        logits=numbers(B, S, V),
        labels=text(kind).labels,
        audio_logits=numbers(B, S, K, V, seed=3),
        audio_labels=labels,
    )


def ahead(kind: str) -> Batch:
    return Batch(
        logits=numbers(B, S, V), labels=text(kind).labels, mtp_logits=numbers(B, S, D, V), num_items_in_batch=N
    )


def padded(kind: str) -> Batch:
    labels = text(kind).labels
    assert labels is not None
    return Batch(logits=numbers(B, S, V), labels=labels.masked_fill(labels == -100, 0), pad_token_id=0)


def nll(logits: Tensor, labels: Tensor, batch: Batch, options: dict[str, Any]) -> Tensor:
    """One loss for each label, 0 where it is none."""
    z = options.get("logit_scale", 1.0) * logits
    if softcap := options.get("softcap"):
        z = softcap * (z / softcap).tanh()
    keep = (labels >= 0) & (labels < z.shape[-1])
    own = torch.nn.functional.one_hot(labels.masked_fill(~keep, 0), z.shape[-1]).double()
    epsilon = options.get("label_smoothing", 0.0)
    if options.get("smoothing_over") == "others":
        q = (1 - epsilon) * own + epsilon / (z.shape[-1] - 1) * (1 - own)
    else:
        q = (1 - epsilon) * own + epsilon / z.shape[-1]
    if options.get("class_weights"):
        assert batch.class_weights is not None
        q = q * batch.class_weights.double()
    lse = z.logsumexp(-1, keepdim=True)
    losses = (q * (lse - z)).sum(-1) + options.get("z_loss", 0.0) * lse.squeeze(-1) ** 2
    if options.get("dft"):
        losses = losses * (own * z.softmax(-1)).sum(-1).detach()
    return torch.where(keep, losses, 0.0)


def reduced(losses: Tensor, labels: Tensor, batch: Batch, options: dict[str, Any]) -> Tensor:
    keep = (labels >= 0) & (labels < V)
    if options.get("reduction") == "none":
        return losses
    if options.get("reduction") == "sum":
        return losses.sum()
    count = keep.sum().double()
    if options.get("denominator") == "class_weights":
        assert batch.class_weights is not None
        count = batch.class_weights.double()[labels[keep]].sum()
    if options.get("items") and batch.num_items_in_batch is not None:
        count = torch.tensor(float(batch.num_items_in_batch))
    if options.get("clamp"):
        count = count.clamp(min=options["clamp"])
    if options.get("empty") == "zero" and not count:
        return losses.sum() * 0
    return losses.sum() / (count + options.get("epsilon", 0.0))


def causal(logits: Tensor, labels: Tensor, batch: Batch, options: dict[str, Any]) -> Tensor:
    """k = shift: reduced over the pairs."""
    k = options.get("shift", 1)
    logits, labels = logits[:, : logits.shape[1] - k], labels[:, k:]
    losses = nll(logits, labels, batch, options)
    if options.get("mask"):
        assert batch.loss_mask is not None
        losses = losses * batch.loss_mask[:, k:]
        labels = labels.masked_fill(~batch.loss_mask[:, k:].bool(), -100)
    if options.get("weights"):
        assert batch.token_weights is not None
        losses = losses * batch.token_weights[:, k:]
    value = reduced(losses, labels, batch, options)
    return value


def text_loss(**defaults: Any) -> Callable[..., Tensor]:
    def value(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
        return causal(leaves["logits"], batch.tensor("labels"), batch, {**defaults, **options})

    return value


def books(combine: Callable[[list[Tensor], Batch], Tensor], **defaults: Any) -> Callable[..., Tensor]:
    def value(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
        labels = batch.tensor("labels")
        if defaults.get("parler"):
            assert batch.input_ids is not None
            labels = labels.masked_fill((batch.input_ids == batch.eos_token_id) | (labels == batch.bos_token_id), -100)
        merged = {"shift": 0, **defaults, **options}
        losses = [causal(leaves["logits"][:, :, k], labels[..., k], batch, merged) for k in range(labels.shape[-1])]
        return combine(losses, batch)

    return value


def mean(losses: list[Tensor], batch: Batch) -> Tensor:
    return sum(losses, torch.tensor(0.0)) / len(losses)


def weighted(losses: list[Tensor], batch: Batch) -> Tensor:
    assert batch.codebook_weights is not None
    weights = batch.codebook_weights.double()
    return (torch.stack(losses) * weights).sum() / weights.sum()


def flat(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    logits, labels = leaves["logits"], batch.tensor("labels")
    return causal(logits.flatten(1, 2), labels.flatten(1), batch, {"shift": 0})


def csm(depth_shift: int, factor: float) -> Callable[..., Tensor]:
    def value(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
        labels = batch.tensor("labels")
        heads, codebooks = leaves["depth_logits"], labels[..., 1:]
        depth = causal(heads.flatten(0, 1), codebooks.flatten(0, 1), batch, {"shift": depth_shift})
        return causal(leaves["logits"], labels[..., 0], batch, {}) + factor * depth

    return value


def higgs(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    audio, codes = leaves["audio_logits"], batch.tensor("audio_labels")
    losses = [causal(audio[:, :, k], codes[..., k], batch, {}) for k in range(codes.shape[-1])]
    return sum(losses, causal(leaves["logits"], batch.tensor("labels"), batch, {}))


def moshi(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    audio, codes = leaves["audio_logits"], batch.tensor("audio_labels")
    text = causal(leaves["logits"], batch.tensor("labels"), batch, {})
    return text + causal(audio.flatten(1, 2), codes.flatten(1), batch, {"shift": 0})


def megatron_mtp(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    heads, labels = leaves["mtp_logits"].unbind(2), batch.tensor("labels")
    losses = [causal(head, labels, batch, {"shift": d + 1, "mask": True}) for d, head in enumerate(heads)]
    return 0.1 * mean(losses, batch)


def torchtitan_mtp(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    heads, labels = leaves["mtp_logits"].unbind(2), batch.tensor("labels")
    sums = [causal(head, labels, batch, {"shift": d + 1, "reduction": "sum"}) for d, head in enumerate(heads)]
    main = causal(leaves["logits"], labels, batch, {"shift": 0, "reduction": "sum"})
    return (main + 0.3 * mean(sums, batch)) / N


def medusa(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    heads, labels = leaves["mtp_logits"].unbind(2), batch.tensor("labels")
    return sum((causal(head, labels, batch, {"shift": d + 2}) for d, head in enumerate(heads)), torch.tensor(0.0))


def git(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    return causal(leaves["logits"][:, 3:], batch.tensor("labels"), batch, {})


def eagle3(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    labels = batch.tensor("labels")
    return causal(leaves["logits"], labels, batch, {"mask": True, "reduction": "sum"}) / labels.numel()


def ms_swift(batch: Batch, leaves: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    return causal(leaves["logits"], batch.tensor("labels"), batch, {"weights": True, "reduction": "sum"}) / N


PLAIN: dict[str, tuple[Callable[[str], Batch], Callable[..., Tensor]]] = {
    "torch.cross_entropy": (text, text_loss(shift=0)),
    "torch.linear_cross_entropy": (text, text_loss(shift=0)),
    "nanogpt": (minus_one, text_loss(shift=0)),
    "hf.prefix_lm": (with_image, git),
    "preshifted": (text, text_loss(shift=0)),
    "hf.seq2seq": (text, text_loss(shift=0)),
    "hf.causal_lm": (with_items, text_loss(items=True)),
    "hf.label_smoother": (text, text_loss()),
    "liger": (text, text_loss(shift=0, empty="zero")),
    "cce": (text, text_loss()),
    "per_token": (text, text_loss(reduction="none")),
    "per_token.trimmed": (text, text_loss(reduction="none")),
    "trl.nll": (text, text_loss(clamp=1.0)),
    "trl.dft": (text, text_loss(clamp=1.0, dft=True)),
    "litgpt": (text, text_loss(shift=0, clamp=1.0)),
    "fla": (text, text_loss(shift=0, clamp=1.0)),
    "torchtune": (text, text_loss()),
    "torchtitan": (with_items, text_loss(shift=0, items=True)),
    "masked": (text, text_loss(mask=True)),
    "sum": (text, text_loss(reduction="sum")),
    "fairseq": (padded, text_loss(shift=0, reduction="sum", smoothing_over="others")),
    "megatron": (all_ids, text_loss(shift=0, mask=True)),
    "megatron.smoothing": (all_ids, text_loss(shift=0, mask=True)),
    "ms_swift": (with_items, ms_swift),
    "weighted.count": (text, text_loss(weights=True)),
    "eagle3": (all_ids, eagle3),
    "higgs.hf": (two_streams, higgs),
    "moshi": (two_streams, moshi),
    "csm": (frames, csm(0, 1.0)),
    "qwen3_tts": (frames, csm(0, 0.3)),
    "musicgen": (codes, books(mean)),
    "dia": (codes, flat),
    "parler": (codes, books(weighted, parler=True)),
    "megatron.mtp": (all_ids, megatron_mtp),
    "torchtitan.mtp": (ahead, torchtitan_mtp),
    "medusa": (ahead, medusa),
}


@pytest.mark.parametrize("kind", ["some", "ignored"])
@pytest.mark.parametrize("one", PEERS, ids=lambda one: f"{one.profile}-{one.name}")
def test_a_driver_asks_what_its_profile_says(one: Peer, kind: str) -> None:
    make, plain = PLAIN[one.profile]
    batch = make(kind)
    if one.profile == "fairseq" and kind == "some":
        assert batch.labels is not None
        batch.labels[0, 0] = 3
    if one.within is not None:
        batch = one.within(batch)
    narrow = "float32" not in one.dtypes
    if narrow:
        batch = replace(batch, logits=batch.tensor("logits").half())
    try:
        found = one.ask(batch)
    except (Cannot, Missing) as reason:
        pytest.skip(str(reason))
    if one.differs:  # Qwen's, which shifts along the codebooks twice, see its driver
        plain = csm(1, 0.3)
    names = [name for name in ("logits", "audio_logits", "depth_logits", "mtp_logits") if name in found.gradients]
    leaves = {name: batch.tensor(name).double().requires_grad_() for name in names}
    options = dict(one.options)
    if one.profile == "fairseq":
        batch = Batch(logits=batch.logits, labels=batch.tensor("labels").masked_fill(batch.tensor("labels") == 0, -100))
    value = plain(batch, leaves, options)
    if one.profile == "per_token" and options.get("shift") != 0:  # where the logits lie, and 0 in the last column
        value = torch.nn.functional.pad(value, (0, 1))
    torch.testing.assert_close(found.value.double(), value.detach(), rtol=2e-6, atol=2e-6, equal_nan=True)
    gradients = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        expected = torch.zeros_like(leaves[name]) if gradient is None else gradient
        if math.isnan(value.sum()):  # what the gradient of NaN is, no profile says
            continue
        torch.testing.assert_close(found.gradients[name].double(), expected, rtol=1e-3 if narrow else 2e-5, atol=2e-7)
